#pragma once

// The predicates of activations: the part of NSPredicate's format strings that docs/declarations.md gives the grammar of,
// with the terms @status(item) and @property(name). Anything else is refused, never guessed. Values, and safe from any thread.

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "base/result.h"

namespace wayleave::management {

// Why a predicate has no answer; the codes of Apple's schema.
enum class PredicateProblem : uint8_t {
  UnableToParse,                    // the text is not of the grammar
  UnableToParseWithCustomOperator,  // an @ that is neither @status(…) nor @property(…)
  UnableToEvaluate,                 // well-formed, but its operands do not fit its operators
  Failed,                           // evaluating it met a limit
};
std::string_view code(PredicateProblem problem);  // "Error.UnableToParsePredicate"

struct PredicateError {
  PredicateProblem problem = PredicateProblem::UnableToParse;
  std::string message;  // one sentence, with the position in the text
};

// What @status and @property stand for; a name that nothing is known of is nil.
struct PredicateValues {
  std::function<std::optional<nlohmann::json>(const std::string& item)> status;
  std::function<std::optional<nlohmann::json>(const std::string& name)> property;
};

class Predicate {
 public:
  struct Node;

  static std::expected<Predicate, PredicateError> parse(std::string_view text);
  std::expected<bool, PredicateError> evaluate(const PredicateValues& values) const;

  const std::set<std::string>& statusItems() const { return statusItems_; }
  const std::set<std::string>& properties() const { return properties_; }

 private:
  std::shared_ptr<const Node> root_;  // immutable, so copies may share it
  std::set<std::string> statusItems_, properties_;
};

}  // namespace wayleave::management
