#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "authoring/lint_internal.h"
#include "base/file.h"

namespace wayleave::authoring {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostBytes = 16 * 1024 * 1024;  // of one file, as the importer
constexpr size_t kMostFiles = 10'000;            // below one folder: beyond that, the wrong folder was named

// A broken one, a declaration, or what belongs to declarations; not a package.json that lies beside them.
bool belongsToManagement(const LintInput& input) {
  if (kindOf(input) != FileKind::Declaration) return true;
  const nlohmann::json document = nlohmann::json::parse(asText(input.bytes), nullptr, false);
  if (document.is_discarded()) return true;  // must be told, not passed over
  if (!document.is_object() || !document.contains("Type") || !document["Type"].is_string()) return false;
  return document["Type"].get_ref<const std::string&>().starts_with("com.apple.");
}

Result<std::vector<std::string>> filesBelow(const std::string& folder) {
  std::vector<std::string> out;
  std::error_code error;
  fs::recursive_directory_iterator entries(folder, error);
  for (; !error && entries != fs::recursive_directory_iterator(); entries.increment(error)) {
    std::error_code ignored;
    const std::string extension = entries->path().extension().string();
    if ((extension != ".mobileconfig" && extension != ".json") || !entries->is_regular_file(ignored)) continue;
    out.push_back(entries->path().string());
    if (out.size() > kMostFiles) return fail(Reason::BadInput, fmt::format("{} holds more than {} profiles and JSON files", folder, kMostFiles));
  }
  if (error) return fail(Reason::Io, fmt::format("read folder {}: {}", folder, error.message()));
  std::ranges::sort(out);
  return out;
}

}  // namespace

CollectedFiles collectFiles(const std::vector<std::string>& paths) {
  CollectedFiles out;
  const auto take = [&out](const std::string& path, bool named) {
    if (std::ranges::find(out.inputs, path, &LintInput::name) != out.inputs.end()) return;
    Result<Bytes> bytes = path == "-" ? readAll(STDIN_FILENO, kMostBytes) : readFile(path, kMostBytes);
    if (!bytes) return out.unreadable.push_back(bytes.error());
    LintInput input{path == "-" ? "<stdin>" : path, std::move(*bytes)};
    if (named || !looksLikeJson(input.bytes) || belongsToManagement(input)) out.inputs.push_back(std::move(input));
  };
  for (const std::string& path : paths) {
    std::error_code ignored;
    if (path == "-" || !fs::is_directory(path, ignored)) {
      take(path, true);
      continue;
    }
    const Result<std::vector<std::string>> files = filesBelow(path);
    if (!files) {
      out.unreadable.push_back(files.error());
      continue;
    }
    if (files->empty()) out.unreadable.push_back({Reason::NotFound, fmt::format("{} holds no *.mobileconfig and no *.json file", path), "name the files themselves", 0});
    for (const std::string& file : *files) take(file, false);
  }
  return out;
}

}  // namespace wayleave::authoring
