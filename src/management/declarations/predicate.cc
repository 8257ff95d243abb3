#include "management/declarations/predicate.h"

#include <algorithm>

#include <fmt/format.h>

#include "management/declarations/predicate_node.h"

namespace wayleave::management {
namespace {

using nlohmann::json;
using Node = Predicate::Node;
using Kind = Node::Kind;
using Operator = Node::Operator;
using Value = std::expected<json, PredicateError>;
using Verdict = std::expected<bool, PredicateError>;

std::unexpected<PredicateError> misfit(std::string message) {
  return std::unexpected(PredicateError{PredicateProblem::UnableToEvaluate, std::move(message)});
}

std::string folded(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  return text;
}

// `?` one byte, `*` any number; linear but for the last star, which is all that ever needs to be tried again.
bool like(std::string_view text, std::string_view pattern) {
  size_t t = 0, p = 0, star = std::string_view::npos, mark = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      mark = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++t;
      ++p;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++mark;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

class Evaluator {
 public:
  explicit Evaluator(const PredicateValues& values) : values_(values) {}

  Verdict verdict(const Node& node) const {
    switch (node.kind) {
      case Kind::True: return true;
      case Kind::False: return false;
      case Kind::Not: {
        const Verdict inner = verdict(node.children.front());
        return inner ? Verdict(!*inner) : inner;
      }
      case Kind::And:
      case Kind::Or:
        for (const Node& child : node.children)
          if (const Verdict one = verdict(child); !one || *one == (node.kind == Kind::Or)) return one;
        return node.kind == Kind::And;
      case Kind::Compare: return compare(node);
      case Kind::Literal:
      case Kind::List:
      case Kind::Status:
      case Kind::Property:
      case Kind::Index:
      case Kind::First:
      case Kind::Last:
      case Kind::Size: break;
    }
    return misfit("a value stands where a condition belongs");
  }

 private:
  static json known(const std::function<std::optional<json>(const std::string&)>& source, const std::string& name) {
    return source ? source(name).value_or(json()) : json();
  }

  Value value(const Node& node) const {
    switch (node.kind) {
      case Kind::Literal: return node.literal;
      case Kind::Status: return known(values_.status, node.name);
      case Kind::Property: return known(values_.property, node.name);
      case Kind::List: {
        json out = json::array();
        for (const Node& child : node.children) {
          Value one = value(child);
          if (!one) return one;
          out.push_back(std::move(*one));
        }
        return out;
      }
      case Kind::Index:
      case Kind::First:
      case Kind::Last:
      case Kind::Size: return element(node);
      case Kind::True:
      case Kind::False:
      case Kind::And:
      case Kind::Or:
      case Kind::Not:
      case Kind::Compare: break;
    }
    return misfit("a condition stands where a value belongs");
  }

  Value element(const Node& node) const {
    Value from = value(node.children.front());
    if (!from) return from;
    if (from->is_null()) return json();
    if (!from->is_array()) return misfit("only an array has elements");
    if (node.kind == Kind::Size) return json(static_cast<int64_t>(from->size()));
    if (from->empty()) return json();
    if (node.kind == Kind::First) return from->front();
    if (node.kind == Kind::Last) return from->back();
    const int64_t index = node.literal.get<int64_t>();
    if (index < 0 || static_cast<size_t>(index) >= from->size()) return misfit(fmt::format("there is no element {}", index));
    return (*from)[static_cast<size_t>(index)];
  }

  Verdict compare(const Node& node) const {
    const Value left = value(node.children[0]);
    if (!left) return std::unexpected(left.error());
    const Value right = value(node.children[1]);
    if (!right) return std::unexpected(right.error());
    if (node.quantifier == Node::Quantifier::One) return one(node, *left, *right);
    if (left->is_null()) return node.quantifier != Node::Quantifier::Any;
    if (!left->is_array()) return misfit("ANY, ALL and NONE need an array");
    for (const json& element : *left) {
      const Verdict held = one(node, element, *right);
      if (!held) return held;
      if (node.quantifier == Node::Quantifier::All && !*held) return false;
      if (node.quantifier != Node::Quantifier::All && *held) return node.quantifier == Node::Quantifier::Any;
    }
    return node.quantifier != Node::Quantifier::Any;
  }

  // nil equals nil, and is neither less, greater, nor part of anything.
  static Verdict one(const Node& node, const json& left, const json& right) {
    const auto fold = [&](const json& text) {
      return node.caseInsensitive ? folded(text.get<std::string>()) : text.get<std::string>();
    };
    const auto same = [&](const json& a, const json& b) {
      return a.is_string() && b.is_string() ? fold(a) == fold(b) : a == b;
    };
    const auto order = [&](const auto& holds) -> Verdict {
      if (left.is_null() || right.is_null()) return false;
      if (left.is_number() && right.is_number()) return holds(left, right);
      if (left.is_string() && right.is_string()) return holds(left, right);
      return misfit("only numbers and strings have an order");
    };
    const auto strings = [&](const auto& holds) -> Verdict {
      if (left.is_null() || right.is_null()) return false;
      if (!left.is_string() || !right.is_string()) return misfit("the operator compares strings");
      return holds(fold(left), fold(right));
    };
    const auto member = [&](const json& item, const json& of) -> Verdict {
      if (item.is_null() || of.is_null()) return false;
      if (of.is_array()) return std::ranges::any_of(of, [&](const json& each) { return same(each, item); });
      if (of.is_string() && item.is_string()) return fold(of).contains(fold(item));
      return misfit("the operator needs an array or two strings");
    };
    switch (node.op) {
      case Operator::Equal: return same(left, right);
      case Operator::NotEqual: return !same(left, right);
      case Operator::Less: return order([](const json& a, const json& b) { return a < b; });
      case Operator::Greater: return order([](const json& a, const json& b) { return a > b; });
      case Operator::LessEqual: return order([](const json& a, const json& b) { return a <= b; });
      case Operator::GreaterEqual: return order([](const json& a, const json& b) { return a >= b; });
      case Operator::Between:
        if (!right.is_array() || right.size() != 2) return misfit("BETWEEN needs a list of two");
        if (left.is_null()) return false;
        if (!left.is_number() || !right[0].is_number() || !right[1].is_number()) return misfit("BETWEEN compares numbers");
        return left >= right[0] && left <= right[1];
      case Operator::BeginsWith: return strings([](const std::string& a, const std::string& b) { return a.starts_with(b); });
      case Operator::EndsWith: return strings([](const std::string& a, const std::string& b) { return a.ends_with(b); });
      case Operator::Like: return strings([](const std::string& a, const std::string& b) { return like(a, b); });
      case Operator::Contains: return member(right, left);
      case Operator::In: return member(left, right);
    }
    return misfit("an unknown operator");
  }

  const PredicateValues& values_;
};

}  // namespace

std::string_view code(PredicateProblem problem) {
  switch (problem) {
    case PredicateProblem::UnableToParse: return "Error.UnableToParsePredicate";
    case PredicateProblem::UnableToParseWithCustomOperator: return "Error.UnableToParsePredicateWithCustomOperator";
    case PredicateProblem::UnableToEvaluate: return "Error.UnableToEvaluatePredicate";
    case PredicateProblem::Failed: return "Error.PredicateFailed";
  }
  return "Error.Unknown";
}

std::expected<Predicate, PredicateError> Predicate::parse(std::string_view text) {
  Predicate out;
  auto root = parsePredicate(text, out.statusItems_, out.properties_);
  if (!root) return std::unexpected(std::move(root.error()));
  out.root_ = std::make_shared<const Node>(std::move(*root));
  return out;
}

std::expected<bool, PredicateError> Predicate::evaluate(const PredicateValues& values) const {
  // What the values' callbacks throw belongs to the caller's data, not to the caller's stack.
  try {
    return Evaluator(values).verdict(*root_);
  } catch (const std::exception& thrown) {
    return std::unexpected(PredicateError{PredicateProblem::Failed, std::string("evaluation stopped: ") + thrown.what()});
  }
}

}  // namespace wayleave::management
