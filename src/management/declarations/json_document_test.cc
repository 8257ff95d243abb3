#include "management/declarations/json_document.h"

#include <gtest/gtest.h>

namespace wayleave::management {
namespace {

std::string refusal(std::string_view text, const JsonLimits& limits = {}) {
  const auto read = readJson(asBytes(text), limits);
  return read ? "" : read.error().message;
}

TEST(JsonDocument, ReadsValuesWithTheirLines) {
  const auto read = readJson(asBytes("{\n \"a\": [1, -2.5e1, true],\n \"b\": {\"c\":\n \"x\\u00e9\\ud83d\\ude00\\n\"}}"));
  ASSERT_TRUE(read) << read.error().message;
  const plist::Dictionary& root = *read->root.dictionary();
  EXPECT_EQ((*root.find("a")->array())[0].integer(), 1);
  EXPECT_EQ((*root.find("a")->array())[1].real(), -25.0);
  EXPECT_EQ(*root.find("b")->dictionary()->find("c")->string(), "x\u00e9\U0001F600\n");
  EXPECT_EQ(read->lines.at("a[2]"), 2U);
  EXPECT_EQ(read->lines.at("b.c"), 4U);
}

TEST(JsonDocument, RefusesWithThePosition) {
  EXPECT_EQ(refusal("{\"a\": 1,\n \"a\": 2}"), "not JSON: line 2, column 5: the object has \"a\" twice");
  for (const char* text : {"", "{", "[1,]", "{\"a\" 1}", "{a: 1}", "01", "1.", "-", ".5", "+1", "1e", "nul", "null", "\"a", "\"\x01\"", "\"\\x\"",
                           "\"\\ud800\"", "\"\\udc00\"", "\"\\u12\"", "\"\xff\"", "{} {}", "99999999999999999999", "1e999", "// x\n1", "'a'", "tru"})
    EXPECT_NE(refusal(text), "") << text;
}

TEST(JsonDocument, KeepsItsBounds) {
  EXPECT_EQ(refusal(std::string(64, '[') + std::string(64, ']')), "");
  EXPECT_NE(refusal(std::string(100'000, '[')), "");
  std::string objects;
  for (int i = 0; i < 100; ++i) objects += "{\"a\":";
  EXPECT_NE(refusal(objects).find("deeper"), std::string::npos);
  EXPECT_NE(refusal("[1,2,3]", {.items = 3}), "");
  EXPECT_NE(refusal("[1,2,3]", {.bytes = 3}), "");
}

}  // namespace
}  // namespace wayleave::management
