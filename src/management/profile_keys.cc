#include "management/profile_keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace wayleave::management {
namespace {

// "a string", "an integer", "data"
std::string withArticle(std::string_view type) {
  if (type == "data") return "data";
  const bool vowel = std::string_view("aeiou").find(type.front()) != std::string_view::npos;
  return fmt::format("{} {}", vowel ? "an" : "a", type);
}

// Letters only, in lower case: "Key Type", "KeyType" and "keytype" are the same mistake.
std::string folded(std::string_view key) {
  std::string out;
  for (const char c : key)
    if (c != ' ' && c != '_' && c != '-') out.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c);
  return out;
}

size_t editDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row.back();
}

}  // namespace

const plist::Value* Keys::find(std::string_view key, Need need) {
  known_.push_back(key);
  const plist::Value* value = dictionary_.find(key);
  if (value == nullptr && need == Need::Required) {
    std::string hint;
    for (const plist::Entry& entry : dictionary_.entries())
      if (folded(entry.key) == folded(key))
        hint = fmt::format("there is a key {}: the spelling must be exact", shown(entry.key));
    error(key, "is missing", std::move(hint));
  }
  return value;
}

void Keys::wrongType(std::string_view key, const plist::Value& value, std::string_view wanted) {
  std::string hint;
  if (wanted == "data" && value.string() != nullptr) hint = "write the Base64 text in <data>, not in <string>";
  error(key, fmt::format("is {}, must be {}", withArticle(value.typeName()), withArticle(wanted)), std::move(hint));
}

const std::string* Keys::string(std::string_view key, Need need) {
  const plist::Value* value = find(key, need);
  if (value == nullptr) return nullptr;
  const std::string* text = value->string();
  if (text == nullptr) {
    wrongType(key, *value, "string");
  } else if (text->empty() && need == Need::Required) {
    error(key, "is empty");
    return nullptr;
  }
  return text;
}

std::optional<int64_t> Keys::integer(std::string_view key, Need need, int64_t least, int64_t most) {
  const plist::Value* value = find(key, need);
  if (value == nullptr) return std::nullopt;
  if (value->type() != plist::Type::Integer && value->type() != plist::Type::Unsigned) {
    wrongType(key, *value, "integer");
    return std::nullopt;
  }
  const auto number = value->integer();
  if (!number || *number < least || *number > most) {
    const std::string given = number ? fmt::format("{}", *number) : fmt::format("{}", *value->unsignedInteger());
    if (most == std::numeric_limits<int64_t>::max())
      error(key, fmt::format("is {}, must be {} or more", given, least));
    else
      error(key, fmt::format("is {}, must be {} to {}", given, least, most));
    return std::nullopt;
  }
  return number;
}

std::optional<bool> Keys::boolean(std::string_view key, Need need) {
  const plist::Value* value = find(key, need);
  if (value == nullptr) return std::nullopt;
  if (!value->boolean()) wrongType(key, *value, "boolean");
  return value->boolean();
}

std::optional<bool> Keys::zeroOrOne(std::string_view key) {
  const plist::Value* value = find(key, Need::Optional);
  if (value == nullptr) return std::nullopt;
  if (value->boolean()) {
    warn(key, "is a boolean; Apple's schema has the integers 0 and 1");
    return value->boolean();
  }
  if (!value->integer()) {
    wrongType(key, *value, "integer");
    return std::nullopt;
  }
  if (*value->integer() == 0 || *value->integer() == 1) return *value->integer() == 1;
  error(key, fmt::format("is {}, must be 0 or 1", *value->integer()));
  return std::nullopt;
}

std::optional<double> Keys::number(std::string_view key) {
  const plist::Value* value = find(key, Need::Optional);
  if (value == nullptr) return std::nullopt;
  if (value->real()) return value->real();
  if (value->integer()) return static_cast<double>(*value->integer());
  wrongType(key, *value, "real");
  return std::nullopt;
}

std::optional<plist::Date> Keys::date(std::string_view key) {
  const plist::Value* value = find(key, Need::Optional);
  if (value == nullptr) return std::nullopt;
  if (!value->date()) wrongType(key, *value, "date");
  return value->date();
}

const Bytes* Keys::data(std::string_view key, Need need) {
  const plist::Value* value = find(key, need);
  if (value == nullptr) return nullptr;
  if (value->data() == nullptr) {
    wrongType(key, *value, "data");
  } else if (value->data()->empty() && need == Need::Required) {
    error(key, "is empty");
    return nullptr;
  }
  return value->data();
}

const plist::Array* Keys::array(std::string_view key, Need need) {
  const plist::Value* value = find(key, need);
  if (value == nullptr) return nullptr;
  if (value->array() == nullptr) wrongType(key, *value, "array");
  return value->array();
}

const plist::Dictionary* Keys::dictionary(std::string_view key, Need need) {
  const plist::Value* value = find(key, need);
  if (value == nullptr) return nullptr;
  if (value->dictionary() == nullptr) wrongType(key, *value, "dictionary");
  return value->dictionary();
}

std::optional<std::vector<std::string>> Keys::strings(std::string_view key, Need need) {
  const plist::Array* items = array(key, need);
  if (items == nullptr) return std::nullopt;
  std::vector<std::string> out;
  bool good = true;
  for (size_t i = 0; i < items->size(); ++i) {
    if (const std::string* text = (*items)[i].string()) {
      out.push_back(*text);
      continue;
    }
    report_.error(plist::childPath(pathOf(key), i),
                  fmt::format("is {}, must be a string", withArticle((*items)[i].typeName())));
    good = false;
  }
  return good ? std::optional(std::move(out)) : std::nullopt;
}

void Keys::known(std::initializer_list<std::string_view> keys) { known_.insert(known_.end(), keys); }

void Keys::known(std::span<const std::string_view> keys) { known_.insert(known_.end(), keys.begin(), keys.end()); }

void Keys::mistaken(std::string_view key, std::string_view hint) { mistakes_.push_back({key, hint}); }

std::string Keys::likelyKey(std::string_view key) const {
  constexpr size_t kLongestKey = 64;  // no key of the schemas is longer, and the distance is quadratic
  if (key.size() > kLongestKey) return {};
  for (const std::string_view candidate : known_)
    if (folded(candidate) == folded(key)) return std::string(candidate);
  constexpr size_t kShortest = 6;  // shorter names are too close to each other for a guess
  for (const std::string_view candidate : known_)
    if (key.size() >= kShortest && editDistance(folded(candidate), folded(key)) <= 2) return std::string(candidate);
  return {};
}

std::vector<std::string> Keys::unread() const {
  std::vector<std::string> out;
  for (const plist::Entry& entry : dictionary_.entries())
    if (std::ranges::find(known_, entry.key) == known_.end()) out.push_back(pathOf(entry.key));
  return out;
}

void Keys::finish(Severity severity) {
  for (const plist::Entry& entry : dictionary_.entries()) {
    if (std::ranges::find(known_, entry.key) != known_.end()) continue;
    std::string hint;
    const auto mistake = std::ranges::find(mistakes_, entry.key, &Mistake::key);
    if (mistake != mistakes_.end()) {
      hint = mistake->hint;
    } else if (const std::string likely = likelyKey(entry.key); !likely.empty()) {
      hint = fmt::format("did you mean {}?", likely);
    }
    if (severity == Severity::Error)
      error(entry.key, "is not a known key", std::move(hint));
    else
      warn(entry.key, "is not a known key and is ignored", std::move(hint));
  }
}

}  // namespace wayleave::management
