#include "management/declarations/predicate.h"

#include <gtest/gtest.h>

namespace wayleave::management {
namespace {

using nlohmann::json;

const PredicateValues kValues{
    .status = [](const std::string& item) -> std::optional<json> {
      if (item == "device.model.family") return "Linux";
      if (item == "test.integer-value") return 7;
      if (item == "test.array-value") return json{"a", "b", "C"};
      if (item == "test.boolean-value") return true;
      return std::nullopt;
    },
    .property = [](const std::string& name) -> std::optional<json> {
      if (name == "ring") return "early";
      return std::nullopt;
    }};

// "true", "false", or the reason code.
std::string verdict(std::string_view text) {
  const auto predicate = Predicate::parse(text);
  if (!predicate) return std::string(code(predicate.error().problem));
  const auto held = predicate->evaluate(kValues);
  return held ? (*held ? "true" : "false") : std::string(code(held.error().problem));
}

TEST(Predicate, ComparesStatusItemsAndProperties) {
  EXPECT_EQ(verdict("@status(device.model.family) == 'AppleTV'"), "false");
  EXPECT_EQ(verdict("(@status(device.model.family) == 'Linux')"), "true");
  EXPECT_EQ(verdict("@property(ring) = \"early\""), "true");
  EXPECT_EQ(verdict("@status( device.model.family ) ==[c] 'LINUX'"), "true");
}

TEST(Predicate, KnowsNumbersAndTheirOrder) {
  for (const char* text : {"@status(test.integer-value) > 6", "@status(test.integer-value) => 7", "@status(test.integer-value) =< 7.5",
                           "@status(test.integer-value) <> -7", "@status(test.integer-value) between {7, 9}", "1 == 1.0"})
    EXPECT_EQ(verdict(text), "true") << text;
  EXPECT_EQ(verdict("@status(test.integer-value) < 1e0"), "false");
}

TEST(Predicate, KnowsStringsAndCollections) {
  for (const char* text : {"'wayleave' beginswith 'way'", "'wayleave' ENDSWITH[c] 'LEAVE'", "'wayleave' LIKE 'w?y*e'", "'way' IN 'wayleave'",
                           "@status(test.array-value) CONTAINS 'a'", "ANY @status(test.array-value) == 'b'", "NONE @status(test.array-value) == 'x'",
                           "ALL @status(test.array-value) !=[c] 'x'", "@status(test.array-value)[SIZE] == 3", "@status(test.array-value)[1] == 'b'",
                           "@status(test.array-value)[LAST] == 'C'", "'a' IN {'a', 'b'}"})
    EXPECT_EQ(verdict(text), "true") << text;
}

TEST(Predicate, KnowsLogicInAnyLetterCase) {
  EXPECT_EQ(verdict("TRUEPREDICATE and not falsepredicate"), "true");
  EXPECT_EQ(verdict("! TRUEPREDICATE || FALSEPREDICATE"), "false");
  EXPECT_EQ(verdict("FALSEPREDICATE && (1 == 1) OR @status(test.boolean-value) == YES"), "true");
}

TEST(Predicate, AnUnknownItemIsNil) {
  EXPECT_EQ(verdict("@status(no.such.item) == NIL"), "true");
  EXPECT_EQ(verdict("@status(no.such.item) > 1"), "false");
  EXPECT_EQ(verdict("@property(nothing) BEGINSWITH 'a'"), "false");
}

TEST(Predicate, RefusesWhatItsGrammarLacks) {
  for (const char* text : {"", "   ", "1", "1 ==", "== 1", "(1 == 1", "1 == 1)", "'a", "1 == 1 2 == 2", "a == 1", "SELF == 1", "'a' MATCHES 'b'",
                           "SUBQUERY(1) == 1", "1 == 1 AND", "{1, 2", "1 <[c] 2", "'a' LIKE[d] 'b'", "%@ == 1", "FUNCTION('a', 'b') == 1", "nan == 1"})
    EXPECT_EQ(verdict(text), "Error.UnableToParsePredicate") << text;
}

TEST(Predicate, RefusesUnknownOrBrokenCustomOperators) {
  for (const char* text : {"@count(a) == 1", "@status == 1", "@status() == 1", "@status(a b) == 1", "@ == 1", "1 == @property(a"})
    EXPECT_EQ(verdict(text), "Error.UnableToParsePredicateWithCustomOperator") << text;
}

TEST(Predicate, SaysWhenItsOperandsDoNotFit) {
  for (const char* text : {"'a' < 1", "1 BEGINSWITH 'a'", "ANY 1 == 1", "1 BETWEEN 2", "1 IN 2", "@status(test.array-value)[3] == 'x'", "1[FIRST] == 1"})
    EXPECT_EQ(verdict(text), "Error.UnableToEvaluatePredicate") << text;
}

TEST(Predicate, FailsWhenItsValuesCannotBeHad) {
  const auto predicate = Predicate::parse("@status(a) == 1");
  const auto held = predicate->evaluate({.status = [](const std::string&) -> std::optional<json> { throw std::runtime_error("gone"); }, .property = {}});
  ASSERT_FALSE(held);
  EXPECT_EQ(code(held.error().problem), "Error.PredicateFailed");
}

TEST(Predicate, AThousandParenthesesAreAnErrorAndNoStackOverflow) {
  const auto nested = [](size_t depth, std::string open, const std::string& close) {
    std::string text;
    for (size_t i = 0; i < depth; ++i) text += open;
    text += "1 == 1";
    for (size_t i = 0; i < depth; ++i) text += close;
    return text;
  };
  EXPECT_EQ(verdict(nested(30, "(", ")")), "true");
  EXPECT_EQ(verdict(nested(1000, "(", ")")), "Error.UnableToParsePredicate");
  EXPECT_EQ(verdict(nested(1000, "NOT ", "")), "Error.UnableToParsePredicate");
  EXPECT_EQ(verdict(nested(1000, "{", "}")), "Error.UnableToParsePredicate");
  EXPECT_EQ(verdict("1" + nested(1000, "[0]", "")), "Error.UnableToParsePredicate");
  std::string wide = "1 == 1";
  for (int i = 0; i < 2000; ++i) wide += " AND 1 == 1";
  EXPECT_EQ(verdict(wide), "Error.UnableToParsePredicate");
}

TEST(Predicate, NamesWhatItLooksAt) {
  const auto predicate = Predicate::parse("@status(a.b) == 1 OR @property(ring) == @status(c)");
  ASSERT_TRUE(predicate);
  EXPECT_EQ(predicate->statusItems(), (std::set<std::string>{"a.b", "c"}));
  EXPECT_EQ(predicate->properties(), std::set<std::string>{"ring"});
}

}  // namespace
}  // namespace wayleave::management
