#include "management/profile_secrets.h"

#include <fmt/format.h>
#include <openssl/crypto.h>

namespace wayleave::management {
namespace {

bool isUpper(char c) { return c >= 'A' && c <= 'Z'; }
bool isWord(char c) { return isUpper(c) || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'; }

size_t wordEnd(std::string_view text, size_t at) {
  while (at < text.size() && isWord(text[at])) ++at;
  return at;
}

void removeSecretsIn(plist::Value& value) {
  if (plist::Dictionary* dictionary = value.dictionary()) return removeSecrets(*dictionary);
  if (plist::Array* items = value.array())
    for (plist::Value& item : *items) removeSecretsIn(item);
}

void overwrite(plist::Value& value) {
  if (std::string* text = value.string()) {
    OPENSSL_cleanse(text->data(), text->size());
    *text = "(removed)";
  } else if (Bytes* bytes = value.data()) {
    OPENSSL_cleanse(bytes->data(), bytes->size());
    bytes->clear();
  }
}

void reportIn(const plist::Value& value, const std::string& path, bool secret, Report& report) {
  if (const std::string* text = value.string()) {
    const auto variable = templateVariable(*text);
    if (!variable) return;
    report.warn(
        path,
        secret ? "seems to hold a template variable that was not filled in"
               : fmt::format("holds {}, which looks like a template variable that was not filled in", shown(*variable)),
        "the management server fills these in; a file installed by hand must have the value");
  } else if (const plist::Array* items = value.array()) {
    for (size_t i = 0; i < items->size(); ++i) reportIn((*items)[i], plist::childPath(path, i), secret, report);
  } else if (const plist::Dictionary* dictionary = value.dictionary()) {
    reportTemplateVariables(*dictionary, path, report);
  }
}

}  // namespace

bool isSecretKey(std::string_view key) {
  return key.ends_with("Password") || key == "Challenge" || key == "SharedSecret" || key == "HMACKey";
}

void removeSecrets(plist::Dictionary& dictionary) {
  for (size_t i = 0; i < dictionary.size(); ++i) {
    plist::Value& value = dictionary.valueAt(i);
    if (isSecretKey(dictionary.entries()[i].key)) overwrite(value);
    removeSecretsIn(value);
  }
}

std::optional<std::string> templateVariable(std::string_view text) {
  constexpr size_t kShortest = 3;  // "$1" and "%C3%" are something else
  for (size_t i = 0; i < text.size(); ++i) {
    const std::string_view rest = text.substr(i);
    if (rest.starts_with("{{")) {
      if (const size_t end = rest.find("}}"); end != std::string_view::npos)
        return std::string(rest.substr(0, end + 2));
    } else if (rest.starts_with("${")) {
      if (const size_t end = rest.find('}'); end != std::string_view::npos) return std::string(rest.substr(0, end + 1));
    } else if (rest[0] == '$' && rest.size() > 1 && isUpper(rest[1])) {
      if (const size_t end = wordEnd(rest, 1); end > kShortest) return std::string(rest.substr(0, end));
    } else if (rest[0] == '%' && rest.size() > 1 && isWord(rest[1]) && (rest[1] < '0' || rest[1] > '9')) {
      const size_t end = wordEnd(rest, 1);
      if (end > kShortest && end < rest.size() && rest[end] == '%') return std::string(rest.substr(0, end + 1));
    }
  }
  constexpr std::string_view kHere = "-HERE";
  if (text.ends_with(kHere)) {
    size_t start = text.size() - kHere.size();
    while (start > 0 && (isUpper(text[start - 1]) || text[start - 1] == '-')) --start;
    return std::string(text.substr(start));
  }
  return std::nullopt;
}

void reportTemplateVariables(const plist::Dictionary& dictionary, const std::string& path, Report& report) {
  for (const plist::Entry& entry : dictionary.entries())
    reportIn(entry.value, plist::childPath(path, shown(entry.key)), isSecretKey(entry.key), report);
}

}  // namespace wayleave::management
