// Recursive descent over docs/declarations.md's grammar. Every nesting passes through Parser::deeper(), so that the depth of
// the recursion, here and in evaluation, is bounded whatever the text.

#include <charconv>
#include <cmath>

#include <fmt/format.h>

#include "management/declarations/predicate_node.h"
#include "management/profile_report.h"

namespace wayleave::management {
namespace {

using Node = Predicate::Node;
using Kind = Node::Kind;
using Operator = Node::Operator;
using Parsed = std::expected<Node, PredicateError>;

constexpr size_t kLongest = 16 * 1024;
constexpr int kDeepest = 64;
constexpr size_t kMostNodes = 1000;

bool isLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool isDigit(char c) { return c >= '0' && c <= '9'; }
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

class Parser {
 public:
  Parser(std::string_view text, std::set<std::string>& status, std::set<std::string>& properties)
      : text_(text), status_(status), properties_(properties) {}

  Parsed whole() {
    if (text_.size() > kLongest) return bad(fmt::format("the predicate has more than {} bytes", kLongest));
    Parsed root = disjunction();
    if (!root) return root;
    skip();
    if (at_ != text_.size()) return bad("there is something after its end");
    return root;
  }

 private:
  std::unexpected<PredicateError> bad(std::string_view what, PredicateProblem problem = PredicateProblem::UnableToParse) const {
    return std::unexpected(PredicateError{problem, fmt::format("character {}: {}", at_ + 1, what)});
  }
  void skip() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) ++at_;
  }
  bool symbol(std::string_view wanted) {
    skip();
    if (!text_.substr(at_).starts_with(wanted)) return false;
    at_ += wanted.size();
    return true;
  }
  // The word here in upper case, without taking it.
  std::string word() {
    skip();
    std::string out;
    for (size_t i = at_; i < text_.size() && (isLetter(text_[i]) || isDigit(text_[i])); ++i)
      out.push_back(text_[i] >= 'a' && text_[i] <= 'z' ? static_cast<char>(text_[i] - 32) : text_[i]);
    return out;
  }
  bool keyword(std::string_view wanted) {
    if (word() != wanted) return false;
    at_ += wanted.size();
    return true;
  }

  class Level {
   public:
    explicit Level(int& depth) : depth_(++depth) {}
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;
    ~Level() { --depth_; }
    bool tooDeep() const { return depth_ > kDeepest; }

   private:
    int& depth_;
  };
  std::unexpected<PredicateError> tooDeep() const { return bad(fmt::format("nested deeper than {}", kDeepest)); }

  Parsed chain(Kind kind, std::string_view name, std::string_view sign, Parsed (Parser::*part)()) {
    Parsed first = (this->*part)();
    if (!first) return first;
    Node out;
    out.kind = kind;
    out.children.push_back(std::move(*first));
    while (keyword(name) || symbol(sign)) {
      if (++nodes_ > kMostNodes) return bad(fmt::format("more than {} terms", kMostNodes));
      Parsed next = (this->*part)();
      if (!next) return next;
      out.children.push_back(std::move(*next));
    }
    return out.children.size() == 1 ? std::move(out.children.front()) : Parsed(std::move(out));
  }
  Parsed disjunction() { return chain(Kind::Or, "OR", "||", &Parser::conjunction); }
  Parsed conjunction() { return chain(Kind::And, "AND", "&&", &Parser::negation); }

  Parsed negation() {
    const Level level(depth_);
    if (level.tooDeep()) return tooDeep();
    skip();
    if (keyword("NOT") || (!text_.substr(at_).starts_with("!=") && symbol("!"))) {
      Parsed inner = negation();
      if (!inner) return inner;
      Node out;
      out.kind = Kind::Not;
      out.children.push_back(std::move(*inner));
      return out;
    }
    if (keyword("TRUEPREDICATE")) return Node{};
    if (keyword("FALSEPREDICATE")) return constant(Kind::False);
    if (symbol("(")) {
      Parsed inner = disjunction();
      if (!inner) return inner;
      if (!symbol(")")) return bad("a closing parenthesis belongs here");
      return inner;
    }
    return comparison();
  }
  static Node constant(Kind kind) {
    Node out;
    out.kind = kind;
    return out;
  }

  Parsed comparison() {
    Node out;
    out.kind = Kind::Compare;
    if (keyword("ANY") || keyword("SOME"))
      out.quantifier = Node::Quantifier::Any;
    else if (keyword("ALL"))
      out.quantifier = Node::Quantifier::All;
    else if (keyword("NONE"))
      out.quantifier = Node::Quantifier::None;
    Parsed left = operand();
    if (!left) return left;
    const std::optional<Operator> op = comparisonOperator();
    if (!op) return bad("a comparison belongs here");
    out.op = *op;
    if (*op >= Operator::BeginsWith || *op == Operator::Equal || *op == Operator::NotEqual) {
      if (symbol("[")) {
        const std::string options = word();
        if (options != "C") return bad("only the option [c] is known");
        at_ += options.size();
        out.caseInsensitive = true;
        if (!symbol("]")) return bad("a closing bracket belongs here");
      }
    }
    Parsed right = operand();
    if (!right) return right;
    out.children.push_back(std::move(*left));
    out.children.push_back(std::move(*right));
    return out;
  }

