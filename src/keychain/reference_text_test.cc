#include "keychain/reference_text.h"

#include <gtest/gtest.h>

#include "keychain/reference_vectors_test_support.h"

namespace wayleave::keychain {
namespace {

const Bytes kUuidReference = vectors::hex("6365727400112233445566778899aabbccddeeff");

TEST(ReferenceFromText, ReadsHexAsPeoplePasteIt) {
  for (const std::string_view text :
       {"6365727400112233445566778899aabbccddeeff", "0x6365727400112233445566778899AABBCCDDEEFF",
        "<63657274 00112233 44556677 8899aabb ccddeeff>\n",
        " 63:65:72:74:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff",
        "63657274 0011223344556677\n8899aabbccddeeff\r\n",
        "{length = 20, bytes = 0x63657274 00112233 44556677 8899aabb ccddeeff }"})
    EXPECT_EQ(referenceFromText(text).value_or(Bytes{}), kUuidReference) << text;
}

TEST(ReferenceFromText, ReadsBase64WithAndWithoutPaddingAndLineBreaks) {
  const std::string encoded = toBase64(kUuidReference);
  EXPECT_EQ(referenceFromText(encoded).value(), kUuidReference);
  EXPECT_EQ(referenceFromText(encoded.substr(0, 8) + "\n" + encoded.substr(8)).value(), kUuidReference);
  EXPECT_EQ(referenceFromText(toBase64Url(kUuidReference)).value(), kUuidReference);
}

TEST(ReferenceFromText, SaysWhenTheSystemShortenedTheText) {
  const Result<Bytes> shortened = referenceFromText("{length = 196, bytes = 0x73737569 00000020 ... a8}");
  EXPECT_EQ(shortened.error().message, "the text holds an ellipsis: bytes are missing");
  EXPECT_FALSE(shortened.error().hint.empty());
  EXPECT_EQ(referenceFromText("{length = 21, bytes = 0x63657274}").error().message,
            "the text says 21 bytes and holds 4");
}

TEST(ReferenceFromText, RefusesNonsenseWithTheOffset) {
  EXPECT_EQ(referenceFromText("").error().reason, Reason::BadInput);
  EXPECT_EQ(referenceFromText("636").error().reason, Reason::BadInput);
  EXPECT_EQ(referenceFromText("6365!!").error().message,
            "reference text is neither hex (offset 4) nor base64 (not a base64 character at offset 4)");
  EXPECT_EQ(referenceFromText("{}").error().reason, Reason::BadInput);
  EXPECT_EQ(referenceFromText("{length = x, bytes = 0x00}").error().reason, Reason::BadInput);
  EXPECT_EQ(referenceFromText(std::string(1'000'000, 'a')).error().reason, Reason::BadInput);
}

}  // namespace
}  // namespace wayleave::keychain
