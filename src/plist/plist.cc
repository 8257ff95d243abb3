#include "plist/plist.h"

#include <fmt/format.h>

namespace wayleave::plist {

std::string childPath(std::string_view parent, std::string_view key) {
  std::string path(parent);
  if (!path.empty()) path.push_back('.');
  return path.append(key);
}

std::string childPath(std::string_view parent, size_t index) { return fmt::format("{}[{}]", parent, index); }

Result<Document> parse(ByteView bytes, const ReadOptions& options) {
  if (asText(bytes).starts_with("bplist")) return parseBinary(bytes, options);
  return parseXml(bytes, options);
}

}  // namespace wayleave::plist
