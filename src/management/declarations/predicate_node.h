#pragma once

// The tree of a predicate. Internal to predicate_parse.cc and predicate.cc.

#include <vector>

#include "management/declarations/predicate.h"

namespace wayleave::management {

struct Predicate::Node {
  enum class Kind : uint8_t { True, False, And, Or, Not, Compare, Literal, List, Status, Property, Index, First, Last, Size };
  enum class Operator : uint8_t { Equal, NotEqual, Less, Greater, LessEqual, GreaterEqual, Between, BeginsWith, Contains, EndsWith, Like, In };
  enum class Quantifier : uint8_t { One, Any, All, None };

  Kind kind = Kind::True;
  Operator op = Operator::Equal;
  Quantifier quantifier = Quantifier::One;
  bool caseInsensitive = false;
  nlohmann::json literal;               // null is NIL
  std::string name;                     // of a status item or property
  std::vector<Node> children;
};

// Fills the names that the predicate asks for.
std::expected<Predicate::Node, PredicateError> parsePredicate(std::string_view text, std::set<std::string>& statusItems,
                                                              std::set<std::string>& properties);

}  // namespace wayleave::management
