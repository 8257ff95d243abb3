#include "management/profile_finding.h"

#include <fmt/format.h>

#include <algorithm>

namespace wayleave::management {

std::string_view text(Severity severity) {
  switch (severity) {
    case Severity::Note: return "note";
    case Severity::Warning: return "warning";
    case Severity::Error: return "error";
  }
  return "?";
}

bool hasErrors(const std::vector<Finding>& findings) {
  return std::ranges::any_of(findings, [](const Finding& f) { return f.severity == Severity::Error; });
}

std::string describe(const Finding& finding) {
  std::string out;
  if (finding.line > 0) out += fmt::format("line {}: ", finding.line);
  out += finding.keyPath;
  if (!finding.payload.empty()) out += (finding.keyPath.empty() ? "" : " in ") + finding.payload;
  if (!finding.keyPath.empty() || !finding.payload.empty()) out += ": ";
  out += finding.message;
  if (!finding.hint.empty()) out += fmt::format(" ({})", finding.hint);
  return out;
}

Error toError(const std::vector<Finding>& findings) {
  std::vector<const Finding*> errors;
  for (const Finding& finding : findings)
    if (finding.severity == Severity::Error) errors.push_back(&finding);
  if (errors.empty()) return Error{Reason::Internal, "no finding is an error", "", 0};
  if (errors.size() == 1) {
    Finding only = *errors.front();
    only.hint.clear();
    return Error{only.reason, describe(only), errors.front()->hint, 0};
  }
  std::string message = fmt::format("{} errors", errors.size());
  for (const Finding* finding : errors) message += "\n  " + describe(*finding);
  return Error{errors.front()->reason, std::move(message), "", 0};
}

}  // namespace wayleave::management
