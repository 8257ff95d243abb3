#pragma once

// A property list in memory. There is no null: every Value is one of the ten kinds a property list can hold.
//
// Integers are stored so that equal numbers compare equal: `Unsigned` holds only what does not fit an int64_t
// (2^63 to 2^64-1, which real files contain). Values are plain data: copied, moved and compared by content.

#include <compare>
#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"

namespace wayleave::plist {

enum class Type : uint8_t { Boolean, Integer, Unsigned, Real, String, Data, Date, Uid, Array, Dictionary };

// The name a person knows: "boolean", "integer" (for Unsigned too), "real", … "dictionary".
std::string_view text(Type type);

// Property lists count from 2001-01-01T00:00:00Z. The readers deliver years 1 to 9999 only.
struct Date {
  double secondsSince2001 = 0;
  auto operator<=>(const Date&) const = default;

  static Date fromWall(Wall time);
  // nullopt when the clock's type (about 1678 to 2262) cannot hold it.
  std::optional<Wall> wall() const;
};

// An object number of a keyed archive; in XML the dictionary {CF$UID: n}.
struct Uid {
  uint32_t value = 0;
  auto operator<=>(const Uid&) const = default;
};

class Value;
using Array = std::vector<Value>;
struct Entry;

// Keys in the order of the file; each key once. Finding a key is a scan while small and hashed beyond that, so a
// hostile dictionary of a million keys costs no more than it should.
class Dictionary {
 public:
  Dictionary();
  Dictionary(const Dictionary&);
  Dictionary(Dictionary&&) noexcept;
  Dictionary& operator=(const Dictionary&);
  Dictionary& operator=(Dictionary&&) noexcept;
  ~Dictionary();

  // False, and nothing changes, when the key is there already.
  bool add(std::string key, Value value);
  // Adds or replaces; a replaced key keeps its place.
  void set(std::string key, Value value);
  // nullptr when there is no such key. Valid until the next add or set.
  const Value* find(std::string_view key) const;
  Value* find(std::string_view key);
  bool contains(std::string_view key) const { return find(key) != nullptr; }

  size_t size() const;
  bool empty() const { return size() == 0; }
  const std::vector<Entry>& entries() const { return entries_; }
  Value& valueAt(size_t index);  // of entries()[index]

  friend bool operator==(const Dictionary& a, const Dictionary& b);  // the order does not matter

 private:
  std::optional<size_t> position(std::string_view key) const;

  std::vector<Entry> entries_;
  std::unordered_map<std::string, size_t> index_;  // empty until the dictionary has outgrown a scan
};

class Value {
 public:
  Value(std::same_as<bool> auto value) : value_(value) {}  // no implicit pointer → bool
  template <std::signed_integral T>
  Value(T value) : value_(int64_t{value}) {}
  template <std::unsigned_integral T>
    requires(!std::same_as<T, bool>)
  Value(T value) : value_(int64_t{0}) {
    if (uint64_t{value} <= uint64_t{INT64_MAX})
      value_ = static_cast<int64_t>(value);
    else
      value_ = uint64_t{value};
  }
  Value(double value) : value_(value) {}
  Value(std::string value) : value_(std::move(value)) {}
  Value(std::string_view value) : value_(std::string(value)) {}
  Value(const char* value) : value_(std::string(value)) {}
  Value(Bytes value) : value_(std::move(value)) {}
  Value(Date value) : value_(value) {}
  Value(Uid value) : value_(value) {}
  Value(Array value);
  Value(Dictionary value);

  Type type() const { return static_cast<Type>(value_.index()); }
  std::string_view typeName() const { return text(type()); }

  // Each answers only for its own kind: nullopt or nullptr otherwise. No conversions.
  std::optional<bool> boolean() const { return copy<bool>(); }
  std::optional<int64_t> integer() const { return copy<int64_t>(); }  // not for Unsigned: it does not fit
  std::optional<uint64_t> unsignedInteger() const;                    // any integer that is not negative
  std::optional<double> real() const { return copy<double>(); }
  std::optional<Date> date() const { return copy<Date>(); }
  std::optional<Uid> uid() const { return copy<Uid>(); }
  const std::string* string() const { return std::get_if<std::string>(&value_); }
  const Bytes* data() const { return std::get_if<Bytes>(&value_); }
  const Array* array() const { return std::get_if<Array>(&value_); }
  const Dictionary* dictionary() const { return std::get_if<Dictionary>(&value_); }
  std::string* string() { return std::get_if<std::string>(&value_); }
  Bytes* data() { return std::get_if<Bytes>(&value_); }
  Array* array() { return std::get_if<Array>(&value_); }
  Dictionary* dictionary() { return std::get_if<Dictionary>(&value_); }

  friend bool operator==(const Value& a, const Value& b);

 private:
  template <typename T>
  std::optional<T> copy() const {
    const T* held = std::get_if<T>(&value_);
    return held ? std::optional<T>(*held) : std::nullopt;
  }

  // In the order of Type.
  std::variant<bool, int64_t, uint64_t, double, std::string, Bytes, Date, Uid, Array, Dictionary> value_;
};

struct Entry {
  std::string key;
  Value value;
};

}  // namespace wayleave::plist
