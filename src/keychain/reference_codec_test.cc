#include "keychain/reference_codec.h"

#include <gtest/gtest.h>

#include "base/osstatus.h"
#include "keychain/reference_vectors_test_support.h"

namespace wayleave::keychain {
namespace {

using namespace vectors;

constexpr std::string_view kToken = "746b707230220c04636572740c13636f6d2e6578616d706c652e746f6b656e3a3104050102030405";

FileReference sample(RecordType type) {
  FileReference reference;
  reference.keychainPath = "~/Library/Keychains/login.keychain-db";
  reference.item.recordType = type;
  for (const AttributeName& name : primaryKeyAttributes(type))
    reference.item.attributes.push_back(name.format == AttributeFormat::Uint32 ? Bytes{1, 0, 0, 0}
                                                                               : toBytes(name.name));
  return reference;
}

void expectRoundTrip(const Reference& reference) {
  const Bytes bytes = encodeReference(reference).value();
  const Decoded decoded = decodeReference(bytes).value();
  EXPECT_EQ(decoded.reference, reference);
  EXPECT_EQ(encodeReference(decoded.reference).value(), bytes);
}

TEST(ReferenceCodec, DecodesThePublished196ByteShape) {
  const Decoded decoded = decodeReference(hex(kVectorA), {.fields = true}).value();
  const auto& file = std::get<FileReference>(decoded.reference);
  EXPECT_EQ(file.subservice, SubserviceUid{});
  EXPECT_EQ(file.keychainPath, kSystemKeychain);
  EXPECT_EQ(file.item.recordType, RecordType::Certificate);
  EXPECT_EQ(uint32Attribute(file, 0), 1u);
  EXPECT_EQ(byteOrderOf(file), ByteOrder::Little);
  EXPECT_EQ(describeName(file.item.attributes[1]), "CN=Delegate Test CA, OU=ABCDE12345, O=Acme");
  EXPECT_EQ(toHex(file.item.attributes[2]), "48b494ae47d1b7b07ed8c77a681337a3af8e92a8");
  EXPECT_FALSE(file.identityMarker);
}

TEST(ReferenceCodec, FieldsCoverEveryByteOnceInOrder) {
  for (const std::string& text :
       {std::string(kVectorA) + std::string(kIdentityMarker), std::string(kVectorB), std::string(kToken),
        std::string("63657274000000000000002a"), "6365727400112233445566778899aabbccddeeff" + std::string()}) {
    const Bytes bytes = hex(text);
    size_t at = 0;
    const Decoded decoded = decodeReference(bytes, {.fields = true}).value();
    for (const Field& field : decoded.fields) {
      EXPECT_EQ(field.offset, at) << field.name;
      at += field.length;
    }
    EXPECT_EQ(at, bytes.size());
  }
}

TEST(ReferenceCodec, RoundTripsEveryRecordTypeWithAndWithoutMarkerAndLocation) {
  for (const RecordType type :
       {RecordType::Certificate, RecordType::PublicKey, RecordType::PrivateKey, RecordType::SymmetricKey,
        RecordType::GenericPassword, RecordType::InternetPassword, RecordType::AppleSharePassword}) {
    FileReference reference = sample(type);
    expectRoundTrip(reference);
    reference.identityMarker = true;
    reference.order = {Pair::Ssui, Pair::Dbnm, Pair::Item, Pair::Idnt};
    expectRoundTrip(reference);
    reference.networkLocation = hex("0102030405");
    reference.order = {Pair::Ssui, Pair::Dbnm, Pair::Dblc, Pair::Item, Pair::Idnt};
    expectRoundTrip(reference);
    reference.order = {Pair::Idnt, Pair::Item, Pair::Dblc, Pair::Ssui, Pair::Dbnm};  // a parser must accept any order
    expectRoundTrip(reference);
  }
}

TEST(ReferenceCodec, RoundTripsEveryDataProtectionForm) {
  for (const std::string_view name : {"genp", "inet", "apls", "cert", "keys", "idnt"}) {
    const ItemClass itemClass = itemClassFrom(name).value();
    expectRoundTrip(RowReference{itemClass, 42});
    expectRoundTrip(RowReference{itemClass, -1});
    expectRoundTrip(UuidReference{itemClass, {0xff, 1, 2}});
    expectRoundTrip(TokenReference{itemClass, "com.apple.setoken", Bytes(300, 7)});
  }
  EXPECT_EQ(std::get<RowReference>(decodeReference(hex("63657274000000000000002a")).value().reference).rowId, 42);
  EXPECT_FALSE(itemClassFrom("CERT"));
}

TEST(ReferenceCodec, ReadsTheTokenForm) {
  const Decoded decoded = decodeReference(hex(kToken)).value();
  EXPECT_EQ(std::get<TokenReference>(decoded.reference),
            (TokenReference{ItemClass::Certificate, "com.example.token:1", hex("0102030405")}));
}

TEST(ReferenceCodec, AcceptsBothByteOrdersOfCertType) {
  FileReference reference = sample(RecordType::Certificate);
  reference.item.attributes[0] = {0, 0, 0, 1};
  EXPECT_EQ(byteOrderOf(reference), ByteOrder::Big);
  EXPECT_EQ(uint32Attribute(reference, 0), 1u);
  expectRoundTrip(reference);
  reference.item.attributes[0] = {1, 0, 0, 0};
  EXPECT_EQ(byteOrderOf(reference), ByteOrder::Little);
  EXPECT_EQ(uint32Attribute(reference, 0), 1u);
  EXPECT_EQ(byteOrderOf(sample(RecordType::GenericPassword)), ByteOrder::Unknown);
  EXPECT_FALSE(uint32Attribute(reference, 9));
}

struct Liberty {
  std::string name, bytes;
  size_t offset;
};

TEST(ReferenceCodec, StrictRefusesAndLenientReportsEachLibertyOfApplesParser) {
  const std::string a(kVectorA);
  const std::string ssui = a.substr(0, 80), dbnm = a.substr(80, 86), item = a.substr(166);
  const Liberty liberties[] = {
      {"trailing byte", a + "00", 196},
      {"cut-off pair at the end", a + "69646e7400000005ffffffff", 196},
      {"unknown pair",
       ssui +
           "78787878"
           "00000001"
           "00" +
           dbnm + item,
       40},
      {"second path", a + dbnm, 196},
      {"idnt of another value", a + "69646e740000000400000001", 204},
      {"path without NUL",
       ssui +
           "64626e6d"
           "00000002"
           "2f61" +
           item,
       50},
      {"bytes after the path's NUL",
       ssui +
           "64626e6d"
           "00000004"
           "2f610000" +
           item,
       51},
      {"long ssui", "7373756900000021" + ssui.substr(16) + "00" + dbnm + item, 40},
      {"bytes after the last attribute", ssui + dbnm + "6974656d0000006b" + item.substr(16) + "abcd", 196},
      {"CertType of two bytes",
       ssui + dbnm +
           "6974656d00000067"
           "80001000"
           "00000002"
           "0100" +
           item.substr(40),
       95},
  };
  for (const Liberty& liberty : liberties) {
    const Bytes bytes = hex(liberty.bytes);
    const Result<Decoded> strict = decodeReference(bytes);
    ASSERT_FALSE(strict) << liberty.name;
    EXPECT_TRUE(strict.error().message.ends_with(" at offset " + std::to_string(liberty.offset)))
        << liberty.name << ": " << strict.error().message;
    const Result<Decoded> lenient = decodeReference(bytes, {.lenient = true, .fields = true});
    ASSERT_TRUE(lenient) << liberty.name << ": " << lenient.error().message;
    ASSERT_EQ(lenient->warnings.size(), 1u) << liberty.name;
    EXPECT_EQ(lenient->warnings[0].offset, liberty.offset) << liberty.name;
  }
}

TEST(ReferenceCodec, NamesWhatApplesCodeWouldReturn) {
  const std::string a(kVectorA);
  EXPECT_EQ(decodeReference(hex("00")).error().osStatus, errSecItemNotFound);
  EXPECT_EQ(decodeReference(hex("000000000000000000")).error().osStatus, errSecItemNotFound);
  const std::string shortKey = a.substr(0, 166) +
                               "6974656d"
                               "00000003"
                               "800010";
  EXPECT_EQ(decodeReference(hex(shortKey), {.lenient = true}).error().osStatus, errSecNoSuchAttr);
  const std::string noSerial = a.substr(0, 166) +
                               "6974656d"
                               "0000000c"
                               "80001000"
                               "00000004"
                               "01000000";
  EXPECT_EQ(decodeReference(hex(noSerial), {.lenient = true}).error().osStatus, errSecNoSuchAttr);
}

TEST(ReferenceCodec, RefusesDamagedForms) {
  const std::pair<std::string_view, std::string_view> damaged[] = {
      {"", "too short for any reference: it ends at offset 0"},
      {"6365727400112233445566778899aabbccddee",
       "a cert reference has 12 or 20 bytes, not 19: cut off or too long at offset 19"},
      {"6365727400112233445566778899aabbccddeeff00",
       "a cert reference has 12 or 20 bytes, not 21: cut off or too long at offset 20"},
      {"746b7072300200", "token reference: DER length 2 is more than the 1 bytes that are left at offset 4"},
      {"746b70723000", "token reference: DER element is cut off at offset 6"},
      {"746b7072300b0c04434552540c01610401ff", "token reference: bytes after the DER SEQUENCE at offset 17"},
      {"746b7072300c0c04434552540c01610401ff", "token reference: unknown class CERT at offset 8"},
      {"746b7072300c0c04636572740c01ff0401ff", "token reference: the token ID is not UTF-8 at offset 14"},
      {"746b7072300e0c04636572740c01610401ff0500", "token reference: more than three elements at offset 18"},
      {"746b707230810c0c04636572740c01610401ff", "token reference: DER length is not in its shortest form at offset 4"},
      {"7373756900000001ff", "ssui value of 1 bytes, not 32 at offset 8"},
      {"737375690000ffff", "pair ssui claims 65535 bytes of the 0 that are left at offset 0"},
  };
  for (const auto& [text, message] : damaged) EXPECT_EQ(decodeReference(hex(text)).error().message, message) << text;
  EXPECT_EQ(decodeReference(Bytes(kMaxReferenceBytes + 1)).error().reason, Reason::BadInput);
}

TEST(ReferenceCodec, EncodeRefusesWhatCannotBeDecodedAgain) {
  FileReference reference = sample(RecordType::Certificate);
  reference.item.attributes.pop_back();
  EXPECT_EQ(encodeReference(reference).error().message, "encode reference: 2 attributes, not 3");
  reference = sample(RecordType::Certificate);
  reference.order = {Pair::Ssui, Pair::Item};
  EXPECT_FALSE(encodeReference(reference));
  reference.order = {Pair::Ssui, Pair::Item, Pair::Item, Pair::Dbnm};
  EXPECT_FALSE(encodeReference(reference));
  reference.order = {Pair::Ssui, Pair::Dbnm, Pair::Item, Pair::Idnt};
  EXPECT_FALSE(encodeReference(reference));
  reference = sample(RecordType::Certificate);
  reference.item.attributes[0] = {1};
  EXPECT_FALSE(encodeReference(reference));
  EXPECT_FALSE(encodeReference(TokenReference{ItemClass::Key, "\xff", {}}));
  EXPECT_FALSE(encodeReference(TokenReference{ItemClass::Key, "a", Bytes(kMaxReferenceBytes)}));
}

TEST(ReferenceCodec, KnowsThePlugInGuids) {
  EXPECT_EQ(formatGuid(kAppleFileDlGuid), "87191ca3-0fc9-11d4-849a-000502b52122");
  EXPECT_FALSE(guidMeaning(kAppleFileDlGuid).empty());
  EXPECT_TRUE(guidMeaning(Guid{}).empty());
}

TEST(DescribeName, EscapesControlCharactersAndIsEmptyForOtherBytes) {
  EXPECT_EQ(describeName(name({rdn(kCn, der::kUtf8String, "a\x1b[31m")})), "CN=a\\1B[31m");
  EXPECT_EQ(describeName(hex("0401ff")), "");
}

}  // namespace
}  // namespace wayleave::keychain
