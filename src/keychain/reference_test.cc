#include "keychain/reference.h"

#include <gtest/gtest.h>

#include "keychain/reference_codec.h"
#include "keychain/reference_vectors_test_support.h"

namespace wayleave::keychain {
namespace {

using namespace vectors;

const Bytes kIssuerA = name({rdn(kCn, der::kUtf8String, "Delegate Test CA"), rdn(kOu, der::kUtf8String, "ABCDE12345"),
                             rdn(kO, der::kUtf8String, "Acme")});
const Bytes kSerialA = hex("48b494ae47d1b7b07ed8c77a681337a3af8e92a8");

TEST(MintFileReference, MakesVectorAWithAndWithoutTheIdentityMarker) {
  EXPECT_EQ(toHex(mintFileReference(kSystemKeychain, kIssuerA, kSerialA).value()), kVectorA);
  EXPECT_EQ(toHex(mintFileReference(kSystemKeychain, kIssuerA, kSerialA, true).value()),
            std::string(kVectorA) + std::string(kIdentityMarker));
}

TEST(MintFileReference, MakesVectorB) {
  const Bytes issuer = name({rdn(kCn, der::kUtf8String, "keychainbreaker-test")});
  EXPECT_EQ(toHex(mintFileReference(kSystemKeychain, issuer, hex("51946dcaf71850553106e16dc012ee958b2c3d6e")).value()),
            kVectorB);
}

TEST(MintFileReference, RefusesWhatNoReferenceCanHold) {
  EXPECT_EQ(mintFileReference(kSystemKeychain, kIssuerA, {}).error().reason, Reason::BadInput);
  EXPECT_EQ(mintFileReference("", kIssuerA, kSerialA).error().reason, Reason::BadInput);
  EXPECT_EQ(mintFileReference(std::string_view("/a\0b", 4), kIssuerA, kSerialA).error().reason, Reason::BadInput);
  EXPECT_EQ(mintFileReference(kSystemKeychain, hex("0401ff"), kSerialA).error().message,
            "mint reference: issuer name: Name expected at offset 0, found DER tag 0x04");
  EXPECT_EQ(mintFileReference(std::string(kMaxReferenceBytes, 'x'), kIssuerA, kSerialA).error().reason,
            Reason::BadInput);
}

TEST(MintDataProtectionReference, IsClassAndUuid) {
  std::array<uint8_t, 16> uuid;
  std::ranges::copy(hex("00112233445566778899aabbccddeeff"), uuid.begin());
  const Bytes bytes = mintDataProtectionReference(ItemClass::Certificate, uuid);
  EXPECT_EQ(toHex(bytes), "6365727400112233445566778899aabbccddeeff");
  const auto key = lookupKey(bytes).value();
  EXPECT_EQ(std::get<DataProtectionItemKey>(key).uuid, uuid);
  EXPECT_EQ(std::get<DataProtectionItemKey>(key).itemClass, ItemClass::Certificate);
}

TEST(LookupKey, NamesPathIssuerSerialAndMarker) {
  const auto without = std::get<FileItemKey>(lookupKey(hex(kVectorA)).value());
  EXPECT_EQ(without.keychainPath, kSystemKeychain);
  EXPECT_EQ(without.issuer, kIssuerA);
  EXPECT_EQ(without.serial, kSerialA);
  EXPECT_FALSE(without.identityMarker);
  EXPECT_TRUE(std::get<FileItemKey>(lookupKey(hex(std::string(kVectorA) + std::string(kIdentityMarker))).value())
                  .identityMarker);
}

TEST(LookupKey, RefusesTrailingAndMissingBytesWithTheOffset) {
  const Bytes a = hex(kVectorA);
  Bytes longer = a;
  longer.push_back(0);
  EXPECT_EQ(lookupKey(longer).error().message, "1 bytes are too short for a pair at offset 196");
  for (size_t length = 0; length < a.size(); ++length)
    EXPECT_EQ(lookupKey(ByteView(a).first(length)).error().reason, Reason::BadInput) << length;
}

TEST(LookupKey, CallsFormsThatAreNeverMintedUnsupported) {
  EXPECT_EQ(lookupKey(hex("63657274000000000000002a")).error().reason, Reason::Unsupported);
  EXPECT_EQ(
      lookupKey(hex("746b707230220c04636572740c13636f6d2e6578616d706c652e746f6b656e3a3104050102030405")).error().reason,
      Reason::Unsupported);
  FileReference password;
  password.keychainPath = "~/Library/Keychains/login.keychain-db";
  password.item = {RecordType::GenericPassword, {toBytes("account"), toBytes("service")}};
  EXPECT_EQ(lookupKey(encodeReference(password).value()).error().reason, Reason::Unsupported);
}

TEST(NormalisedName, ChangesPrintableStringsOnly) {
  const Bytes mixed =
      name({rdn(kCn, der::kPrintableString, "  Delegate \t Test CA  "), rdn(kO, der::kUtf8String, " Acme  Ltd ")});
  const Bytes expected =
      name({rdn(kCn, der::kPrintableString, "DELEGATE TEST CA"), rdn(kO, der::kUtf8String, " Acme  Ltd ")});
  EXPECT_EQ(normalisedName(mixed).value(), expected);
  EXPECT_EQ(normalisedName(expected).value(), expected);
}

TEST(NormalisedName, KeepsTheFirstCharacterOfARunAndDropsTrailingNuls) {
  const Bytes tabbed = name({rdn(kCn, der::kPrintableString, std::string_view("a\t b\0\0", 6))});
  EXPECT_EQ(normalisedName(tabbed).value(), name({rdn(kCn, der::kPrintableString, "A\tB")}));
}

TEST(NormalisedName, RecomputesLengthsAcrossTheLongForm) {
  const std::string wide = "a" + std::string(200, ' ') + "b";
  EXPECT_EQ(normalisedName(name({rdn(kCn, der::kPrintableString, wide)})).value(),
            name({rdn(kCn, der::kPrintableString, "A B")}));
  const std::string longText(300, 'x');
  EXPECT_EQ(normalisedName(name({rdn(kCn, der::kUtf8String, longText)})).value(),
            name({rdn(kCn, der::kUtf8String, longText)}));
}

TEST(NormalisedName, RefusesWhatIsNotAName) {
  for (const std::string_view text :
       {"", "30", "3005", "300100", "30023100ff", "3080", "3103020101", "30053103020101", "3006310430020500"})
    EXPECT_EQ(normalisedName(hex(text)).error().reason, Reason::BadInput) << text;
}

}  // namespace
}  // namespace wayleave::keychain
