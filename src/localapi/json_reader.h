#pragma once

// Strict JSON for the local APIs: bounded nesting, typed members, unknown members refused, every error names its path.

#include <cstdint>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::localapi {

// Deepest nesting of any body of ours is six; a bomb is refused before it is parsed.
inline constexpr size_t kMostJsonDepth = 32;

// Never throws. Errors: BadInput (not JSON, nested too deeply, more than one document).
Result<nlohmann::json> parseJson(std::string_view text);
// Never throws: bytes that are not UTF-8 become U+FFFD.
std::string dump(const nlohmann::json& value);

// Reads one object's members. The first error sticks and further reads do nothing, so a caller reads everything and
// asks once, at finish().
class ObjectReader {
 public:
  enum class Need : uint8_t { Required, Optional };
  enum class Unknown : uint8_t { Refuse, Ignore };

  // `path` names the object in errors: "rules[3]".
  ObjectReader(const nlohmann::json& value, std::string path);

  void text(const char* name, std::string& out, Need need = Need::Required);
  void boolean(const char* name, bool& out, Need need = Need::Required);
  void bytes(const char* name, Bytes& out, Need need = Need::Required);  // standard base64
  void texts(const char* name, std::vector<std::string>& out, Need need = Need::Required);
  void bytesList(const char* name, std::vector<Bytes>& out, Need need = Need::Required);
  // Each element, which must be an object, gets its own reader; unknown members in it are treated like ours.
  void objects(const char* name, const std::function<void(ObjectReader&)>& each, Need need = Need::Required,
               Unknown unknown = Unknown::Refuse);
  template <typename Integer>
  void integer(const char* name, Integer& out, int64_t least, int64_t most, Need need = Need::Required) {
    int64_t wide = 0;
    if (readInteger(name, wide, least, most, need)) out = static_cast<Integer>(wide);
  }

  // Records an error of the caller's own: "path.name: why".
  void refuse(const char* name, std::string_view why);
  bool ok() const { return status_.has_value(); }
  // Answers of a newer daemon may carry more than we know (Unknown::Ignore); requests may not.
  Status finish(Unknown unknown = Unknown::Refuse);

 private:
  const nlohmann::json* member(const char* name, Need need);
  bool readInteger(const char* name, int64_t& out, int64_t least, int64_t most, Need need);

  const nlohmann::json& value_;
  std::string path_;
  std::set<std::string_view> seen_;
  Status status_;
};

}  // namespace wayleave::localapi
