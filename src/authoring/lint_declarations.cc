// Declarations: JSON that a server hands out one by one, and that refer to each other by Identifier.

#include <algorithm>
#include <map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "authoring/lint_internal.h"

namespace wayleave::authoring {
namespace {

using nlohmann::json;

void setPosition(LintFinding& finding, ByteView bytes, size_t offset) {
  const std::string_view before = asText(bytes).substr(0, std::min(offset, bytes.size()));
  finding.line = static_cast<uint32_t>(std::ranges::count(before, '\n')) + 1;
  const size_t newline = before.rfind('\n');
  finding.column = static_cast<uint32_t>(newline == std::string_view::npos ? before.size() : before.size() - newline - 1);
}

}  // namespace

std::vector<LintFinding> lintDeclarations(const std::vector<const LintInput*>& files, const LintOptions&) {
  std::vector<LintFinding> out;
  std::map<std::string, std::string> identifiers;
  for (const LintInput* file : files) {
    const auto report = [&](std::string where, std::string message, std::string hint = {}) -> LintFinding& {
      return out.emplace_back(LintFinding{Severity::Error, file->name, 0, 0, "declaration", std::move(where), std::move(message), std::move(hint)});
    };
    json document;
    try {
      document = json::parse(asText(file->bytes));
    } catch (const json::parse_error& error) {
      setPosition(report("", "is not JSON from here on"), file->bytes, error.byte);
      continue;
    }
    if (!document.is_object()) {
      report("", "is JSON, but no declaration: those are objects");
      continue;
    }
    for (const char* key : {"Type", "Identifier", "ServerToken"})
      if (!document.contains(key) || !document[key].is_string() || document[key].get_ref<const std::string&>().empty())
        report(key, "is missing, or no string with a character in it");
    if (!document.contains("Payload") || !document["Payload"].is_object()) report("Payload", "is missing, or no object");
    if (document.contains("Identifier") && document["Identifier"].is_string()) {
      const auto& identifier = document["Identifier"].get_ref<const std::string&>();
      if (const auto [first, fresh] = identifiers.emplace(identifier, file->name); !fresh)
        report("Identifier", fmt::format("{} is also the identifier of {}", management::shown(identifier), first->second), "every declaration of a device has its own");
    }
  }
  return out;
}

}  // namespace wayleave::authoring
