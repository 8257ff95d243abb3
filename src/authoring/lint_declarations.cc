// Declarations: JSON that a server hands out one by one, and that refer to each other by Identifier.

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "authoring/lint_internal.h"
#include "management/declarations/declaration.h"

namespace wayleave::authoring {
namespace {

using management::Declaration;
using management::DeclarationKind;

struct Known {
  const DeclarationInput* input;
  Declaration declaration;

  std::string name() const { return input->place.empty() ? input->file : input->place; }
};

std::string within(const DeclarationInput& input, const std::string& where) {
  return input.place.empty() ? where : where.empty() ? input.place : input.place + ": " + where;
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
                           byIdentifier_.at(declaration.identifier)->name()),
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
    out_.push_back({severity, known.input->file, known.input->line, 0, "declaration-reference", within(*known.input, where), std::move(message), std::move(hint)});
  }

  const std::vector<Known>& all_;
  std::vector<LintFinding>& out_;
  std::map<std::string, const Known*> byIdentifier_;
  std::map<std::string, bool> used_;
};

}  // namespace

std::vector<LintFinding> lintDeclarations(const std::vector<DeclarationInput>& declarations) {
  std::vector<LintFinding> out;
  std::vector<Known> all;
  for (const DeclarationInput& input : declarations) {
    std::vector<management::Finding> findings;
    all.push_back({&input, management::readDeclaration(input.bytes, &findings)});
    for (const management::Finding& finding : findings) {
      LintFinding& found = out.emplace_back(toLintFinding(finding, input.file, "declaration"));
      if (input.place.empty()) continue;
      // Lines inside a declaration mean nothing in the file that carries it.
      found.where = within(input, found.where);
      found.line = input.line;
      found.column = 0;
    }
  }
  References(all, out).judge();
  return out;
}

}  // namespace wayleave::authoring
