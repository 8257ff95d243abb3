#pragma once

// Reads one dictionary of a profile key by key. Every complaint (missing, wrong type, out of range) goes to the
// report with its key path; what comes back is absent then. Keys that were never asked for are reported by finish(),
// with the key that was probably meant.

#include <initializer_list>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "management/profile_report.h"
#include "plist/value.h"

namespace wayleave::management {

enum class Need : uint8_t { Optional, Required };

template <typename E>
struct Choice {
  std::string_view name;
  E value;
};

class Keys {
 public:
  // Both outlive this object.
  Keys(const plist::Dictionary& dictionary, std::string path, Report& report)
      : dictionary_(dictionary), path_(std::move(path)), report_(report) {}

  // A required string must not be empty either.
  const std::string* string(std::string_view key, Need need = Need::Optional);
  std::optional<int64_t> integer(std::string_view key, Need need = Need::Optional,
                                 int64_t least = std::numeric_limits<int64_t>::min(),
                                 int64_t most = std::numeric_limits<int64_t>::max());
  std::optional<bool> boolean(std::string_view key, Need need = Need::Optional);
  // A switch that the schema types as integer 0 or 1; a boolean is accepted with a warning.
  std::optional<bool> zeroOrOne(std::string_view key);
  std::optional<double> number(std::string_view key);  // real or integer
  std::optional<plist::Date> date(std::string_view key);
  const Bytes* data(std::string_view key, Need need = Need::Optional);
  const plist::Array* array(std::string_view key, Need need = Need::Optional);
  const plist::Dictionary* dictionary(std::string_view key, Need need = Need::Optional);
  // An array of strings; nullopt when absent or when any element is not a string.
  std::optional<std::vector<std::string>> strings(std::string_view key, Need need = Need::Optional);

  // One of a closed list of spellings.
  template <typename E>
  std::optional<E> choice(std::string_view key, std::initializer_list<Choice<E>> choices, Need need = Need::Optional) {
    const std::string* name = string(key, need);
    if (name == nullptr) return std::nullopt;
    std::string list;
    for (const Choice<E>& candidate : choices) {
      if (candidate.name == *name) return candidate.value;
      list += (list.empty() ? "" : ", ") + std::string(candidate.name);
    }
    error(key, "is \"" + shown(*name) + "\"", "one of " + list);
    return std::nullopt;
  }

  bool has(std::string_view key) const { return dictionary_.contains(key); }
  // Keys that are known and not read here.
  void known(std::initializer_list<std::string_view> keys);
  void known(std::span<const std::string_view> keys);
  // A key that real files contain by mistake, and what to tell their author.
  void mistaken(std::string_view key, std::string_view hint);
  // Key paths of those that were neither read nor declared known.
  std::vector<std::string> unread() const;
  // Reports them.
  void finish(Severity severity = Severity::Warning);

  void error(std::string_view key, std::string message, std::string hint = {}, Reason reason = Reason::BadInput) {
    report_.error(pathOf(key), std::move(message), std::move(hint), reason);
  }
  void warn(std::string_view key, std::string message, std::string hint = {}) {
    report_.warn(pathOf(key), std::move(message), std::move(hint));
  }
  void note(std::string_view key, std::string message, std::string hint = {}) {
    report_.note(pathOf(key), std::move(message), std::move(hint));
  }
  std::string pathOf(std::string_view key) const { return plist::childPath(path_, shown(key)); }
  const std::string& path() const { return path_; }
  Report& report() { return report_; }

 private:
  const plist::Value* find(std::string_view key, Need need);
  void wrongType(std::string_view key, const plist::Value& value, std::string_view wanted);
  std::string likelyKey(std::string_view key) const;

  struct Mistake {
    std::string_view key;
    std::string_view hint;
  };

  const plist::Dictionary& dictionary_;
  const std::string path_;
  Report& report_;
  std::vector<std::string_view> known_;
  std::vector<Mistake> mistakes_;
};

}  // namespace wayleave::management
