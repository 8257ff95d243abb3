#include "management/declarations/declaration_store.h"

#include <unistd.h>

#include <cerrno>
#include <mutex>

#include "base/file.h"
#include "localapi/json_reader.h"

namespace wayleave::management {
namespace {

using localapi::ObjectReader;
using nlohmann::json;

constexpr size_t kMostBytes = 64 * 1024 * 1024;

struct Content {
  DeclaredSet set;
  std::map<std::string, std::string> reported;
};

std::string written(const Content& content) {
  json declarations = json::array();
  for (const StoredDeclaration& declaration : content.set.declarations)
    declarations.push_back({{"kind", declaration.kind},
                            {"identifier", declaration.identifier},
                            {"serverToken", declaration.serverToken},
                            {"document", toBase64(declaration.document)}});
  return localapi::dump({{"version", 1}, {"token", content.set.token}, {"declarations", declarations}, {"reported", content.reported}});
}

Result<Content> parsed(ByteView bytes) {
  const Result<json> document = localapi::parseJson(asText(bytes));
  if (!document) return propagate(document.error());
  Content out;
  int64_t version = 0;
  ObjectReader reader(*document, "declarations");
  reader.integer("version", version, 0, 1000);
  reader.text("token", out.set.token);
  reader.objects("declarations", [&](ObjectReader& entry) {
    StoredDeclaration& declaration = out.set.declarations.emplace_back();
    entry.text("kind", declaration.kind);
    entry.text("identifier", declaration.identifier);
    entry.text("serverToken", declaration.serverToken);
    entry.bytes("document", declaration.document);
  });
  if (Status read = reader.finish(ObjectReader::Unknown::Ignore); !read) return propagate(read.error());
  if (version != 1) return fail(Reason::BadInput, "it was written by another version", "install that version again, or remove the file");
  if (const auto reported = document->find("reported"); reported != document->end() && reported->is_object())
    for (const auto& [item, value] : reported->items())
      if (value.is_string()) out.reported.emplace(item, value.get<std::string>());
  return out;
}

class FileStore final : public DeclarationStore {
 public:
  FileStore(std::string path, Content content) : path_(std::move(path)), content_(std::move(content)) {}

  Result<DeclaredSet> load() override {
    const std::lock_guard lock(mutex_);
    return content_.set;
  }
  Status replace(const DeclaredSet& set) override {
    return change([&](Content& content) { content.set = set; });
  }
  Result<std::map<std::string, std::string>> reported() override {
    const std::lock_guard lock(mutex_);
    return content_.reported;
  }
  Status setReported(const std::map<std::string, std::string>& items) override {
    return change([&](Content& content) { content.reported = items; });
  }

 private:
  template <typename Edit>
  Status change(const Edit& edit) {
    const std::lock_guard lock(mutex_);
    Content next = content_;
    edit(next);
    const bool empty = next.set.token.empty() && next.set.declarations.empty() && next.reported.empty();
    if (empty) {  // leaving a server leaves no file
      if (unlink(path_.c_str()) != 0 && errno != ENOENT) return std::unexpected(errnoError(errno, "remove " + path_));
    } else if (Status kept = writeFileAtomically(path_, asBytes(written(next))); !kept) {
      return kept;
    }
    content_ = std::move(next);
    return {};
  }

  const std::string path_;
  std::mutex mutex_;
  Content content_;
};

}  // namespace

Result<std::unique_ptr<DeclarationStore>> DeclarationStore::open(const std::string& path) {
  const Result<Bytes> bytes = readFile(path, kMostBytes);
  if (!bytes && bytes.error().reason == Reason::NotFound) return std::make_unique<FileStore>(path, Content{});
  if (!bytes) return propagate(bytes.error());
  Result<Content> content = parsed(*bytes);
  if (!content) return withContext(content.error(), path);
  return std::make_unique<FileStore>(path, std::move(*content));
}

}  // namespace wayleave::management
