// Declarations: JSON that a server hands out one by one, and that refer to each other by Identifier.

#include <algorithm>
#include <charconv>
#include <map>

#include <fmt/format.h>

#include "authoring/lint_internal.h"
#include "management/declarations/declaration.h"

namespace wayleave::authoring {
namespace {

using management::Declaration;
using management::DeclarationKind;

struct Known {
  const LintInput* file;
  Declaration declaration;
};

// The reader of JSON tells where it stopped in its sentence: "not JSON: line 2, column 11: …".
void setPosition(LintFinding& finding) {
  constexpr std::string_view kWords[] = {"line ", "column "};
  uint32_t* const numbers[] = {&finding.line, &finding.column};
  for (size_t i = 0; i < 2; ++i) {
    const size_t at = finding.message.find(kWords[i]);
    if (at == std::string::npos) return;
    const char* from = finding.message.data() + at + kWords[i].size();
    std::from_chars(from, finding.message.data() + finding.message.size(), *numbers[i]);
  }
}

// What the files of one run say about each other.
class References {
 public:
  References(const std::vector<Known>& all, std::vector<LintFinding>& out) : all_(all), out_(out) {
    for (const Known& known : all)
      if (!known.declaration.identifier.empty()) byIdentifier_.emplace(known.declaration.identifier, &known);
  }

  void judge() {
    for (const Known& known : all_) {
      const Declaration& declaration = known.declaration;
      if (!declaration.identifier.empty() && byIdentifier_.at(declaration.identifier) != &known)
        report(Severity::Error, known, "Identifier",
               fmt::format("{} is also the identifier of {}", management::shown(declaration.identifier),
                           byIdentifier_.at(declaration.identifier)->file->name),
               "every declaration of a device has its own");
      for (const std::string& configuration : declaration.configurations)
        mustBe(known, "Payload.StandardConfigurations", configuration, DeclarationKind::Configuration);
      for (const Declaration::AssetUse& use : declaration.assets) {
        const Known* asset = mustBe(known, use.keyPath, use.identifier, DeclarationKind::Asset);
        if (asset != nullptr && std::ranges::find(use.types, asset->declaration.type) == use.types.end())
          report(Severity::Error, known, use.keyPath,
                 fmt::format("{} is {}; here stands {}", management::shown(use.identifier), asset->declaration.type, fmt::join(use.types, " or ")));
      }
    }
    // A single file is often looked at by itself.
    if (all_.size() > 1) findUnused();
  }

 private:
  const Known* mustBe(const Known& from, const std::string& keyPath, const std::string& identifier, DeclarationKind kind) {
    used_.emplace(identifier, true);
    const auto found = byIdentifier_.find(identifier);
    if (found == byIdentifier_.end()) {
      report(all_.size() > 1 ? Severity::Error : Severity::Note, from, keyPath,
             fmt::format("no {} of these files is {}", text(kind), management::shown(identifier)),
             all_.size() > 1 ? "" : "lint the files together: they are judged as one set");
      return nullptr;
    }
    if (found->second->declaration.kind == kind) return found->second;
    report(Severity::Error, from, keyPath,
           fmt::format("{} is of the kind {}, not {}", management::shown(identifier), text(found->second->declaration.kind), text(kind)));
    return nullptr;
  }

  void findUnused() {
    for (const Known& known : all_) {
      const DeclarationKind kind = known.declaration.kind;
      if ((kind != DeclarationKind::Asset && kind != DeclarationKind::Configuration) || known.declaration.identifier.empty() ||
          used_.contains(known.declaration.identifier))
        continue;
      report(Severity::Warning, known, "Identifier",
             kind == DeclarationKind::Asset ? "no configuration uses this asset" : "no activation names this configuration: it has no effect");
    }
  }

  void report(Severity severity, const Known& known, std::string where, std::string message, std::string hint = {}) {
    out_.push_back({severity, known.file->name, 0, 0, "declaration-reference", std::move(where), std::move(message), std::move(hint)});
  }

  const std::vector<Known>& all_;
  std::vector<LintFinding>& out_;
  std::map<std::string, const Known*> byIdentifier_;
  std::map<std::string, bool> used_;
};

}  // namespace

std::vector<LintFinding> lintDeclarations(const std::vector<const LintInput*>& files, const LintOptions&) {
  std::vector<LintFinding> out;
  std::vector<Known> all;
  for (const LintInput* file : files) {
    std::vector<management::Finding> findings;
    all.push_back({file, management::readDeclaration(file->bytes, &findings)});
    for (const management::Finding& finding : findings) {
      LintFinding& found = out.emplace_back(toLintFinding(finding, file->name, "declaration"));
      if (found.line == 0 && found.message.starts_with("not JSON")) setPosition(found);
    }
  }
  References(all, out).judge();
  return out;
}

}  // namespace wayleave::authoring
