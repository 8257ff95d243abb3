#include "authoring/lint.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "authoring/lint_internal.h"

namespace wayleave::authoring {
namespace {

// "line 12, column 3: …", "not JSON: line 12, …": how the readers say where a file stopped making sense.
void takePosition(LintFinding& finding) {
  const auto number = [](std::string_view& text, std::string_view before, uint32_t& out) {
    if (!text.starts_with(before)) return false;
    const char* begin = text.data() + before.size();
    const auto [stop, code] = std::from_chars(begin, text.data() + text.size(), out);
    if (code != std::errc{}) return false;
    text.remove_prefix(static_cast<size_t>(stop - text.data()));
    return true;
  };
  std::string_view text = finding.message;
  constexpr std::string_view kNotJson = "not JSON: ";
  const bool json = text.starts_with(kNotJson);
  if (json) text.remove_prefix(kNotJson.size());
  uint32_t line = 0, column = 0;
  if (!number(text, "line ", line)) return;
  (void)number(text, ", column ", column);
  if (!text.starts_with(": ")) return;
  finding.line = line;
  finding.column = column;
  finding.message = (json ? std::string(kNotJson) : std::string()) + std::string(text.substr(2));
}

}  // namespace

void RuleReport::add(std::string_view rule, Severity severity, std::string keyPath, std::string message, std::string hint) {
  switch (severity) {
    case Severity::Note: report_.note(std::move(keyPath), std::move(message), std::move(hint)); break;
    case Severity::Warning: report_.warn(std::move(keyPath), std::move(message), std::move(hint)); break;
    case Severity::Error: report_.error(std::move(keyPath), std::move(message), std::move(hint)); break;
  }
  rules_.resize(findings_.size(), std::string(rule));  // the report may have added one, none, or a word about a flood
}

std::vector<LintFinding> RuleReport::take(const std::string& file) {
  std::vector<LintFinding> out;
  for (size_t i = 0; i < findings_.size(); ++i) out.push_back(toLintFinding(findings_[i], file, rules_[i]));
  return out;
}

LintFinding toLintFinding(const management::Finding& finding, const std::string& file, std::string_view rule) {
  LintFinding out{.severity = finding.severity,
                  .file = file,
                  .line = finding.line,
                  .rule = std::string(rule),
                  .where = finding.keyPath,
                  .message = finding.message,
                  .hint = finding.hint};
  if (!finding.payload.empty()) out.where += (out.where.empty() ? "" : " in ") + finding.payload;
  if (out.line == 0) takePosition(out);
  return out;
}

std::vector<LintFinding> lint(const std::vector<LintInput>& inputs, const LintOptions& options) {
  std::vector<LintFinding> all;
  std::vector<ProfileFacts> profiles;
  std::vector<DeclarationInput> declarations;
  const auto take = [&all](std::vector<LintFinding> more) { std::ranges::move(more, std::back_inserter(all)); };
  for (const LintInput& input : inputs) switch (kindOf(input)) {
      case FileKind::Declaration: declarations.push_back({input.name, input.bytes, "", 0}); break;
      case FileKind::Document: take(lintDocument(input)); break;
      case FileKind::MdmBody: take(lintMdmBody(input, options)); break;
      case FileKind::Profile: {
        LintedProfile profile = lintProfile(input, options);
        take(std::move(profile.findings));
        profiles.push_back(std::move(profile.facts));
        break;
      }
    }
  take(lintAcross(profiles));
  take(lintDeclarations(declarations));

  std::erase_if(all, [&](const LintFinding& finding) {
    return finding.severity != Severity::Error && std::ranges::find(options.ignoredRules, finding.rule) != options.ignoredRules.end();
  });
  const auto position = [&](const LintFinding& finding) {
    const auto input = std::ranges::find(inputs, finding.file, &LintInput::name);
    return std::pair(input - inputs.begin(), finding.line);
  };
  std::ranges::stable_sort(all, {}, position);
  return all;
}

LintCounts count(const std::vector<LintFinding>& findings) {
  LintCounts out;
  for (const LintFinding& finding : findings) switch (finding.severity) {
      case Severity::Error: ++out.errors; break;
      case Severity::Warning: ++out.warnings; break;
      case Severity::Note: ++out.notes; break;
    }
  return out;
}

std::string describe(const LintFinding& finding) {
  std::string out = finding.file;
  if (finding.line != 0) out += fmt::format(":{}", finding.line);
  if (finding.column != 0) out += fmt::format(":{}", finding.column);
  out += fmt::format(": {}: ", management::text(finding.severity));
  if (!finding.where.empty()) out += finding.where + ": ";
  out += fmt::format("{} [{}]", finding.message, finding.rule);
  if (!finding.hint.empty()) out += "\n    " + finding.hint;
  return out;
}

}  // namespace wayleave::authoring
