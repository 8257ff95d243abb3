// The rules of single payload types.

#include "management/payload_key_rules.h"
#include "management/profile_test_support.h"

namespace wayleave::management {
namespace {

using namespace test;

ImportResult acme(std::initializer_list<std::pair<const char*, Value>> changes) {
  return import(profile({Value(with(acmePayload(1), changes))}));
}
ImportResult scep(std::initializer_list<std::pair<const char*, Value>> changes) {
  return import(profile({Value(scepPayload(1, changes))}));
}

// --- ACME: every combination ---

bool allowed(KeyType type, int size, bool hardwareBound, bool attest, AcmeForm form = AcmeForm::ProfilePayload) {
  return checkAcmeKey({type, size, hardwareBound, attest}, form).empty();
}

TEST(AcmeKeyRules, EveryCombinationThatAppleAllowsOrForbids) {
  for (const int size : {192, 224, 256, 384, 512, 521, 1023, 1024, 1028, 2048, 3072, 4096, 4104}) {
    for (const bool hardwareBound : {false, true}) {
      for (const bool attest : {false, true}) {
        SCOPED_TRACE(std::to_string(size) + (hardwareBound ? " bound" : "") + (attest ? " attested" : ""));
        const bool attestFits = hardwareBound || !attest;
        const bool rsaSize = size >= 1024 && size <= 4096 && size % 8 == 0;
        EXPECT_EQ(allowed(KeyType::Rsa, size, hardwareBound, attest), rsaSize && !hardwareBound && attestFits);
        const bool curve = size == 256 || size == 384 || size == 521;
        const bool boundFits = !hardwareBound || size == 256 || size == 384;
        EXPECT_EQ(allowed(KeyType::EcSecPrimeRandom, size, hardwareBound, attest),
                  (curve || size == 192) && boundFits && attestFits);
        EXPECT_EQ(allowed(KeyType::EcSecPrimeRandom, size, hardwareBound, attest, AcmeForm::DeclarationDocument),
                  curve && boundFits && attestFits);
      }
    }
  }
}

TEST(AcmePayloadTest, IsTyped) {
  const auto result =
      acme({{"UsageFlags", 5},
            {"ExtendedKeyUsage", Array{Value("1.3.6.1.5.5.7.3.2")}},
            {"SubjectAltName", dict({{"dNSName", "d.example"}, {"ntPrincipalName", Array{Value("a"), Value("b")}}})}});
  EXPECT_CLEAN(result);
  const AcmePayload& payload = *result.profile->payloads.at(0).as<AcmePayload>();
  EXPECT_EQ(payload.directoryUrl, "https://ca.example/acme/directory");
  EXPECT_EQ(payload.keySize, 384);
  EXPECT_TRUE(payload.hardwareBound && payload.attest);
  EXPECT_EQ(payload.usageFlags, 5);
  EXPECT_EQ(payload.subject, (Subject{{{"CN", "device-1"}}}));
  EXPECT_EQ(payload.subjectAltNames.ntPrincipalNames.size(), 2u);
}

TEST(AcmePayloadTest, CombinationsAreRefusedWithTheReason) {
  EXPECT_ERROR(acme({{"KeyType", "RSA"}, {"KeySize", 2048}}), "RSA keys cannot be hardware bound");
  EXPECT_ERROR(acme({{"KeySize", 512}}), "the curve is P-521, not 512");
  EXPECT_ERROR(acme({{"KeySize", 521}}), "hardware-bound keys have 256 or 384");
  EXPECT_ERROR(acme({{"HardwareBound", false}}), "only a hardware-bound key can be attested");
  EXPECT_ERROR(acme({{"KeyType", "Ed25519"}}), "one of RSA, ECSECPrimeRandom");
  EXPECT_ERROR(acme({{"KeySize", "384"}}), "is a string, must be an integer");
  EXPECT_CLEAN(acme({{"KeyType", "RSA"}, {"KeySize", 2048}, {"HardwareBound", false}, {"Attest", false}}));
  EXPECT_WARNING(acme({{"KeySize", 192}, {"HardwareBound", false}, {"Attest", false}}), "P-192 is allowed");
  EXPECT_WARNING(acme({{"KeyType", "RSA"}, {"KeySize", 1024}, {"HardwareBound", false}, {"Attest", false}}),
                 "below 2048");
}

TEST(AcmePayloadTest, RequiredKeysAreRequired) {
  for (const char* key : {"DirectoryURL", "ClientIdentifier", "KeySize", "KeyType", "HardwareBound", "Subject"})
    EXPECT_ERROR(import(profile({Value(without(acmePayload(1), key))})), std::string(key) + " in");
  EXPECT_ERROR(acme({{"DirectoryURL", "http://ca.example/"}}), "not an https URL");
  EXPECT_ERROR(acme({{"DirectoryURL", "https:///"}}), "not an https URL");
  EXPECT_ERROR(acme({{"UsageFlags", 2}}), "only the bits 1 (signing) and 4");
  EXPECT_ERROR(acme({{"ExtendedKeyUsage", Array{Value("clientAuth")}}}), "is not a dotted OID");
}

TEST(AcmePayloadTest, OurOwnKeysAreReadAndTheirSecretIsNotKept) {
  const Dictionary account = dict({{"KeyIdentifier", "kid-1"}, {"HMACKey", toBytes("hidden")}});
  const auto result = acme({{"AttestationURL", "https://attestation.example/"}, {"ExternalAccountBinding", account}});
  EXPECT_CLEAN(result);
  const Payload& payload = result.profile->payloads.at(0);
  EXPECT_EQ(payload.as<AcmePayload>()->attestationUrl, "https://attestation.example");
  EXPECT_EQ(payload.as<AcmePayload>()->externalAccount->keyIdentifier, "kid-1");
  EXPECT_EQ(payload.as<AcmePayload>()->externalAccount->hmacKey.viewText(), "hidden");
  EXPECT_TRUE(payload.raw.find("ExternalAccountBinding")->dictionary()->find("HMACKey")->data()->empty());
  EXPECT_ERROR(acme({{"AttestationURL", "http://attestation.example"}}), "not an https URL");
  EXPECT_ERROR(acme({{"ExternalAccountBinding", dict({{"KeyIdentifier", "kid-1"}})}}), "HMACKey");
  EXPECT_WARNING(import(profile({Value(without(acmePayload(1), "AttestationURL"))})), "needs the attestation CA");
}

TEST(SubjectQuirks, Quirk12_AltNamesAsStringOrArrayOtherTypesRefused) {
  EXPECT_CLEAN(acme({{"SubjectAltName", dict({{"rfc822Name", Array{Value("a@b")}}})}}));
  EXPECT_ERROR(acme({{"SubjectAltName", dict({{"rfc822Name", 5}})}}), "must be a string or an array of strings");
  EXPECT_ERROR(acme({{"SubjectAltName", dict({{"dNSName", Array{Value(5)}}})}}), "dNSName[0]");
  EXPECT_WARNING(acme({{"SubjectAltName", dict({{"DNSName", "x"}})}}), "did you mean dNSName?");
}

TEST(SubjectQuirks, Quirk13_MultiValuedRdnIsAcceptedAPairOfOneRefused) {
  const auto pair = [](std::initializer_list<const char*> texts) {
    Array out;
    for (const char* text : texts) out.emplace_back(text);
    return Value(out);
  };
  const auto result =
      acme({{"Subject", Array{Value(Array{pair({"C", "US"}), pair({"O", "X"}), pair({"1.2.3.4", "v"})})}}});
  ASSERT_TRUE(result.profile) << all(result);
  EXPECT_EQ(result.profile->payloads[0].as<AcmePayload>()->subject.at(0).size(), 3u);
  EXPECT_ERROR(acme({{"Subject", Array{Value(Array{pair({"CN"})})}}}),
               "array of 1, must be an array of exactly two strings");
  EXPECT_ERROR(acme({{"Subject", Array{pair({"CN", "x"})}}}), "Subject[0][0]");
  EXPECT_ERROR(acme({{"Subject", Array{Value("CN=x")}}}), "nests three arrays");
  EXPECT_ERROR(acme({{"Subject", Array{Value(Array{pair({"emailAddress", "x"})})}}}), "neither an OID nor one of");
  EXPECT_ERROR(acme({{"Subject", Array{Value(Array{pair({"CN", std::string(2000, 'x').c_str()})})}}}),
               "longer than 1024");
}

TEST(SubjectQuirks, Quirk14_MisspeltKeysNameTheLikelyOne) {
  EXPECT_WARNING(acme({{"KeyUsage", 1}}), "ACME payloads call it UsageFlags");
  EXPECT_WARNING(acme({{"ClientIdentifer", "x"}}), "did you mean ClientIdentifier?");
  EXPECT_WARNING(scep({{"KeyType", "RSA"}}), "Key Type");
  EXPECT_WARNING(scep({{"KeyUsage", 1}}), "Key Usage");
  EXPECT_WARNING(scep({{"ExtendedKeyUsage", Array{}}}), "the SCEP server decides");
  EXPECT_WARNING(scep({{"GetCACaps", Dictionary{}}}), "asked for its capabilities");
}

// --- SCEP ---

TEST(ScepPayloadTest, IsTyped) {
  const auto result = scep({{"Key Usage", 5},
                            {"CAFingerprint", Bytes(32, 1)},
                            {"Retries", 2},
                            {"RetryDelay", 7},
                            {"Subject", subjectOf("x")}});
  EXPECT_CLEAN(result);
  const ScepPayload& payload = *result.profile->payloads.at(0).as<ScepPayload>();
  EXPECT_EQ(payload.url, "https://ca.example/scep");
  EXPECT_EQ(payload.challenge->viewText(), "word");
  EXPECT_EQ(payload.keyUsage, 5);
  EXPECT_EQ(payload.retryDelay.count(), 7);
}

TEST(ScepPayloadTest, RulesAreChecked) {
  EXPECT_ERROR(scep({{"URL", ""}}), "URL in com.example.payload1 (com.apple.security.scep): is empty");
  EXPECT_ERROR(scep({{"URL", "ftp://x"}}), "neither an http nor an https");
  EXPECT_WARNING(scep({{"URL", "http://ca.example/scep"}}), "plain http");
  EXPECT_ERROR(scep({{"Keysize", 0}}), "must be 1024, 2048 or 4096");  // an example of Apple's has it
  EXPECT_WARNING(scep({{"Keysize", 1024}}), "weak");
  EXPECT_ERROR(scep({{"Key Type", "EC"}}), "always RSA");
  EXPECT_ERROR(scep({{"Key Usage", 8}}), "only the bits 1");
  EXPECT_ERROR(scep({{"CAFingerprint", Bytes(5, 1)}}), "which no digest has");
  EXPECT_WARNING(scep({{"CAFingerprint", Bytes(20, 1)}}), "SHA-1");
  EXPECT_ERROR(scep({{"Retries", -1}}), "Retries");
  EXPECT_ERROR(import(profile({Value(payload("com.apple.security.scep", 1, {{"URL", "https://x"}}))})),
               "PayloadContent[0].PayloadContent");
}

// --- certificates and PKCS #12 ---

TEST(CertificatePayloads, Quirk22_EncodingIsDetectedByContent) {
  const Identity ca = makeIdentity({.name = "CA"});
  const Bytes pem = toBytes(toPem(der(ca)));
  EXPECT_CLEAN(import(profile({Value(rootPayload(1, der(ca)))})));
  EXPECT_WARNING(import(profile({Value(rootPayload(1, pem))})), "PEM text where DER belongs");
  EXPECT_CLEAN(import(profile({Value(with(rootPayload(1, pem), {{"PayloadType", "com.apple.security.pem"}}))})));
  EXPECT_WARNING(import(profile({Value(with(rootPayload(1, der(ca)), {{"PayloadType", "com.apple.security.pem"}}))})),
                 "DER where PEM");
  EXPECT_CLEAN(import(profile({Value(with(rootPayload(1, der(ca)), {{"PayloadType", "com.apple.security.pkcs1"}}))})));
}

TEST(CertificatePayloads, ProblemsAreNamed) {
  const Identity old = makeIdentity({.name = "Old CA", .notAfter = kNow - std::chrono::hours(1)});
  EXPECT_WARNING(import(profile({Value(rootPayload(1, der(old)))})), "the certificate CN=Old CA expired at");
  EXPECT_ERROR(import(profile({Value(rootPayload(1, {}))})), "is empty");
  EXPECT_ERROR(import(profile({Value(rootPayload(1, toBytes("junk")))})), "is not an X.509 certificate");
  const Bytes key = toBytes("-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----\n");
  EXPECT_ERROR(import(profile({Value(rootPayload(1, key))})), "holds a private key");
}

TEST(Pkcs12Payloads, ShapeIsCheckedHereAndKeysAreNotTouched) {
  EXPECT_ERROR(import(profile({Value(with(pkcs12Payload(1), {{"PayloadContent", toBytes("junk")}}))})),
               "is not a PKCS #12 file");
  EXPECT_ERROR(import(profile({Value(without(pkcs12Payload(1), "PayloadContent"))})),
               "PayloadContent[0].PayloadContent");
  const auto open = import(profile({Value(without(pkcs12Payload(1), "Password"))}));
  ASSERT_TRUE(open.profile);
  EXPECT_TRUE(says(open, Severity::Note, "Password"));
  EXPECT_FALSE(open.profile->payloads[0].as<Pkcs12Payload>()->password);
  const auto empty = import(profile({Value(with(pkcs12Payload(1), {{"Password", ""}}))}));
  ASSERT_TRUE(empty.profile);
  EXPECT_TRUE(empty.profile->payloads[0].as<Pkcs12Payload>()->password->empty());
}

TEST(Pkcs12Payloads, Quirk6_MacOfOneIterationIsAcceptedHere) {
  EXPECT_CLEAN(import(profile({Value(with(pkcs12Payload(1), {{"PayloadContent", pkcs12("secret", 1)}}))})));
}

// --- MDM ---

TEST(MdmPayloadTest, BasicsAreTypedAndChecked) {
  const auto mdm = [](std::initializer_list<std::pair<const char*, Value>> changes) {
    return import(profile({Value(scepPayload(1)), Value(with(payload("com.apple.mdm", 2,
                                                                     {{"IdentityCertificateUUID", uuidOf(1)},
                                                                      {"Topic", "com.apple.mgmt.External.x"},
                                                                      {"ServerURL", "https://mdm.example/mdm"},
                                                                      {"AccessRights", 8191}}),
                                                             changes))}));
  };
  const auto good = mdm({{"SignMessage", true}});
  EXPECT_CLEAN(good);
  EXPECT_EQ(good.profile->payloads[1].as<MdmPayload>()->identityPayloadUuid, uuidOf(1));
  EXPECT_TRUE(good.profile->payloads[1].as<MdmPayload>()->signMessage);
  EXPECT_ERROR(mdm({{"Topic", "x"}}), "com.apple.mgmt.");
  EXPECT_ERROR(mdm({{"ServerURL", "http://x"}}), "not an https URL");
  EXPECT_ERROR(mdm({{"IdentityCertificateUUID", uuidOf(2)}}), "not an identity");
  EXPECT_ERROR(mdm({{"ServerURLPinningCertificateUUIDs", Array{Value(uuidOf(1))}}}), "is not a certificate");
  EXPECT_ERROR(mdm({{"EnrollmentMode", "X"}}), "neither BYOD nor ADDE");
}

}  // namespace
}  // namespace wayleave::management
