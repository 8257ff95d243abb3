#include <set>

#include <nlohmann/json.hpp>

#include "authoring/lint.h"

namespace wayleave::authoring {
namespace {

using nlohmann::json;

const char* level(Severity severity) {
  switch (severity) {
    case Severity::Note: return "note";
    case Severity::Warning: return "warning";
    case Severity::Error: return "error";
  }
  return "none";
}

}  // namespace

std::string toSarif(const std::vector<LintFinding>& findings) {
  json results = json::array(), rules = json::array();
  std::set<std::string> seen;
  for (const LintFinding& finding : findings) {
    if (seen.insert(finding.rule).second) rules.push_back({{"id", finding.rule}});
    json location{{"artifactLocation", {{"uri", finding.file}}}};
    if (finding.line != 0) location["region"]["startLine"] = finding.line;
    if (finding.column != 0) location["region"]["startColumn"] = finding.column;
    std::string message = finding.where.empty() ? finding.message : finding.where + ": " + finding.message;
    if (!finding.hint.empty()) message += " (" + finding.hint + ")";
    results.push_back({{"ruleId", finding.rule},
                       {"level", level(finding.severity)},
                       {"message", {{"text", message}}},
                       {"locations", json::array({{{"physicalLocation", location}}})}});
  }
  const json run{{"tool", {{"driver", {{"name", "wayleave lint"}, {"version", WAYLEAVE_VERSION}, {"rules", rules}}}}},
                 {"results", results}};
  const json document{{"$schema", "https://json.schemastore.org/sarif-2.1.0.json"}, {"version", "2.1.0"}, {"runs", json::array({run})}};
  return document.dump(2, ' ', false, json::error_handler_t::replace);
}

}  // namespace wayleave::authoring
