#include "management/shape.h"

#include <algorithm>

#include <fmt/format.h>

#include "management/profile_keys.h"

namespace wayleave::management {
namespace {

bool fits(const plist::Value& value, ValueKind kind) {
  switch (kind) {
    case ValueKind::Any: return true;
    case ValueKind::String: return value.string() != nullptr;
    case ValueKind::Integer: return value.integer() || value.unsignedInteger();
    case ValueKind::Boolean: return value.boolean().has_value();
    case ValueKind::Switch: return value.boolean() || value.integer() == 0 || value.integer() == 1;
    case ValueKind::Data: return value.data() != nullptr;
    case ValueKind::Array: return value.array() != nullptr;
    case ValueKind::Dictionary: return value.dictionary() != nullptr;
  }
  return false;
}

std::string_view text(ValueKind kind) {
  switch (kind) {
    case ValueKind::Any: return "a value";
    case ValueKind::String: return "a string";
    case ValueKind::Integer: return "an integer";
    case ValueKind::Boolean: return "a boolean";
    case ValueKind::Switch: return "0 or 1";
    case ValueKind::Data: return "data";
    case ValueKind::Array: return "an array";
    case ValueKind::Dictionary: return "a dictionary";
  }
  return "?";
}

class Checker {
 public:
  Checker(Report& report, std::vector<std::string>* unknown) : report_(report), unknown_(unknown) {}

  void dictionary(const plist::Dictionary& dictionary, Shape shape, const std::string& path) {
    Keys keys(dictionary, path, report_);
    const ShapeKey* rest = nullptr;
    for (const ShapeKey& key : shape) {
      if (key.name == "*") {
        rest = &key;
        continue;
      }
      keys.known({key.name});
      if (const plist::Value* found = dictionary.find(key.name))
        value(*found, key, keys.pathOf(key.name));
      else if (key.required)
        keys.error(key.name, "is missing");
    }
    if (rest != nullptr) {
      for (const plist::Entry& entry : dictionary.entries())
        if (std::none_of(shape.begin(), shape.end(), [&](const ShapeKey& key) { return key.name == entry.key; }))
          value(entry.value, *rest, keys.pathOf(entry.key));
      return;
    }
    if (unknown_ != nullptr)
      for (std::string& name : keys.unread()) unknown_->push_back(std::move(name));
    keys.finish(unknown_ != nullptr ? Severity::Error : Severity::Warning);
  }

 private:
  void value(const plist::Value& value, const ShapeKey& key, const std::string& path) {
    if (!fits(value, key.kind)) return wrong(value, key.kind, path);
    if (const std::string* string = value.string(); string != nullptr && !key.words.empty() && std::ranges::find(key.words, *string) == key.words.end())
      report_.error(path, fmt::format("is \"{}\"", shown(*string)), fmt::format("one of {}", fmt::join(key.words, ", ")));
    if (const auto number = value.integer(); number && (*number < key.least || *number > key.most))
      report_.error(path, fmt::format("is {}, must be {} to {}", *number, key.least, key.most));
    if (const plist::Dictionary* inner = value.dictionary(); inner != nullptr && !key.keys.empty()) dictionary(*inner, key.keys, path);
    if (const plist::Array* array = value.array())
      for (size_t i = 0; i < array->size(); ++i) {
        const plist::Value& item = (*array)[i];
        const std::string at = plist::childPath(path, i);
        const ValueKind wanted = key.items == ValueKind::Any && !key.keys.empty() ? ValueKind::Dictionary : key.items;
        if (!fits(item, wanted))
          wrong(item, wanted, at);
        else if (item.dictionary() != nullptr && !key.keys.empty())
          dictionary(*item.dictionary(), key.keys, at);
      }
  }

  void wrong(const plist::Value& value, ValueKind wanted, const std::string& path) {
    report_.error(path, fmt::format("is of the type {}, must be {}", value.typeName(), text(wanted)));
  }

  Report& report_;
  std::vector<std::string>* const unknown_;
};

}  // namespace

void checkShape(const plist::Dictionary& dictionary, Shape shape, const std::string& path, Report& report, std::vector<std::string>* unknown) {
  Checker(report, unknown).dictionary(dictionary, shape, path);
}

}  // namespace wayleave::management