  std::optional<Operator> comparisonOperator() {
    // Longer spellings before those that they begin with.
    constexpr std::pair<std::string_view, Operator> kSigns[] = {
        {"==", Operator::Equal},     {"=<", Operator::LessEqual},    {"=>", Operator::GreaterEqual}, {"=", Operator::Equal},
        {"!=", Operator::NotEqual},  {"<>", Operator::NotEqual},     {"<=", Operator::LessEqual},    {">=", Operator::GreaterEqual},
        {"<", Operator::Less},       {">", Operator::Greater}};
    for (const auto& [sign, op] : kSigns)
      if (symbol(sign)) return op;
    constexpr std::pair<std::string_view, Operator> kWords[] = {
        {"BETWEEN", Operator::Between},   {"BEGINSWITH", Operator::BeginsWith}, {"CONTAINS", Operator::Contains},
        {"ENDSWITH", Operator::EndsWith}, {"LIKE", Operator::Like},             {"IN", Operator::In}};
    for (const auto& [name, op] : kWords)
      if (keyword(name)) return op;
    return std::nullopt;
  }

  Parsed operand() {
    Parsed out = primary();
    while (out && symbol("[")) {
      if (++nodes_ > kMostNodes) return bad(fmt::format("more than {} terms", kMostNodes));
      if (++indexes_ > kDeepest) return tooDeep();
      Node index;
      if (keyword("FIRST")) {
        index.kind = Kind::First;
      } else if (keyword("LAST")) {
        index.kind = Kind::Last;
      } else if (keyword("SIZE")) {
        index.kind = Kind::Size;
      } else {
        Parsed position = number();
        if (!position) return position;
        if (!position->literal.is_number_unsigned() && !position->literal.is_number_integer()) return bad("an index is a whole number");
        index.kind = Kind::Index;
        index.literal = position->literal;
      }
      if (!symbol("]")) return bad("a closing bracket belongs here");
      index.children.push_back(std::move(*out));
      out = std::move(index);
    }
    return out;
  }

  Parsed primary() {
    const Level level(depth_);
    if (level.tooDeep()) return tooDeep();
    if (++nodes_ > kMostNodes) return bad(fmt::format("more than {} terms", kMostNodes));
    skip();
    if (at_ >= text_.size()) return bad("it ends where a value belongs");
    const char c = text_[at_];
    if (c == '\'' || c == '"') return quoted();
    if (c == '{') return list();
    if (c == '@') return term();
    if (isDigit(c) || c == '-' || c == '.') return number();
    Node out;
    out.kind = Kind::Literal;
    if (keyword("TRUE") || keyword("YES")) return out.literal = true, Parsed(std::move(out));
    if (keyword("FALSE") || keyword("NO")) return out.literal = false, Parsed(std::move(out));
    if (keyword("NULL") || keyword("NIL")) return Parsed(std::move(out));
    return bad("a value belongs here: a literal, @status(…) or @property(…)");
  }

  Parsed quoted() {
    const char quote = text_[at_++];
    std::string value;
    for (; at_ < text_.size() && text_[at_] != quote; ++at_) {
      char c = text_[at_];
      if (c == '\\') {
        if (++at_ >= text_.size()) break;
        c = text_[at_] == 'n' ? '\n' : text_[at_] == 't' ? '\t' : text_[at_] == 'r' ? '\r' : text_[at_];
      }
      value.push_back(c);
    }
    if (at_ >= text_.size()) return bad("a string without an end");
    ++at_;
    Node out;
    out.kind = Kind::Literal;
    out.literal = std::move(value);
    return out;
  }

  Parsed number() {
    skip();
    const char* first = text_.data() + at_;
    const char* last = text_.data() + text_.size();
    Node out;
    out.kind = Kind::Literal;
    double real = 0;
    const auto parsed = std::from_chars(first, last, real);
    if (parsed.ec != std::errc{} || !std::isfinite(real)) return bad("not a number");
    int64_t whole = 0;
    const auto integer = std::from_chars(first, last, whole);
    if (integer.ec == std::errc{} && integer.ptr == parsed.ptr)
      out.literal = whole;
    else
      out.literal = real;
    at_ += static_cast<size_t>(parsed.ptr - first);
    return out;
  }

  Parsed list() {
    ++at_;
    Node out;
    out.kind = Kind::List;
    if (symbol("}")) return out;
    for (;;) {
      Parsed element = operand();
      if (!element) return element;
      out.children.push_back(std::move(*element));
      if (symbol("}")) return out;
      if (!symbol(",")) return bad("a comma or a closing brace belongs here");
    }
  }

  Parsed term() {
    const size_t start = at_++;
    std::string name;
    while (at_ < text_.size() && isLetter(text_[at_])) name.push_back(lower(text_[at_++]));
    if (name != "status" && name != "property") {
      at_ = start;
      return bad(fmt::format("@{} is not known; there are @status and @property", shown(name)), PredicateProblem::UnableToParseWithCustomOperator);
    }
    const auto badTerm = [&](std::string_view what) { return bad(what, PredicateProblem::UnableToParseWithCustomOperator); };
    if (!symbol("(")) return badTerm("an opening parenthesis belongs here");
    skip();
    std::string argument;
    while (at_ < text_.size() && (isLetter(text_[at_]) || isDigit(text_[at_]) || text_[at_] == '.' || text_[at_] == '-')) argument.push_back(text_[at_++]);
    if (argument.empty()) return badTerm("a name of letters, digits, dots and hyphens belongs here");
    if (!symbol(")")) return badTerm("a closing parenthesis belongs here");
    Node out;
    out.kind = name == "status" ? Kind::Status : Kind::Property;
    (out.kind == Kind::Status ? status_ : properties_).insert(argument);
    out.name = std::move(argument);
    return out;
  }

  const std::string_view text_;
  std::set<std::string>& status_;
  std::set<std::string>& properties_;
  size_t at_ = 0;
  int depth_ = 0, indexes_ = 0;
  size_t nodes_ = 0;
};

}  // namespace

std::expected<Node, PredicateError> parsePredicate(std::string_view text, std::set<std::string>& statusItems,
                                                   std::set<std::string>& properties) {
  return Parser(text, statusItems, properties).whole();
}

}  // namespace wayleave::management
