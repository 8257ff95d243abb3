#pragma once

// What a dictionary may hold, as a table: for what is checked and not used, such as the settings of a declaration that have
// no meaning here, or the messages that others send each other. What is used is read with Keys (profile_keys.h).

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "management/profile_report.h"
#include "plist/value.h"

namespace wayleave::management {

enum class ValueKind : uint8_t { Any, String, Integer, Boolean, Switch, Data, Array, Dictionary };  // Switch: 0 or 1, or a boolean

struct ShapeKey;
// A view of a table of keys.
class Shape {
 public:
  constexpr Shape() = default;
  template <size_t N>
  constexpr Shape(const std::array<ShapeKey, N>& keys) : first_(keys.data()), count_(N) {}
  const ShapeKey* begin() const { return first_; }
  const ShapeKey* end() const;
  bool empty() const { return count_ == 0; }

 private:
  const ShapeKey* first_ = nullptr;
  size_t count_ = 0;
};

struct ShapeKey {
  std::string_view name;  // "*": every key that no other row names
  ValueKind kind = ValueKind::Any;
  bool required = false;
  std::span<const std::string_view> words = {};  // of a string: the only values; empty: any
  ValueKind items = ValueKind::Any;                        // of an array
  Shape keys = {};                               // of a dictionary, or of every dictionary in an array; empty: not looked into
  int64_t least = INT64_MIN, most = INT64_MAX;   // of an integer
};
inline const ShapeKey* Shape::end() const { return first_ + count_; }

// Reports what is missing (an error), of another type or outside the list (errors), and unknown. An unknown key is an error
// whose path goes to `unknown`, or without `unknown` a warning.
void checkShape(const plist::Dictionary& dictionary, Shape shape, const std::string& path, Report& report,
                std::vector<std::string>* unknown = nullptr);

}  // namespace wayleave::management
