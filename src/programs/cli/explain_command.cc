#include "explain_command.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "base/file.h"
#include "base/osstatus.h"
#include "explain_profile.h"
#include "keychain/explain/render.h"
#include "keychain/reference_text.h"

namespace wayleave::cli {
namespace {

using namespace keychain;
using namespace keychain::explain;

constexpr int kExplained = 0, kUsage = 2, kNothingFound = 3, kDenied = 4, kRefused = 6;
constexpr size_t kMaxFile = KychFile::kMaxBytes;
constexpr size_t kMaxPassword = 4096;

struct Options {
  std::vector<std::string> words;  // people paste hex with spaces and forget the quotes
  std::string input;
  bool json = false, lenient = false, listContexts = false;
  std::vector<std::string> query, contexts;
  std::string api = "SecItemCopyMatching";
  std::string keychain, passwordFile, systemKeyFile, exportP12, exportPasswordFile;
};

// What the input turned out to be.
struct Input {
  std::optional<OSStatus> status;
  Bytes bytes;          // of a reference, or of a file
  bool isFile = false;  // the bytes are a file's whole contents
};

bool colourful() {
  const char* plain = std::getenv("NO_COLOR");
  return ::isatty(STDOUT_FILENO) == 1 && (plain == nullptr || *plain == '\0');
}

Style terminalStyle() {
  Style style{colourful(), 100};
  winsize size{};
  constexpr size_t kNarrowest = 60, kWidest = 140;  // longer lines are hard to read
  if (style.colour && ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
    style.width = std::clamp<size_t>(size.ws_col, kNarrowest, kWidest);
  return style;
}

bool isRegularFile(const std::string& path) {
  struct stat info{};
  return ::stat(path.c_str(), &info) == 0 && !S_ISDIR(info.st_mode);
}

// Passwords come from files, never from the command line; one trailing newline is an editor's.
Result<Secret> readPassword(const std::string& path) {
  Result<Bytes> bytes = path == "-" ? readAll(STDIN_FILENO, kMaxPassword) : readFile(path, kMaxPassword);
  if (!bytes) return withContext(bytes.error(), "password file");
  Secret secret(std::move(*bytes));
  if (!secret.empty() && secret.view().back() == '\n') secret.mutableBytes().pop_back();
  return secret;
}

class Explain {
 public:
  Explain(const Options& options, Style style) : options_(options), style_(style) {}

  int run() {
    if (options_.listContexts) return listContexts();
    for (const std::string& id : options_.contexts) {
      const dispatch::Caller* caller = dispatch::findContext(id);
      if (caller == nullptr)
        return refuse(Error{Reason::BadInput, fmt::format("no context `{}`", id), "--list-contexts names them", 0},
                      kUsage);
      callers_.push_back(caller);
    }
    Input input;
    if (!options_.input.empty()) {
      Result<Input> read = readInput();
      if (!read) return refuse(read.error());
      input = std::move(*read);
    }
    if (!options_.query.empty()) return query(input);
    if (options_.input.empty())
      return refuse(Error{Reason::BadInput, "nothing to explain", "give a reference, an OSStatus or a file", 0},
                    kUsage);
    if (input.status) return status(*input.status);
    if (input.isFile) return file(input.bytes);
    return reference(input.bytes);
  }

 private:
  int refuse(const Error& error, int code = kRefused) {
    if (options_.json) {
      nlohmann::ordered_json body = {{"error",
                                      {{"code", apiCode(error)},
                                       {"reason", text(error.reason)},
                                       {"message", printable(error.message)},
                                       {"hint", error.hint}}}};
      print(body);
    } else {
      fmt::print(stderr, "wayleave explain: {}\n", printable(describe(error)));
    }
    return code;
  }

  void print(const nlohmann::ordered_json& json) {
    fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  }
  template <typename Explanation>
  void show(const Explanation& explanation) {
    if (options_.json)
      print(toJson(explanation));
    else
      fmt::print("{}", toText(explanation, style_));
  }

  int listContexts() {
    nlohmann::ordered_json all = nlohmann::ordered_json::array();
    for (const dispatch::Caller& caller : dispatch::contexts()) {
      if (options_.json)
        all.push_back({{"id", caller.id},
                       {"title", caller.title},
                       {"assumption", caller.note},
                       {"certainty", dispatch::mark(caller.certainty)}});
      else
        fmt::print("{:<18} {}; {}\n", caller.id, caller.title, caller.note);
    }
    if (options_.json) print(all);
    return kExplained;
  }

  Result<Input> readInput() const {
    if (const auto status = parseStatus(options_.input)) return Input{status, {}, false};
    if (options_.input == "-" || isRegularFile(options_.input)) {
      Result<Bytes> bytes =
          options_.input == "-" ? readAll(STDIN_FILENO, kMaxFile) : readFile(options_.input, kMaxFile);
      if (!bytes) return propagate(bytes.error());
      return Input{{}, std::move(*bytes), true};
    }
    Result<Bytes> bytes = referenceFromText(options_.input);
    if (!bytes) {
      Error error = bytes.error();
      if (error.hint.empty()) error.hint = "it is no OSStatus and no file either";
      return propagate(std::move(error));
    }
    return Input{{}, std::move(*bytes), false};
  }

  int status(OSStatus status) {
    const auto explanation = explainStatus(status);
    if (!explanation)
      return refuse(Error{Reason::NotFound, fmt::format("{} is no status of the keychain", status), {}, 0},
                    kNothingFound);
    show(*explanation);
    return kExplained;
  }

  int file(const Bytes& bytes) {
    if (KychFile::looksLike(bytes) || KeychainDatabase::looksLike(bytes))
      return keychain(bytes, nullptr, options_.input);
    if (decodeReference(bytes, {.lenient = options_.lenient})) return reference(bytes);
    if (looksManaged(bytes)) return profile(explainManaged(options_.input, bytes, style_));
    const Result<Bytes> pasted = referenceFromText(asText(bytes));
    if (!pasted)
      return refuse(Error{Reason::BadInput,
                          options_.input + ": neither a keychain, a profile, a declaration nor a reference",
                          pasted.error().message, 0});
    return reference(*pasted);
  }

  int profile(const ProfileExplanation& explanation) {
    if (options_.json)
      print(explanation.json);
    else
      fmt::print("{}", explanation.text);
    return explanation.mistaken ? kRefused : kExplained;
  }

  int reference(const Bytes& bytes) {
    Result<ReferenceExplanation> explanation = explainReference(bytes, options_.lenient, callers_);
    if (!explanation) {
      Error error = explanation.error();
      if (!options_.lenient) error.hint = "--lenient follows Apple's parser and reports what it tolerates";
      return refuse(error);
    }
    if (!options_.keychain.empty()) {
      const Result<Bytes> file = readFile(options_.keychain, kMaxFile);
      if (!file) return refuse(file.error());
      return keychain(*file, &explanation->decoded.reference, options_.keychain);
    }
    show(*explanation);
    return kExplained;
  }

  int query(const Input& input) {
    Bytes bytes = input.bytes;
    if (input.isFile && !decodeReference(bytes, {.lenient = true}))
      if (Result<Bytes> pasted = referenceFromText(asText(bytes))) bytes = std::move(*pasted);
    const std::optional<dispatch::Api> api = dispatch::parseApi(options_.api);
    if (!api) return refuse(Error{Reason::BadInput, fmt::format("no call `{}`", options_.api), {}, 0}, kUsage);
    Result<dispatch::Query> parsed = dispatch::parseQuery(options_.query, bytes);
    if (!parsed) return refuse(parsed.error(), kUsage);
    // The reference on the command line is part of the query unless the query already says where it goes.
    const bool placed = parsed->has("kSecMatchItemList") || parsed->has("kSecValueRef") || parsed->missing;
    if (!bytes.empty() && !placed && parsed->reference() == nullptr)
      parsed = parsed->with("kSecValuePersistentRef", bytes);
    const QueryExplanation explanation = explainQuery(*api, *parsed, callers_);
    show(explanation);
    // Over several contexts the question is where it works, so one that does is an answer.
    const bool works = std::ranges::any_of(explanation.rows, [](const MatrixRow& row) {
      return row.cells.front().inUser.status == 0 || row.cells.front().inSystem.status == 0;
    });
    return works ? kExplained : kNothingFound;
  }

  int keychain(const Bytes& bytes, const Reference* reference, const std::string& path) {
    if (KeychainDatabase::looksLike(bytes)) return database(bytes, reference, path);
    Result<FileKeychain> opened = FileKeychain::open(bytes);
    if (!opened) return refuse(opened.error());
    if (Status s = unlock(*opened); !s) return refuse(s.error());
    const KeychainExplanation explanation = explainKeychain(*opened, reference);
    if (!options_.exportP12.empty()) {
      if (Status s = exportIdentity(*opened, reference); !s)
        return refuse(s.error(), s.error().reason == Reason::BadInput ? kUsage : kDenied);
    }
    show(explanation);
    return explanation.unresolved ? kNothingFound : kExplained;
  }

  int database(const Bytes& bytes, const Reference* reference, const std::string& path) {
    if (const Result<Bytes> wal = readFile(path + "-wal", kMaxFile); wal && !wal->empty())
      fmt::print(stderr,
                 "wayleave explain: {}-wal exists: rows in it are not seen; let sqlite3 checkpoint the copy first\n",
                 printable(path));
    const Result<KeychainDatabase> opened = KeychainDatabase::open(bytes);
    if (!opened) return refuse(opened.error());
    const Result<KeychainExplanation> explanation = explainKeychain(*opened, reference);
    if (!explanation) return refuse(explanation.error());
    show(*explanation);
    return explanation->unresolved ? kNothingFound : kExplained;
  }

  Status unlock(FileKeychain& keychain) const {
    if (!options_.systemKeyFile.empty()) {
      Result<Bytes> bytes = readFile(options_.systemKeyFile, kMaxPassword);
      if (!bytes) return propagate(bytes.error());
      const Secret key(std::move(*bytes));
      return keychain.unlockWithSystemKey(key.view());
    }
    if (options_.passwordFile.empty()) return {};
    const Result<Secret> password = readPassword(options_.passwordFile);
    if (!password) return propagate(password.error());
    return keychain.unlockWithPassword(password->viewText());
  }

  Status exportIdentity(const FileKeychain& keychain, const Reference* reference) const {
    const auto* file = reference != nullptr ? std::get_if<FileReference>(reference) : nullptr;
    if (file == nullptr) return fail(Reason::BadInput, "--export-p12 needs an ssui reference and --keychain");
    if (options_.exportPasswordFile.empty()) return fail(Reason::BadInput, "--export-p12 needs --export-password-file");
    const Result<Secret> password = readPassword(options_.exportPasswordFile);
    if (!password) return propagate(password.error());
    const Result<KeychainItem> item = keychain.resolve(*file);
    if (!item) return propagate(item.error());
    const Result<Secret> p12 = keychain.exportPkcs12(*item, password->viewText());
    if (!p12) return propagate(p12.error());
    return writeFileAtomically(options_.exportP12, p12->view(), 0600);
  }

  const Options& options_;
  Style style_;
  std::vector<const dispatch::Caller*> callers_;
};

constexpr const char* kFooter =
    "\nINPUT is hex as people paste it (spaces, <…>, 0x, NSData's description), base64, an OSStatus (-25291,\n"
    "errSecNotAvailable), or a file: a reference, a keychain (kych, keychain-2.db), a profile, a declaration.\n"
    "\nQuery terms: ref=@ (the INPUT), class=identity, group=…, flag=true, search-list=…, or any constant.\n"
    "\nExamples:\n"
    "  # what a status of the Security framework means\n"
    "  wayleave explain -25308\n"
    "  # would a daemon find the identity behind this reference?\n"
    "  wayleave explain 63657274… --query class=identity --context daemon\n"
    "\nExit status: 0 explained; 2 usage; 3 the predicted lookup fails in every context shown, or the reference names\n"
    "nothing in the keychain; 4 an export was refused; 6 input refused (a profile or declaration with mistakes too).\n";

}  // namespace

void addExplainCommand(CLI::App& app, int& exitCode) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("explain", "what a reference, an OSStatus, a keychain or a profile means");
  command->footer(kFooter);
  command->add_option("INPUT", options->words, "reference, OSStatus or file; - reads standard input")->type_name("");
  command->add_flag("--json", options->json, "print JSON");
  command->add_flag("--lenient", options->lenient, "accept what Apple's parser accepts, with warnings");
  command->add_option("--query", options->query, "predict one lookup with these terms")
      ->type_name("KEY=VALUE")
      ->expected(1, -1);
  command->add_option("--api", options->api, "the call to predict")->capture_default_str();
  command->add_option("--context", options->contexts, "predict for this context only (repeatable)")
      ->type_name("ID")
      ->allow_extra_args(false);
  command->add_flag("--list-contexts", options->listContexts, "name the contexts");
  command->add_option("--keychain", options->keychain, "resolve the reference in this copy of a keychain")
      ->type_name("FILE");
  command->add_option("--password-file", options->passwordFile, "unlock the keychain with the password in this file")
      ->type_name("FILE");
  command->add_option("--system-key", options->systemKeyFile, "unlock it with this copy of /var/db/SystemKey")
      ->type_name("FILE");
  command->add_option("--export-p12", options->exportP12, "write the identity as PKCS#12 to this file, mode 0600")
      ->type_name("FILE");
  command->add_option("--export-password-file", options->exportPasswordFile, "password of the exported file")
      ->type_name("FILE");
  command->callback([options, &exitCode, &app] {
    const CLI::Option* json = app.get_option_no_throw("--json");
    if (json != nullptr && json->count() > 0) options->json = true;
    for (const std::string& word : options->words) options->input += (options->input.empty() ? "" : " ") + word;
    exitCode = Explain(*options, terminalStyle()).run();
  });
}

}  // namespace wayleave::cli
