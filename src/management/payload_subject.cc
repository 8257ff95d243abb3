// Subject and SubjectAltName as ACME and SCEP payloads spell them.

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "management/payload_reader.h"

namespace wayleave::management {
namespace {

constexpr std::array<std::string_view, 6> kShortcuts{"C", "L", "ST", "O", "OU", "CN"};
// Bounds for what goes into a certification request; RFC 5280 allows 64 characters for most attributes.
constexpr size_t kMostRdns = 32;
constexpr size_t kMostPairs = 16;
constexpr size_t kLongestValue = 1024;
constexpr size_t kMostNames = 64;

bool readPair(const plist::Value& value, const std::string& path, Report& report, Rdn& rdn) {
  const plist::Array* pair = value.array();
  if (pair == nullptr || pair->size() != 2 || (*pair)[0].string() == nullptr || (*pair)[1].string() == nullptr) {
    const std::string given =
        pair == nullptr ? std::string(value.typeName()) : fmt::format("array of {}", pair->size());
    report.error(path, fmt::format("is {}, must be an array of exactly two strings, name and value", given),
                 pair == nullptr ? "Subject nests three arrays: RDNs, pairs, name and value" : "");
    return false;
  }
  const std::string& name = *(*pair)[0].string();
  const std::string& text = *(*pair)[1].string();
  if (std::ranges::find(kShortcuts, name) == kShortcuts.end() && !isDottedOid(name)) {
    report.error(path, fmt::format("\"{}\" is neither an OID nor one of C, L, ST, O, OU, CN", shown(name)),
                 name == "emailAddress" || name == "E" ? "write 1.2.840.113549.1.9.1, or use SubjectAltName" : "");
    return false;
  }
  if (text.size() > kLongestValue) {
    report.error(path, fmt::format("the value is longer than {} bytes", kLongestValue));
    return false;
  }
  if (text.empty()) report.warn(path, fmt::format("the value of {} is empty", name));
  if (name == "C" && text.size() != 2) report.warn(path, "C is a two-letter country code");
  rdn.emplace_back(name, text);
  return true;
}

}  // namespace

bool isDottedOid(std::string_view text) {
  constexpr size_t kLongest = 128;
  if (text.size() > kLongest || !text.contains('.')) return false;
  size_t digits = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '.') {
      if (digits == 0) return false;
      digits = 0;
    } else if (text[i] >= '0' && text[i] <= '9') {
      ++digits;
    } else {
      return false;
    }
  }
  return digits > 0 && text[0] <= '2' && text[1] == '.';
}

Subject readSubject(Keys& keys, Need need) {
  Subject subject;
  const plist::Array* rdns = keys.array("Subject", need);
  if (rdns == nullptr) return subject;
  if (rdns->size() > kMostRdns) {
    keys.error("Subject", fmt::format("has more than {} elements", kMostRdns));
    return subject;
  }
  for (size_t i = 0; i < rdns->size(); ++i) {
    const std::string path = plist::childPath(keys.pathOf("Subject"), i);
    const plist::Array* pairs = (*rdns)[i].array();
    if (pairs == nullptr || pairs->empty() || pairs->size() > kMostPairs) {
      keys.report().error(path, fmt::format("must be an array of 1 to {} pairs", kMostPairs),
                          "Subject nests three arrays: RDNs, pairs, name and value");
      continue;
    }
    Rdn rdn;
    for (size_t k = 0; k < pairs->size(); ++k) readPair((*pairs)[k], plist::childPath(path, k), keys.report(), rdn);
    if (rdn.size() > 1) keys.report().note(path, fmt::format("is one RDN with {} values", rdn.size()));
    subject.push_back(std::move(rdn));
  }
  return subject;
}

SubjectAltNames readSubjectAltNames(Keys& keys) {
  SubjectAltNames names;
  const plist::Dictionary* dictionary = keys.dictionary("SubjectAltName");
  if (dictionary == nullptr) return names;
  Report& report = keys.report();
  const std::string path = keys.pathOf("SubjectAltName");
  Keys inner(*dictionary, path, report);
  // One string or an array of them: the schema says strings, its text and real files say both.
  const auto read = [&](std::string_view key, std::vector<std::string>& out) {
    inner.known({key});
    const plist::Value* value = dictionary->find(key);
    if (value == nullptr) return;
    const auto take = [&](const plist::Value& item, const std::string& at) {
      const std::string* text = item.string();
      if (text == nullptr)
        report.error(at, fmt::format("is {}, must be a string or an array of strings", item.typeName()));
      else if (text->empty())
        report.warn(at, "is empty and is left out");
      else if (text->size() > kLongestValue)
        report.error(at, fmt::format("is longer than {} bytes", kLongestValue));
      else
        out.push_back(*text);
    };
    const std::string keyPath = inner.pathOf(key);
    const plist::Array* items = value->array();
    if (items == nullptr) return take(*value, keyPath);
    if (items->size() > kMostNames) return report.error(keyPath, fmt::format("has more than {} names", kMostNames));
    for (size_t i = 0; i < items->size(); ++i) take((*items)[i], plist::childPath(keyPath, i));
  };
  read("rfc822Name", names.rfc822Names);
  read("dNSName", names.dnsNames);
  read("uniformResourceIdentifier", names.uris);
  read("ntPrincipalName", names.ntPrincipalNames);
  inner.finish();
  return names;
}

}  // namespace wayleave::management
