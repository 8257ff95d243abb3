#include <gtest/gtest.h>

#include "base/osstatus.h"
#include "keychain/explain/render.h"
#include "keychain/identity_test_support.h"
#include "keychain/kych_writer.h"
#include "keychain/reference_vectors_test_support.h"

namespace wayleave::keychain::explain {
namespace {

const Bytes kRef20 = vectors::hex("6365727400112233445566778899aabbccddeeff");
const Bytes kSsui = vectors::hex(vectors::kVectorA);

bool mentions(const std::vector<Statement>& statements, std::string_view what) {
  return std::ranges::any_of(statements, [&](const Statement& s) { return s.text.find(what) != std::string::npos; });
}

const Cell& cell(const ReferenceExplanation& e, std::string_view context, size_t call) {
  for (const MatrixRow& row : e.matrix)
    if (row.caller->id == context) return row.cells.at(call);
  std::abort();
}

TEST(ExplainReference, CorrectsWhatIsBelievedAboutThe196Bytes) {
  const ReferenceExplanation e = explainReference(kSsui, false).value();
  EXPECT_TRUE(mentions(e.notes, "issuer, normalised, not its subject"));
  EXPECT_TRUE(mentions(e.notes, "serial number"));
  EXPECT_TRUE(mentions(e.notes, "constant GUID"));
  EXPECT_TRUE(e.advice.empty());  // it resolves: nothing to work around
  EXPECT_EQ(cell(e, "daemon", 0).inUser.status, 0);
  EXPECT_EQ(cell(e, "daemon", 1).inUser.status, 0);
}

TEST(ExplainReference, ShowsThePostsSixStatusesInTheDaemonsRow) {
  const ReferenceExplanation e = explainReference(kRef20, false).value();
  EXPECT_EQ(cell(e, "daemon", 2).inSystem.status, errSecNotAvailable);
  EXPECT_EQ(cell(e, "daemon", 3).inSystem.status, errSecParam);
  EXPECT_EQ(cell(e, "daemon", 4).inSystem.status, errSecItemNotFound);
  EXPECT_EQ(cell(e, "daemon", 5).inSystem.status, errSecItemNotFound);
  EXPECT_EQ(cell(e, "daemon", 0).inSystem.status, errSecNotAvailable);
  EXPECT_EQ(cell(e, "daemon-with-secd", 6).inSystem.status, errSecMissingEntitlement);
  EXPECT_EQ(e.advice.size(), 6u);
  EXPECT_TRUE(mentions(e.where, "the bytes do not say in which"));
}

TEST(ExplainReference, PredictsBothHomesOfADataProtectionReference) {
  const ReferenceExplanation e = explainReference(kRef20, false, {dispatch::findContext("app")}).value();
  ASSERT_EQ(e.matrix.size(), 1u);
  EXPECT_TRUE(e.matrix[0].cells[0].differs());
  EXPECT_EQ(e.matrix[0].cells[0].inUser.status, 0);
  EXPECT_EQ(e.matrix[0].cells[0].inSystem.status, errSecItemNotFound);
}

TEST(ExplainReference, IsStrictUnlessAskedToBeLenient) {
  Bytes longer = kSsui;
  longer.push_back(0);
  EXPECT_EQ(explainReference(longer, false).error().reason, Reason::BadInput);
  const ReferenceExplanation e = explainReference(longer, true).value();
  EXPECT_EQ(e.decoded.warnings.size(), 1u);
  EXPECT_NE(toText(e, {}).find("offset 196"), std::string::npos);
}

TEST(ExplainStatus, HasAllNamesOfMinus50AndTheCausesOfMinus25291) {
  EXPECT_EQ(explainStatus(errSecParam)->names.size(), 12u);
  const StatusExplanation e = explainStatus(errSecNotAvailable).value();
  EXPECT_GE(e.producers.size(), 6u);
  EXPECT_GE(e.apart.size(), 5u);
  EXPECT_FALSE(explainStatus(-1234));
  for (const OSStatusName& name : osStatusNames()) EXPECT_TRUE(explainStatus(name.value));
}

TEST(ParseStatus, TakesNumbersNamesAndAForgottenSign) {
  EXPECT_EQ(parseStatus("-25291"), errSecNotAvailable);
  EXPECT_EQ(parseStatus("25291"), errSecNotAvailable);
  EXPECT_EQ(parseStatus("errSecItemInvalidKey"), errSecParam);
  EXPECT_EQ(parseStatus("errSecUnsupportedOperation"), errSecUnimplemented);
  EXPECT_EQ(parseStatus("0xffff9d35"), errSecNotAvailable);
  EXPECT_EQ(parseStatus("12345"), 12345);
  for (const char* text : {"", "abc", "6365727400112233445566778899aabbccddeeff", "-", "0x63657274", "25291x"})
    EXPECT_FALSE(parseStatus(text)) << text;
}

TEST(Render, ColoursOnlyWhenAsked) {
  const ReferenceExplanation e = explainReference(kSsui, false).value();
  EXPECT_EQ(toText(e, {}).find('\x1b'), std::string::npos);
  EXPECT_NE(toText(e, {.colour = true}).find('\x1b'), std::string::npos);
}

TEST(Render, LetsNoControlCharacterOfTheInputThrough) {
  FileReference file;
  file.keychainPath = "/\x1b[2J/\x9b";
  file.item = {RecordType::GenericPassword, {toBytes("\x07"), toBytes("s")}};
  const ReferenceExplanation e = explainReference(encodeReference(file).value(), false).value();
  const std::string text = toText(e, {});
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_EQ(text.find('\x07'), std::string::npos);
  EXPECT_EQ(text.find("\x9b"), std::string::npos);
  EXPECT_NO_THROW((void)toJson(e).dump());
  EXPECT_EQ(printable("a\x1b\xc2\x9b\xff\xc3\xa9"), "a\\x1b\\xc2\\x9b\\xff\xc3\xa9");
}

TEST(Render, JsonCarriesTheMarksAndEveryField) {
  const nlohmann::ordered_json json = toJson(explainReference(kRef20, false).value());
  EXPECT_EQ(json["length"], 20);
  EXPECT_EQ(json["fields"].size(), 2u);
  EXPECT_EQ(json["matrix"].size(), dispatch::contexts().size());
  EXPECT_TRUE(json["matrix"][0]["calls"][0]["inUserKeychain"].contains("certainty"));
}

TEST(ExplainQuery, ShowsEveryStepOfOneContextAndTheCauses) {
  const dispatch::Query query = dispatch::parseQuery({"ref=@", "class=identity"}, kRef20).value();
  const QueryExplanation one = explainQuery(dispatch::Api::CopyMatching, query, {dispatch::findContext("daemon")});
  const std::string text = toText(one, {});
  EXPECT_NE(text.find("decided by rule 6.5 [doc]"), std::string::npos) << text;
  EXPECT_NE(text.find("Which cause of -25291"), std::string::npos);
  EXPECT_NE(text.find("excluded: a reached server says -25306"), std::string::npos);
  EXPECT_EQ(explainQuery(dispatch::Api::CopyMatching, query).rows.size(), dispatch::contexts().size());
}

TEST(ExplainKeychain, NamesTheItemOfAReferenceAndNeverASecret) {
  const fixtures::Made made = fixtures::make(fixtures::newEcKey(), "device");
  KychWriter writer(kBlobVersionClassic, "password");
  ASSERT_TRUE(writer.addCertificate(made.der, "device"));
  ASSERT_TRUE(writer.addPrivateKey(made.pkcs8, "device", {}));
  FileKeychain keychain = FileKeychain::open(writer.write().value()).value();
  ASSERT_TRUE(keychain.unlockWithPassword("password"));
  const Reference reference =
      decodeReference(mintFileReference("/k", made.issuer, made.serial).value()).value().reference;
  const KeychainExplanation e = explainKeychain(keychain, &reference);
  ASSERT_TRUE(e.resolved);
  const std::string text = toText(e, {});
  EXPECT_NE(text.find("present, decrypts, belongs to the certificate"), std::string::npos) << text;
  EXPECT_EQ(text.find(toHex(ByteView(made.pkcs8).last(32))), std::string::npos);
  EXPECT_EQ(explainKeychain(keychain, nullptr).items.size(), 1u);
  const Reference other = UuidReference{};
  EXPECT_EQ(explainKeychain(keychain, &other).unresolved->reason, Reason::Unsupported);
}

TEST(ExplainKeychain, LocatesARowOfADatabaseAndReportsAMissingOne) {
  DatabaseRow row;
  row.rowId = 1;
  row.uuid = std::get<UuidReference>(decodeReference(kRef20).value().reference).uuid;
  row.accessGroup = "com.apple.identities\x1b";
  const KeychainDatabase database = KeychainDatabase::open(KeychainDatabaseWriter().add(row).write().value()).value();
  const Reference reference = decodeReference(kRef20).value().reference;
  const KeychainExplanation e = explainKeychain(database, &reference).value();
  ASSERT_TRUE(e.resolved);
  EXPECT_EQ(toText(e, {}).find('\x1b'), std::string::npos);
  const Reference missing = UuidReference{ItemClass::Key, {}};
  EXPECT_EQ(explainKeychain(database, &missing).value().unresolved->osStatus, errSecItemNotFound);
}

Usable usable(const Fate& fate, std::string_view context) {
  for (const ProcessUse& use : fate.processes)
    if (use.context == context) return use.usable;
  std::abort();
}

TEST(FateOf, SoftwareIdentitiesReachTheDaemonAndHardwareBoundOnesDoNot) {
  EXPECT_EQ(usable(fateOf({.source = DeliverySource::Pkcs12}), "daemon"), Usable::Yes);
  EXPECT_EQ(usable(fateOf({.source = DeliverySource::Scep}), "daemon"), Usable::Yes);
  EXPECT_EQ(fateOf({.source = DeliverySource::Scep}).keychain.certainty, Certainty::Inferred);
  EXPECT_EQ(usable(fateOf({.source = DeliverySource::Acme, .hardwareBound = true}), "daemon"), Usable::No);
  EXPECT_EQ(usable(fateOf({.source = DeliverySource::Pkcs12, .channel = DeliveryChannel::User}), "daemon"), Usable::No);
  const Fate software = fateOf({.source = DeliverySource::Acme, .hardwareBound = false});
  EXPECT_EQ(software.keychain.certainty, Certainty::Unknown);
  EXPECT_FALSE(toText({.source = DeliverySource::Acme}, software, {}).empty());
}

}  // namespace
}  // namespace wayleave::keychain::explain
