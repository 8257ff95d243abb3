// The importer as a whole: top level, common keys, references, and the quirks of real files (numbered as in
// docs/profile.md).

#include "management/profile.h"

#include <filesystem>

#include "base/file.h"
#include "management/profile_test_support.h"

namespace wayleave::management {
namespace {

using namespace test;

ImportResult importText(std::string_view text) { return importProfile(asBytes(text), {.now = kNow}); }

TEST(Profile, CompleteProfileIsCleanAndTyped) {
  const Identity ca = makeIdentity({.name = "Gateway CA"});
  const Dictionary vendor = with(vendorConfig(), {{"TrustAnchorPayloadUUIDs", Array{Value(uuidOf(3))}}});
  const auto result =
      import(with(profile({Value(pkcs12Payload(1)), Value(vpnPayload(2, transparentProxy(uuidOf(1)), vendor)),
                           Value(rootPayload(3, der(ca)))}),
                  {{"PayloadDisplayName", "Example"}, {"PayloadScope", "System"}}));
  EXPECT_CLEAN(result);
  const Profile& profile = *result.profile;
  EXPECT_EQ(profile.identifier, "com.example.profile");
  ASSERT_EQ(profile.payloads.size(), 3u);
  const Pkcs12Payload* identity = profile.payloads[0].as<Pkcs12Payload>();
  ASSERT_NE(identity, nullptr);
  EXPECT_EQ(identity->password->viewText(), "secret");
  EXPECT_EQ(profile.payloads[1].as<VpnPayload>()->identityPayloadUuid(), uuidOf(1));

  const auto configurations = proxyConfigurations(profile);
  ASSERT_EQ(configurations.size(), 1u);
  EXPECT_EQ(configurations[0].id, uuidOf(2));
  EXPECT_EQ(configurations[0].profileIdentifier, "com.example.profile");
  EXPECT_EQ(configurations[0].gatewayHost, "gateway.example");
  EXPECT_EQ(configurations[0].trustAnchors, std::vector<std::string>{toPem(der(ca))});
  EXPECT_TRUE(configurations[0].identityReference.empty());
}

TEST(Profile, BinaryFormIsAccepted) {
  EXPECT_CLEAN(importProfile(plist::toBinary(Value(proxyProfile())).value(), {.now = kNow}));
}

TEST(Profile, AllErrorsAreReportedAtOnceAndFoldIntoOne) {
  const auto result = import(without(
      profile({Value(with(acmePayload(1), {{"KeySize", 512}})), Value(rootPayload(2, toBytes("no certificate"))),
               Value(vpnPayload(3, transparentProxy("nowhere"), with(vendorConfig(), {{"FailurePolicy", "maybe"}})))}),
      "PayloadUUID"));
  EXPECT_ERROR(result, "PayloadUUID: is missing");
  EXPECT_ERROR(result, "PayloadContent[0].KeySize in com.example.payload1 (com.apple.security.acme)");
  EXPECT_ERROR(result, "PayloadContent[1].PayloadContent in com.example.payload2 (com.apple.security.root)");
  EXPECT_ERROR(result, "PayloadContent[2].VendorConfig.FailurePolicy");
  const Error error = toError(result.findings);
  for (const char* part : {"5 errors", "PayloadUUID", "KeySize", "FailurePolicy", "PayloadCertificateUUID", "payload2"})
    EXPECT_NE(error.message.find(part), std::string::npos) << part << " in " << error.message;
}

TEST(Profile, FindingsCarryTheLineOfTheKeyOrOfWhatLacksIt) {
  const Bytes bytes = xml(profile({Value(with(acmePayload(1), {{"KeySize", 512}}))}));
  const auto result = importProfile(bytes, {.now = kNow});
  ASSERT_EQ(result.findings.size(), 1u) << all(result);
  const size_t at = asText(bytes).find("<integer>512");
  EXPECT_EQ(result.findings[0].line, 1 + std::ranges::count(asText(bytes).substr(0, at), '\n'));
  const auto missing = import(profile({Value(without(acmePayload(1), "KeySize"))}));
  ASSERT_EQ(missing.findings.size(), 1u);
  EXPECT_GT(missing.findings[0].line, 0u);
}

TEST(Profile, SecretsLeaveTheRawDictionaries) {
  const Dictionary vpn = with(vpnPayload(2, with(transparentProxy(uuidOf(1)), {{"Password", "hidden-1"}}),
                                         with(vendorConfig(), {{"SharedSecret", "hidden-2"}})),
                              {});
  const auto result =
      import(profile({Value(pkcs12Payload(1)), Value(vpn), Value(scepPayload(3, {{"Challenge", "hidden-3"}}))}));
  ASSERT_TRUE(result.profile) << all(result);
  for (const Payload& payload : result.profile->payloads) {
    const std::string kept = plist::toXml(Value(payload.raw)).value();
    for (const char* secret : {"hidden", "secret<"}) EXPECT_EQ(kept.find(secret), std::string::npos) << kept;
  }
  EXPECT_TRUE(result.profile->payloads[0].raw.find("PayloadContent")->data()->empty());
  EXPECT_EQ(*result.profile->payloads[1].as<VpnPayload>()->vendorConfig.find("SharedSecret"), Value("(removed)"));
  EXPECT_EQ(result.profile->payloads[2].as<ScepPayload>()->challenge->viewText(), "hidden-3");
  EXPECT_EQ(all(result).find("hidden"), std::string::npos);
}

TEST(Profile, NotAPropertyListOrNotADictionaryIsRefused) {
  EXPECT_ERROR(importText(""), "empty");
  EXPECT_ERROR(importText("hello"), "not a property list");
  EXPECT_ERROR(importText("<plist><array/></plist>"), "the root is array");
  EXPECT_ERROR(importText("<plist><dict/></plist>"), "none of a profile's keys");
  EXPECT_ERROR(importProfile(Bytes(100, 0x30), {.now = kNow}), "not a CMS structure");
  EXPECT_ERROR(importProfile(Bytes(17 << 20, '<'), {.now = kNow}), "more than the limit");
}

TEST(Profile, EveryPrefixOfAProfileIsRefusedWithoutHarm) {
  const Bytes whole = xml(proxyProfile());
  const size_t end = asText(whole).rfind("</plist>") + 8;
  for (size_t length = 0; length < end; ++length)
    EXPECT_FALSE(importProfile(ByteView(whole).first(length)).profile) << length;
}

TEST(Profile, TopLevelKeysAreChecked) {
  const Dictionary good = proxyProfile();
  EXPECT_ERROR(import(without(good, "PayloadContent")), "PayloadContent: is missing");
  EXPECT_ERROR(import(with(good, {{"PayloadContent", "x"}})), "must be an array of dictionaries");
  EXPECT_ERROR(import(with(good, {{"PayloadContent", Array{Value(1)}}})),
               "PayloadContent[0]: is integer, must be a dictionary");
  EXPECT_WARNING(import(with(good, {{"PayloadContent", Array{}}})), "nothing to install");
  EXPECT_ERROR(import(with(good, {{"PayloadVersion", 2}})), "PayloadVersion: is 2");
  EXPECT_ERROR(import(with(good, {{"PayloadIdentifier", "a\nb"}})), "control character");
  EXPECT_ERROR(import(with(good, {{"PayloadScope", "Galaxy"}})), "one of System, User");
  EXPECT_WARNING(import(with(good, {{"PayloadScope", "User"}})), "installs for the device");
  EXPECT_ERROR(import(with(good, {{"TargetDeviceType", 9}})), "must be 0 to 6");
  EXPECT_WARNING(import(with(good, {{"TargetDeviceType", 4}})), "meant for Apple TV");
  EXPECT_CLEAN(import(with(good, {{"TargetDeviceType", 5}})));
  EXPECT_ERROR(import(with(good, {{"DurationUntilRemoval", -1}})), "DurationUntilRemoval");
  EXPECT_CLEAN(import(with(good, {{"DurationUntilRemoval", 3600.0}})));
  EXPECT_WARNING(import(with(good, {{"RemovalDate", plist::Date{1}}})), "has passed");
  EXPECT_ERROR(import(with(good, {{"IsEncrypted", true}})), "encrypted");
  EXPECT_ERROR(import(with(without(good, "PayloadContent"), {{"EncryptedPayloadContent", Bytes{1}}})), "encrypted");
}

TEST(Profile, UnknownPayloadTypeIsReportedAndKept) {
  const auto result = import(profile({Value(payload("com.example.unknown", 1, {{"Setting", 1}}))}));
  EXPECT_WARNING(result,
                 "com.example.unknown is not a payload type that Wayleave carries out; the payload is skipped with its "
                 "keys Setting");
  EXPECT_NE(result.profile->payloads.at(0).as<UnknownPayload>(), nullptr);
  EXPECT_EQ(*result.profile->payloads[0].raw.find("Setting"), Value(1));
}

TEST(Profile, TooManyFindingsNeverTurnABadProfileIntoAGoodOne) {
  Dictionary noisy = proxyProfile();
  for (int i = 0; i < 600; ++i) noisy.add("Unknown" + std::to_string(i), 1);
  EXPECT_ERROR(import(noisy), "too many findings");
}

// --- quirks of real files ---

TEST(ProfileQuirks, Quirk7_RealPayloadVersionIsAWarningStringIsRefused) {
  EXPECT_WARNING(import(with(proxyProfile(), {{"PayloadVersion", 1.0}})), "PayloadVersion: is <real>1</real>");
  EXPECT_WARNING(import(profile({Value(with(pkcs12Payload(1), {{"PayloadVersion", 1.0}}))})),
                 "PayloadContent[0].PayloadVersion");
  EXPECT_ERROR(import(with(proxyProfile(), {{"PayloadVersion", 1.5}})), "is a real, must be an integer");
  EXPECT_ERROR(import(with(proxyProfile(), {{"PayloadVersion", "1"}})), "is a string, must be an integer");
}

TEST(ProfileQuirks, Quirk8_OddUuidsAreWarningsEmptyOnesRefused) {
  EXPECT_CLEAN(import(with(proxyProfile(), {{"PayloadUUID", "cbdc6238-feec-4171-878d-34e576bbb813"}})));
  for (const char* odd : {"algo-test-server3B9A4690", "5436fc94-205f-7c59-0000-011d"})
    EXPECT_WARNING(import(with(proxyProfile(), {{"PayloadUUID", odd}})), "is not a UUID");
  EXPECT_ERROR(import(with(proxyProfile(), {{"PayloadUUID", ""}})), "PayloadUUID: is empty");
}

TEST(ProfileQuirks, Quirk9_DuplicateAndMissingCommonKeysAreRefused) {
  const Value one(pkcs12Payload(1));
  EXPECT_ERROR(import(profile({one, Value(with(pkcs12Payload(2), {{"PayloadUUID", uuidOf(1)}}))})),
               "is also the UUID of PayloadContent[0]");
  EXPECT_ERROR(
      import(profile({one, Value(with(pkcs12Payload(2), {{"PayloadUUID", "00000000-0000-4000-8000-abcdef000001"}}))})),
      "is also the UUID of PayloadContent[0]");
  EXPECT_ERROR(import(with(profile({one}), {{"PayloadUUID", uuidOf(1)}})), "is also the UUID of the profile itself");
  EXPECT_ERROR(import(profile({one, Value(with(pkcs12Payload(2), {{"PayloadIdentifier", "com.example.payload1"}}))})),
               "is also the identifier of");
  for (const char* key : {"PayloadUUID", "PayloadVersion", "PayloadIdentifier", "PayloadType"})
    EXPECT_ERROR(import(profile({Value(without(pkcs12Payload(1), key))})), std::string("PayloadContent[0].") + key);
}

TEST(ProfileQuirks, Quirk10_TopLevelTypeOfAPayloadIsRefusedWithTheReason) {
  EXPECT_ERROR(import(with(proxyProfile(), {{"PayloadType", "com.apple.security.pkcs12"}})), "must be Configuration");
}

TEST(ProfileQuirks, Quirk11_TopLevelKeysInTheWrongCaseOrUnknownAreWarnings) {
  EXPECT_WARNING(import(with(proxyProfile(), {{"payloadScope", "System"}})), "did you mean PayloadScope?");
  EXPECT_WARNING(import(with(proxyProfile(), {{"PayloadEnabled", true}})), "PayloadEnabled: is not a known key");
  EXPECT_ERROR(import(with(without(proxyProfile(), "PayloadType"), {{"payloadtype", "Configuration"}})),
               "there is a key payloadtype");
}

TEST(ProfileQuirks, Quirk15_DataGivenAsStringIsRefused) {
  EXPECT_ERROR(import(profile({Value(with(rootPayload(1, {}), {{"PayloadContent", "TUlJQg=="}}))})),
               "write the Base64 text in <data>");
}

TEST(ProfileQuirks, Quirk16_TemplateVariablesAreReported) {
  for (const char* left : {"$FLEET_VAR_HOST", "${HOST}", "x-{{ serial }}", "%HardwareUUID%", "YOUR-TOKEN-HERE"})
    EXPECT_WARNING(import(profile({Value(with(acmePayload(1), {{"ClientIdentifier", left}}))})), "template variable");
  EXPECT_WARNING(import(with(proxyProfile(), {{"PayloadOrganization", "$ORGANIZATION"}})), "template variable");
  for (const char* fine : {"a$b", "$5", "100%", "%20%20", "a%C3%A9", "{x}", "HERE"})
    EXPECT_CLEAN(import(profile({Value(with(acmePayload(1), {{"ClientIdentifier", fine}}))})));
  const auto secret = import(profile({Value(with(pkcs12Payload(1), {{"Password", "$SECRET_WORD"}}))}));
  EXPECT_WARNING(secret, "seems to hold a template variable");
  EXPECT_EQ(all(secret).find("SECRET_WORD"), std::string::npos);
  std::string inData(asText(xml(profile({Value(rootPayload(1, Bytes(3, 1)))}))));
  inData.replace(inData.find("AQEB"), 4, "$CA_CERT");
  EXPECT_ERROR(importText(inData), "template variable that was not filled in");
}

TEST(ProfileQuirks, Quirk17_SyntaxThatOtherReadersPass) {
  const std::string good(asText(xml(proxyProfile())));
  const auto replaced = [&](std::string_view what, std::string_view by) {
    std::string text = good;
    return text.replace(text.find(what), what.size(), by);
  };
  EXPECT_ERROR(importText(replaced("<string>Configuration</string>", "")), "the key PayloadType has no value");
  EXPECT_ERROR(importText(replaced("<dict>", "<!-- a -- b --><dict>")), "not well-formed");
  EXPECT_WARNING(importText(replaced("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n", "")),
                 "XML declaration is missing");
  EXPECT_CLEAN(importText(replaced("<plist version", "<!-- made by hand -->\n<plist version")));
  EXPECT_WARNING(importText(good + std::string(1, '\0')), "1 NUL byte");
}

TEST(ProfileQuirks, Quirk18_ReferencesToNothingOrToTheWrongKindAreRefused) {
  const auto proxying = [](const std::string& reference) {
    return import(profile({Value(pkcs12Payload(1)), Value(rootPayload(3, der(makeIdentity({})))),
                           Value(vpnPayload(2, transparentProxy(reference), vendorConfig()))}));
  };
  EXPECT_ERROR(proxying(uuidOf(9)), "no payload of this profile has the PayloadUUID");
  EXPECT_EQ(toError(proxying(uuidOf(9)).findings).reason, Reason::NotFound);
  EXPECT_ERROR(proxying(uuidOf(3)), "com.apple.security.root), which is not an identity");
  EXPECT_ERROR(proxying(uuidOf(2)), "which is not an identity");
  EXPECT_ERROR(proxying(""), "PayloadCertificateUUID in com.example.payload2 (com.apple.vpn.managed): is empty");
  // Both empty: the payload's own UUID may not be empty either.
  const auto bothEmpty = import(profile({Value(with(pkcs12Payload(1), {{"PayloadUUID", ""}})),
                                         Value(vpnPayload(2, transparentProxy(""), vendorConfig()))}));
  EXPECT_ERROR(bothEmpty, "PayloadCertificateUUID");
  EXPECT_ERROR(bothEmpty, "PayloadContent[0].PayloadUUID");
}

TEST(ProfileQuirks, Quirk18_ReferenceInAnotherLetterCaseResolvesWithAWarning) {
  std::string lower = uuidOf(1);
  for (char& c : lower) c = static_cast<char>(std::tolower(c));
  const auto result =
      import(profile({Value(pkcs12Payload(1)), Value(vpnPayload(2, transparentProxy(lower), vendorConfig()))}));
  EXPECT_WARNING(result, "only when letter case is ignored");
  EXPECT_EQ(result.profile->payloads.at(1).as<VpnPayload>()->identityPayloadUuid(), uuidOf(1));
}

TEST(ProfileQuirks, Quirk20_DeclarationsAreCarriedRaw) {
  const Bytes json =
      toBytes(R"({"Type":"com.apple.activation.simple"})");  // no ServerToken: judged when declarations are read
  const auto result =
      import(profile({Value(payload("com.apple.declarations", 1, {{"Declarations", Array{Value(json)}}}))}));
  EXPECT_CLEAN(result);
  EXPECT_EQ(result.profile->payloads[0].as<DeclarationsPayload>()->declarations.at(0), json);
  EXPECT_ERROR(import(profile({Value(payload("com.apple.declarations", 1, {{"Declarations", Array{Value("{}")}}}))})),
               "must be data");
}

TEST(ProfileQuirks, Quirk23_ConsentTextInBothNestings) {
  const auto flat = import(with(proxyProfile(), {{"ConsentText", dict({{"default", "Agree?"}})}}));
  ASSERT_TRUE(flat.profile) << all(flat);
  EXPECT_EQ(flat.profile->consentText.at("default"), "Agree?");
  const auto nested =
      import(with(proxyProfile(), {{"ConsentText", dict({{"ConsentTextItem", dict({{"en", "Agree?"}})}})}}));
  ASSERT_TRUE(nested.profile) << all(nested);
  EXPECT_EQ(nested.profile->consentText.at("en"), "Agree?");
  EXPECT_ERROR(import(with(proxyProfile(), {{"ConsentText", dict({{"en", 1}})}})), "ConsentText.en");
}

TEST(Examples, ImportWithoutAnError) {
  size_t seen = 0;
  for (const auto& file : std::filesystem::directory_iterator(WAYLEAVE_SOURCE_DIR "/examples")) {
    if (file.path().extension() != ".mobileconfig") continue;
    SCOPED_TRACE(file.path());
    const auto result = importProfile(readFile(file.path(), 1 << 20).value(), {.now = kNow});
    ASSERT_TRUE(result.profile) << all(result);
    for (const Finding& finding : result.findings)  // their certificates are as old as the last time they were made
      EXPECT_NE(finding.message.find("the certificate"), std::string::npos) << describe(finding);
    EXPECT_EQ(proxyConfigurations(*result.profile).size(), 1u);
    ++seen;
  }
  EXPECT_GE(seen, 1u);
}

TEST(Findings, ASingleErrorKeepsItsHint) {
  const Error error = toError({{Severity::Warning, "", "a", "w", "", Reason::BadInput, 0},
                               {Severity::Error, "p", "k", "is wrong", "do that", Reason::NotFound, 7}});
  EXPECT_EQ(error.message, "line 7: k in p: is wrong");
  EXPECT_EQ(error.hint, "do that");
  EXPECT_EQ(error.reason, Reason::NotFound);
  EXPECT_EQ(toError({}).reason, Reason::Internal);
}

}  // namespace
}  // namespace wayleave::management
