#include "plist/value.h"

#include <cmath>

namespace wayleave::plist {
namespace {

// Up to here a scan over the keys beats hashing; nearly every dictionary of a profile is smaller.
constexpr size_t kScanLimit = 24;
// 2001-01-01T00:00:00Z in seconds since 1970.
constexpr double kEpoch2001 = 978'307'200;

}  // namespace

std::string_view text(Type type) {
  switch (type) {
    case Type::Boolean: return "boolean";
    case Type::Integer: return "integer";
    case Type::Unsigned: return "integer";
    case Type::Real: return "real";
    case Type::String: return "string";
    case Type::Data: return "data";
    case Type::Date: return "date";
    case Type::Uid: return "uid";
    case Type::Array: return "array";
    case Type::Dictionary: return "dictionary";
  }
  return "?";
}

Date Date::fromWall(Wall time) { return {std::chrono::duration<double>(time.time_since_epoch()).count() - kEpoch2001}; }

std::optional<Wall> Date::wall() const {
  const double since1970 = secondsSince2001 + kEpoch2001;
  constexpr double kFits = 9.2e9;  // seconds that an int64_t of nanoseconds can hold, rounded down
  if (!std::isfinite(since1970) || std::fabs(since1970) > kFits) return std::nullopt;
  return Wall{std::chrono::duration_cast<Wall::duration>(std::chrono::duration<double>(since1970))};
}

Dictionary::Dictionary() = default;
Dictionary::Dictionary(const Dictionary&) = default;
Dictionary::Dictionary(Dictionary&&) noexcept = default;
Dictionary& Dictionary::operator=(const Dictionary&) = default;
Dictionary& Dictionary::operator=(Dictionary&&) noexcept = default;
Dictionary::~Dictionary() = default;

std::optional<size_t> Dictionary::position(std::string_view key) const {
  if (!index_.empty()) {
    const auto found = index_.find(std::string(key));
    return found == index_.end() ? std::nullopt : std::optional(found->second);
  }
  for (size_t i = 0; i < entries_.size(); ++i)
    if (entries_[i].key == key) return i;
  return std::nullopt;
}

bool Dictionary::add(std::string key, Value value) {
  if (position(key)) return false;
  entries_.push_back(Entry{std::move(key), std::move(value)});
  if (!index_.empty()) {
    index_.emplace(entries_.back().key, entries_.size() - 1);
  } else if (entries_.size() > kScanLimit) {
    for (size_t i = 0; i < entries_.size(); ++i) index_.emplace(entries_[i].key, i);
  }
  return true;
}

void Dictionary::set(std::string key, Value value) {
  if (const auto at = position(key))
    entries_[*at].value = std::move(value);
  else
    add(std::move(key), std::move(value));
}

const Value* Dictionary::find(std::string_view key) const {
  const auto at = position(key);
  return at ? &entries_[*at].value : nullptr;
}
Value* Dictionary::find(std::string_view key) {
  const auto at = position(key);
  return at ? &entries_[*at].value : nullptr;
}

size_t Dictionary::size() const { return entries_.size(); }
Value& Dictionary::valueAt(size_t index) { return entries_.at(index).value; }

bool operator==(const Dictionary& a, const Dictionary& b) {
  if (a.size() != b.size()) return false;
  for (const Entry& entry : a.entries_) {
    const Value* other = b.find(entry.key);
    if (other == nullptr || !(entry.value == *other)) return false;
  }
  return true;
}

Value::Value(Array value) : value_(std::move(value)) {}
Value::Value(Dictionary value) : value_(std::move(value)) {}

std::optional<uint64_t> Value::unsignedInteger() const {
  if (const auto* large = std::get_if<uint64_t>(&value_)) return *large;
  if (const auto* small = std::get_if<int64_t>(&value_); small != nullptr && *small >= 0)
    return static_cast<uint64_t>(*small);
  return std::nullopt;
}

bool operator==(const Value& a, const Value& b) { return a.value_ == b.value_; }

}  // namespace wayleave::plist
