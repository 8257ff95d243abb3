#include "keys/tpm/tss2_pem.h"

#include <gtest/gtest.h>

#include "keys/tpm/tpm_types.h"
#include "keys/tpm/wire.h"

namespace wayleave::keys::tpm {
namespace {

KeyBlob sampleKey() {
  TPM2B_PUBLIC shape = deviceKeyTemplate(KeyType::EcP256, 256).value();
  shape.publicArea.unique.ecc.x.size = 32;
  shape.publicArea.unique.ecc.y.size = 32;
  shape.publicArea.unique.ecc.x.buffer[31] = 7;
  return {kPersistentSrk, publicAreaBytes(shape.publicArea), Bytes(126, 0x5a)};
}

std::string armoured(const Bytes& der) {
  return "-----BEGIN TSS2 PRIVATE KEY-----\n" + toBase64(der) + "\n-----END TSS2 PRIVATE KEY-----\n";
}
Bytes derOf(std::string pem) {
  std::string base64 = pem.substr(pem.find('\n') + 1);
  base64.resize(base64.find("-----END"));
  std::erase(base64, '\n');
  return fromBase64(base64).value();
}

TEST(Tss2Pem, RoundTripsUnderBothParents) {
  KeyBlob key = sampleKey();
  const auto pem = encodeTss2Pem(key);
  ASSERT_TRUE(pem.has_value());
  EXPECT_TRUE(pem->starts_with("-----BEGIN TSS2 PRIVATE KEY-----\n"));
  EXPECT_EQ(decodeTss2Pem(*pem).value(), key);
  key.parent = kOwnerHierarchy;
  EXPECT_EQ(decodeTss2Pem(encodeTss2Pem(key).value()).value(), key);
}

TEST(Tss2Pem, StatesTheTypeAndEmptyAuthorisation) {
  const std::string der = toHex(derOf(encodeTss2Pem(sampleKey()).value()));
  EXPECT_NE(der.find("06066781050a0103"), std::string::npos);  // 2.23.133.10.1.3
  EXPECT_NE(der.find("a0030101ff"), std::string::npos);        // [0] TRUE
}

TEST(Tss2Pem, RefusesWhatItCannotServe) {
  const Bytes good = derOf(encodeTss2Pem(sampleKey()).value());
  EXPECT_EQ(decodeTss2Pem("").error().reason, Reason::BadInput);
  EXPECT_EQ(decodeTss2Pem(std::string(kMaxTss2Pem + 1, 'A')).error().reason, Reason::BadInput);
  EXPECT_EQ(decodeTss2Pem("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n").error().reason,
            Reason::BadInput);
  for (size_t cut = 0; cut < good.size(); cut += 7)
    EXPECT_EQ(decodeTss2Pem(armoured(Bytes(good.begin(), good.begin() + static_cast<long>(cut)))).error().reason,
              Reason::BadInput)
        << cut;
  Bytes longer = good;
  longer.push_back(0);
  EXPECT_EQ(decodeTss2Pem(armoured(longer)).error().reason, Reason::BadInput);

  const auto flipped = [&](std::string_view from, std::string_view to) {
    std::string hex = toHex(good);
    hex.replace(hex.find(from), from.size(), to);
    return decodeTss2Pem(armoured(fromHex(hex).value())).error().reason;
  };
  EXPECT_EQ(flipped("06066781050a0103", "06066781050a0104"), Reason::Unsupported);  // an importable key
  EXPECT_EQ(flipped("a0030101ff", "a003010100"), Reason::Unsupported);              // needs a password
  EXPECT_EQ(flipped("02050081000001", "02050000000001"), Reason::BadInput);         // not a minimal INTEGER
  EXPECT_EQ(flipped("02050081000001", "02050090000001"), Reason::Unsupported);      // a parent nobody knows
}

TEST(Wire, RefusesForeignAndCutPublicAreas) {
  const Bytes area = sampleKey().publicArea;
  for (size_t cut = 0; cut < area.size(); ++cut)
    EXPECT_FALSE(parsePublicArea(ByteView(area).first(cut)).has_value()) << cut;
  EXPECT_EQ(nameOf(Bytes{0, 1}).error().reason, Reason::BadInput);
  EXPECT_EQ(nameOf(Bytes{0, 0x23, 0, 4, 0}).error().reason, Reason::Unsupported);  // SHA-1
  EXPECT_EQ(toHex(nameOf(area).value()).substr(0, 4), "000b");
}

TEST(Wire, ASignatureKeepsItsLengthWhenTheTpmDropsLeadingZeros) {
  TPMT_SIGNATURE rsa{};
  rsa.sigAlg = TPM2_ALG_RSASSA;
  rsa.signature.rsassa.sig.size = 255;
  rsa.signature.rsassa.sig.buffer[0] = 0x11;
  const Bytes padded = portableSignature(rsa, 256).value();
  ASSERT_EQ(padded.size(), 256u);
  EXPECT_EQ(padded[0], 0x00);
  EXPECT_EQ(padded[1], 0x11);
  rsa.signature.rsassa.sig.size = 257;
  EXPECT_FALSE(portableSignature(rsa, 256).has_value());

  TPMT_SIGNATURE ecdsa{};
  ecdsa.sigAlg = TPM2_ALG_ECDSA;
  ecdsa.signature.ecdsa.signatureR.size = 1;
  ecdsa.signature.ecdsa.signatureR.buffer[0] = 0x80;
  ecdsa.signature.ecdsa.signatureS.size = 1;
  ecdsa.signature.ecdsa.signatureS.buffer[0] = 0x01;
  EXPECT_EQ(toHex(portableSignature(ecdsa, 0).value()), "300702020080020101");
}

TEST(Wire, TemplatesForKeysOutsideTheContractAreRefused) {
  EXPECT_EQ(deviceKeyTemplate(KeyType::EcP521, 521).error().reason, Reason::Unsupported);
  EXPECT_EQ(deviceKeyTemplate(KeyType::Rsa, 4096).error().reason, Reason::Unsupported);
}

TEST(AttestationKey, RoundTripsAndRefusesDamage) {
  const AttestationKey ak{sampleKey(), Bytes(40, 1), Bytes(120, 2), Bytes(70, 3)};
  const Bytes stored = ak.encode();
  const auto back = AttestationKey::decode(stored);
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->key, ak.key);
  EXPECT_EQ(back->createSignature, ak.createSignature);
  for (size_t cut = 0; cut < stored.size(); ++cut)
    EXPECT_EQ(AttestationKey::decode(ByteView(stored).first(cut)).error().reason, Reason::BadInput) << cut;
}

TEST(StorageRoot, AnotherNameMeansTheIdentitiesAreLost) {
  const StorageRoot root{kPersistentSrk, Bytes{0, 11, 1, 2}};
  EXPECT_TRUE(compareStorageRoot({}, root).has_value());
  EXPECT_TRUE(compareStorageRoot(root.name, root).has_value());
  EXPECT_EQ(compareStorageRoot(Bytes{0, 11, 9}, root).error().reason, Reason::IdentityLost);
}

}  // namespace
}  // namespace wayleave::keys::tpm
