#include <gtest/gtest.h>

#include <cmath>

#include "plist/plist.h"
#include "plist/scalars.h"

namespace wayleave::plist {
namespace {

std::string wrapped(std::string_view body) {
  return "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<plist version=\"1.0\">" + std::string(body) + "</plist>";
}
Result<Document> read(std::string_view xml) { return parseXml(asBytes(xml)); }
std::string refusal(std::string_view xml) {
  const auto document = read(xml);
  return document ? "accepted" : document.error().message;
}
#define EXPECT_REFUSED(xml, why) EXPECT_NE(refusal(xml).find(why), std::string::npos) << refusal(xml)

TEST(XmlPlist, ReadsEveryKindOfValue) {
  const auto document = read(wrapped(
      "<dict><key>b</key><true/><key>i</key><integer>-5</integer><key>u</key><integer>18446744073709551615</integer>"
      "<key>r</key><real>1.5</real><key>s</key><string>a &amp; &#233;<![CDATA[<x>]]></string><key>d</key>"
      "<data> AQ\n ID </data><key>t</key><date>2026-11-24T03:26:25Z</date><key>a</key><array><string/></array>"
      "<key>n</key><dict><key>CF$UID</key><integer>7</integer></dict></dict>"));
  ASSERT_TRUE(document) << document.error().message;
  const Dictionary& d = *document->root.dictionary();
  EXPECT_EQ(*d.find("b"), Value(true));
  EXPECT_EQ(*d.find("i"), Value(-5));
  EXPECT_EQ(*d.find("u"), Value(UINT64_MAX));
  EXPECT_FALSE(d.find("u")->integer());
  EXPECT_EQ(*d.find("r"), Value(1.5));
  EXPECT_EQ(*d.find("s"), Value("a & é<x>"));
  EXPECT_EQ(*d.find("d"), Value(Bytes{1, 2, 3}));
  EXPECT_EQ(rfc3339(*d.find("t")->date()->wall()), "2026-11-24T03:26:25Z");
  EXPECT_EQ(*d.find("a"), Value(Array{Value("")}));
  EXPECT_EQ(*d.find("n"), Value(Uid{7}));
  EXPECT_TRUE(document->warnings.empty());
}

TEST(XmlPlist, KeepsTheOrderOfKeys) {
  const auto document = read(wrapped("<dict><key>z</key><true/><key>a</key><true/></dict>"));
  ASSERT_TRUE(document);
  EXPECT_EQ(document->root.dictionary()->entries()[0].key, "z");
}

TEST(XmlPlist, RefusesAKeyWithoutValue) {
  EXPECT_REFUSED(wrapped("<dict><key>Subject</key></dict>"), "the key Subject has no value");
  EXPECT_REFUSED(wrapped("<dict><key>a</key><key>b</key><true/></dict>"), "the key a has no value");
}

TEST(XmlPlist, RefusesStructureThatIsNotAPropertyList) {
  EXPECT_REFUSED(wrapped("<dict><true/></dict>"), "without a key");
  EXPECT_REFUSED(wrapped("<dict><key>a</key><true/><key>a</key><false/></dict>"), "occurs twice");
  EXPECT_REFUSED(wrapped("<key>a</key>"), "<key> outside a dictionary");
  EXPECT_REFUSED(wrapped("<array><key>a</key></array>"), "<key> outside a dictionary");
  EXPECT_REFUSED(wrapped("<array>text</array>"), "text between elements");
  EXPECT_REFUSED(wrapped("<true/><true/>"), "a second value");
  EXPECT_REFUSED(wrapped(""), "is empty");
  EXPECT_REFUSED(wrapped("<string>a<string>b</string></string>"), "inside a value");
  EXPECT_REFUSED(wrapped("<plist><true/></plist>"), "<plist> inside <plist>");
  EXPECT_REFUSED(wrapped("<Dict/>"), "not a property-list element");
  EXPECT_REFUSED(wrapped("<dict a='b'/>"), "has the attribute a");
  EXPECT_REFUSED(wrapped("<true>x</true>"), "text inside a boolean");
  EXPECT_REFUSED("<?xml version=\"1.0\"?><dict/>", "not <plist>");
  EXPECT_REFUSED("", "empty");
  EXPECT_REFUSED("hello", "neither XML nor binary");
  EXPECT_REFUSED("{ a = b; }", "neither XML nor binary");
}

TEST(XmlPlist, NamesLineAndColumn) {
  EXPECT_EQ(refusal("<plist>\n  <array>\n    <integer>x</integer></array></plist>"),
            "line 3, column 5: [0]: \"x\" is not an integer of 64 bits");
}

TEST(XmlPlist, DoctypeIsToleratedButNeverProcessed) {
  EXPECT_TRUE(read("<?xml version='1.0'?><!DOCTYPE plist SYSTEM 'file:///etc/passwd'><plist><true/></plist>"));
  EXPECT_REFUSED("<!DOCTYPE html><plist><true/></plist>", "DOCTYPE html");
  EXPECT_REFUSED("<!DOCTYPE plist SYSTEM 'x'><plist><string>&unknown;</string></plist>", "&unknown; is not defined");
  EXPECT_REFUSED("<plist><string>&unknown;</string></plist>", "undefined entity");
  EXPECT_REFUSED("<plist><string>&amp</string></plist>", "not well-formed");
}

TEST(XmlPlist, BillionLaughsEndsAtTheDoctype) {
  std::string bomb = "<?xml version='1.0'?><!DOCTYPE plist [<!ENTITY l0 'ha'>";
  for (int i = 1; i < 40; ++i)
    bomb += "<!ENTITY l" + std::to_string(i) + " '&l" + std::to_string(i - 1) + ";&l" + std::to_string(i - 1) + ";'>";
  EXPECT_REFUSED(bomb + "]><plist><string>&l39;</string></plist>", "declares a DTD of its own");
}

TEST(XmlPlist, DepthBombIsRefused) {
  std::string bomb = "<plist>";
  for (int i = 0; i < 100'000; ++i) bomb += "<array>";
  EXPECT_REFUSED(bomb, "more than 128 containers");
  std::string deepest;
  for (int i = 0; i < 128; ++i) deepest = "<array>" + deepest + "</array>";
  EXPECT_TRUE(read(wrapped(deepest)));
}

TEST(XmlPlist, CountAndSizeAreLimited) {
  ReadOptions options;
  options.limits.items = 3;
  EXPECT_TRUE(parseXml(asBytes(wrapped("<array><true/><true/></array>")), options));
  EXPECT_FALSE(parseXml(asBytes(wrapped("<array><true/><true/><true/></array>")), options));
  options.limits.bytes = 10;
  EXPECT_FALSE(parseXml(asBytes(wrapped("<true/>")), options));
}

TEST(XmlPlist, TrailingNulBytesAreIgnoredWithAWarning) {
  const auto document = read(wrapped("<true/>") + std::string(3, '\0'));
  ASSERT_TRUE(document) << document.error().message;
  ASSERT_EQ(document->warnings.size(), 1u);
  EXPECT_NE(document->warnings[0].find("3 NUL bytes"), std::string::npos);
  EXPECT_FALSE(read("<plist><true/>" + std::string(1, '\0') + "</plist>"));
}

TEST(XmlPlist, MissingDeclarationAndOddVersionAreWarnings) {
  EXPECT_EQ(read("<plist version='1.0'><true/></plist>")->warnings.size(), 1u);
  EXPECT_EQ(read("<?xml version='1.0'?><plist version='0.9'><true/></plist>")->warnings.size(), 1u);
}

TEST(XmlPlist, CommentsMayComeBeforeTheRootButNotWithTwoHyphens) {
  EXPECT_TRUE(read("<?xml version='1.0'?><!-- a --><plist><!-- b --><true/></plist>"));
  EXPECT_FALSE(read("<?xml version='1.0'?><!-- a -- b --><plist><true/></plist>"));
}

TEST(XmlPlist, ReadsUtf16AndRefusesUnknownEncodings) {
  std::string wide("\xff\xfe", 2);
  for (const char c : std::string("<plist><string>x</string></plist>")) wide += std::string{c, '\0'};
  const auto document = read(wide);
  ASSERT_TRUE(document) << document.error().message;
  EXPECT_EQ(document->root, Value("x"));
  EXPECT_FALSE(read("<?xml version='1.0' encoding='klingon'?><plist><true/></plist>"));
  EXPECT_FALSE(read(wrapped("<string>\xff</string>")));
}

TEST(XmlPlist, EveryPrefixOfAFileIsRefused) {
  const std::string whole =
      wrapped("<dict><key>a</key><array><data>AQID</data><date>2026-01-01T00:00:00Z</date></array></dict>");
  ASSERT_TRUE(read(whole));
  for (size_t length = 0; length < whole.size(); ++length)
    EXPECT_FALSE(read(std::string_view(whole).substr(0, length))) << length;
}

TEST(XmlPlist, UnfilledTemplateVariableInDataIsNamedNotDecoded) {
  const auto document = read(wrapped("<dict><key>P</key><data>$FLEET_VAR_CA</data></dict>"));
  ASSERT_FALSE(document);
  EXPECT_NE(document.error().message.find("P: <data> is not base64"), std::string::npos) << document.error().message;
  EXPECT_NE(document.error().hint.find("template variable"), std::string::npos);
}

TEST(XmlPlist, RecordsTheLineOfEachValue) {
  const auto document =
      parseXml(asBytes("<plist>\n<dict>\n<key>a</key>\n<array>\n<true/>\n<dict><key>b</key>\n<true/></dict>"
                       "</array>\n<key>c</key><true/></dict></plist>"),
               {.recordLines = true});
  ASSERT_TRUE(document) << document.error().message;
  EXPECT_EQ(document->lines, (Lines{{"", 2}, {"a", 4}, {"a[0]", 5}, {"a[1]", 6}, {"a[1].b", 7}, {"c", 8}}));
}

TEST(Integers, HaveAppleForms) {
  EXPECT_EQ(*parseInteger(" 42\n"), Value(42));
  EXPECT_EQ(*parseInteger("+0x1F"), Value(31));
  EXPECT_EQ(*parseInteger("-9223372036854775808"), Value(INT64_MIN));
  EXPECT_EQ(*parseInteger("9223372036854775808"), Value(uint64_t{1} << 63));
  for (const char* bad :
       {"", " ", "-", "0x", "1.0", "--1", "+-1", "18446744073709551616", "-9223372036854775809", "1 2", "0x-1", "ten"})
    EXPECT_FALSE(parseInteger(bad)) << bad;
}

TEST(Reals, HaveAppleForms) {
  EXPECT_EQ(*parseReal("1e4"), 10000.0);
  EXPECT_EQ(*parseReal("-.5"), -0.5);
  EXPECT_TRUE(std::isinf(*parseReal("-infinity")));
  EXPECT_TRUE(std::isnan(*parseReal("nan")));
  for (const char* bad : {"", "1e999", "--1", "-inf1", "1,5", "nan(1)", "0x10", "infx"})
    EXPECT_FALSE(parseReal(bad)) << bad;
}

TEST(Dates, AreStrict) {
  EXPECT_EQ(parseDate("2001-01-01T00:00:00Z")->secondsSince2001, 0);
  EXPECT_EQ(formatDate(*parseDate("2024-02-29T23:59:59Z")), "2024-02-29T23:59:59Z");
  for (const char* bad :
       {"", "2026-02-30T00:00:00Z", "2026-13-01T00:00:00Z", "4016-07-0-11", "2026-01-01", "2026-01-01T24:00:00Z",
        "2026-01-01T00:00:60Z", "2026-01-01T00:00:00+01:00", "0000-01-01T00:00:00Z"})
    EXPECT_FALSE(parseDate(bad)) << bad;
  EXPECT_FALSE(formatDate(Date{std::nan("")}));
  EXPECT_FALSE(Date{1e300}.wall());
}

TEST(XmlWriter, RoundTripsEveryKind) {
  Dictionary d;
  d.add("text", "a<b>&\r\n\té");
  d.add("real", 0.1);
  d.add("large", UINT64_MAX);
  d.add("data", Bytes(200, 0xab));
  d.add("uid", Uid{9});
  d.add("empty", Array{});
  d.add("date", *parseDate("2026-11-24T03:26:25Z"));
  d.add("list", Array{Value(false), Value(Dictionary{})});
  const Value root(d);
  const auto xml = toXml(root);
  ASSERT_TRUE(xml);
  const auto back = read(*xml);
  ASSERT_TRUE(back) << back.error().message << *xml;
  EXPECT_EQ(back->root, root);
  EXPECT_TRUE(back->warnings.empty());
}

TEST(XmlWriter, RefusesWhatXmlCannotCarryNamingTheKey) {
  Dictionary d;
  d.add("bell", "\a");
  const auto xml = toXml(Value(d));
  ASSERT_FALSE(xml);
  EXPECT_NE(xml.error().message.find("bell"), std::string::npos);
  EXPECT_FALSE(toXml(Value("\xff")));
  EXPECT_FALSE(toXml(Value(Date{1e300})));
  Value deep(Array{});
  for (int i = 0; i < 600; ++i) deep = Value(Array{deep});
  EXPECT_FALSE(toXml(deep));
}

TEST(DictionaryTest, FindsKeysBeyondTheScanAndRefusesDuplicates) {
  Dictionary d;
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(d.add("k" + std::to_string(i), i));
  EXPECT_FALSE(d.add("k999", 0));
  EXPECT_EQ(*d.find("k500"), Value(500));
  EXPECT_EQ(d.find("k1000"), nullptr);
  d.set("k5", "five");
  EXPECT_EQ(d.entries()[5].value, Value("five"));
  Dictionary copy = d;
  copy.add("more", true);
  EXPECT_FALSE(copy == d);
  EXPECT_EQ(d.size(), 1000u);
}

}  // namespace
}  // namespace wayleave::plist
