// The vocabulary of keys and the software key: signatures are checked by OpenSSL's own verification.

#include <gtest/gtest.h>
#include <openssl/core_names.h>
#include <openssl/rsa.h>

#include <atomic>
#include <set>
#include <thread>

#include "keys/openssl.h"
#include "keys/private_key.h"
#include "keys/software_key.h"

namespace wayleave::keys {
namespace {

constexpr Steady kForever = Steady::max();

Bytes derOf(EVP_PKEY* key) {
  Bytes out(static_cast<size_t>(i2d_PUBKEY(key, nullptr)));
  uint8_t* at = out.data();
  i2d_PUBKEY(key, &at);
  return out;
}

Secret pkcs8Of(EVP_PKEY* key) {
  const Pkcs8Ptr info(EVP_PKEY2PKCS8(key));
  Bytes out(static_cast<size_t>(i2d_PKCS8_PRIV_KEY_INFO(info.get(), nullptr)));
  uint8_t* at = out.data();
  i2d_PKCS8_PRIV_KEY_INFO(info.get(), &at);
  return Secret(std::move(out));
}

std::unique_ptr<SoftwareKey> make(KeyType type) {
  auto key = SoftwareKey::generate(type, 2048);
  EXPECT_TRUE(key) << describe(key.error());
  return std::move(*key);
}

TEST(SignatureSchemes, EveryNameParsesBackAndNoTwoAreEqual) {
  std::set<std::string_view> names;
  for (int i = 0; i <= static_cast<int>(SignatureScheme::RsaPkcs1Sha512); ++i) {
    const auto scheme = static_cast<SignatureScheme>(i);
    EXPECT_EQ(parseScheme(text(scheme)).value(), scheme);
    EXPECT_TRUE(names.insert(text(scheme)).second);
  }
  EXPECT_EQ(text(SignatureScheme::EcdsaSecp384r1Sha384), "ecdsa_secp384r1_sha384");
  EXPECT_EQ(text(SignatureScheme::EcdsaSha256), "ecdsa_sha256");
}

TEST(SignatureSchemes, UnknownNameIsBadInputAndQuotedInPartOnly) {
  EXPECT_EQ(parseScheme("").error().reason, Reason::BadInput);
  EXPECT_EQ(parseScheme("ECDSA_SECP384R1_SHA384").error().reason, Reason::BadInput);
  EXPECT_LT(parseScheme(std::string(100'000, 'x')).error().message.size(), 200u);
}

TEST(SignatureSchemes, DigestFollowsTheName) {
  EXPECT_EQ(digestLength(SignatureScheme::EcdsaSecp256r1Sha256), 32u);
  EXPECT_EQ(digestLength(SignatureScheme::RsaPssRsaeSha384), 48u);
  EXPECT_STREQ(digestName(SignatureScheme::RsaPkcs1Sha512), "SHA512");
  EXPECT_TRUE(isPss(SignatureScheme::RsaPssRsaeSha512));
  EXPECT_FALSE(isPss(SignatureScheme::RsaPkcs1Sha256));
}

TEST(PublicKeyTest, SaysTypeAndBits) {
  EXPECT_EQ(make(KeyType::EcP384)->publicKey().type, KeyType::EcP384);
  EXPECT_EQ(make(KeyType::EcP384)->publicKey().bits, 384);
  EXPECT_EQ(make(KeyType::EcP521)->publicKey().bits, 521);
  EXPECT_EQ(make(KeyType::Rsa)->publicKey().bits, 2048);
  EXPECT_EQ(text(KeyType::EcP256), "EC P-256");
  EXPECT_EQ(text(KeyKind::Tpm), "tpm");
}

TEST(PublicKeyTest, KeychainHashOfAnEcKeyIsSha1OfItsUncompressedPoint) {
  const auto key = make(KeyType::EcP384);
  const Bytes& spki = key->publicKey().spki;
  ASSERT_GT(spki.size(), 97u);
  const ByteView point(spki.data() + spki.size() - 97, 97);
  ASSERT_EQ(point[0], 4);
  EXPECT_EQ(key->publicKey().keychainHash(), sha1(point));
}

TEST(PublicKeyTest, RefusesTrailingBytesTruncationAndNoise) {
  Bytes spki = make(KeyType::EcP256)->publicKey().spki;
  spki.push_back(0);
  EXPECT_EQ(PublicKey::fromSpki(spki).error().reason, Reason::BadInput);
  spki.resize(spki.size() - 2);
  EXPECT_EQ(PublicKey::fromSpki(spki).error().reason, Reason::BadInput);
  EXPECT_EQ(PublicKey::fromSpki({}).error().reason, Reason::BadInput);
  EXPECT_EQ(PublicKey::fromSpki(randomBytes(200)).error().reason, Reason::BadInput);
  EXPECT_TRUE((PublicKey{{1, 2, 3}}.keychainHash().empty()));
}

TEST(PublicKeyTest, RefusesWhatTlsClientsDoNotUse) {
  const EvpPkeyPtr ed25519(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
  EXPECT_EQ(PublicKey::fromSpki(derOf(ed25519.get())).error().reason, Reason::Unsupported);
  const EvpPkeyPtr k256(EVP_EC_gen("secp256k1"));
  EXPECT_EQ(PublicKey::fromSpki(derOf(k256.get())).error().reason, Reason::Unsupported);
  const EvpPkeyPtr small(EVP_RSA_gen(1024));
  EXPECT_EQ(PublicKey::fromSpki(derOf(small.get())).error().reason, Reason::Unsupported);
}

TEST(PublicKeyTest, RefusesExplicitCurveParameters) {
  const EvpPkeyCtxPtr context(EVP_PKEY_CTX_new_from_name(nullptr, "EC", nullptr));
  ASSERT_EQ(EVP_PKEY_keygen_init(context.get()), 1);
  std::string group = "P-256", encoding = "explicit";
  const OSSL_PARAM params[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group.data(), 0),
      OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_EC_ENCODING, encoding.data(), 0),
      OSSL_PARAM_construct_end(),
  };
  ASSERT_EQ(EVP_PKEY_CTX_set_params(context.get(), params), 1);
  EVP_PKEY* raw = nullptr;
  ASSERT_EQ(EVP_PKEY_generate(context.get(), &raw), 1);
  const EvpPkeyPtr key(raw);
  EXPECT_EQ(PublicKey::fromSpki(derOf(key.get())).error().reason, Reason::Unsupported);
}

class EveryKeyType : public testing::TestWithParam<KeyType> {};

TEST_P(EveryKeyType, SignsWithEverySchemeItOffersAndTheSignatureVerifies) {
  const auto key = make(GetParam());
  for (const SignatureScheme scheme : key->supportedSchemes()) {
    const Bytes digest = randomBytes(digestLength(scheme));
    const auto signature = key->signDigest(scheme, digest, kForever);
    ASSERT_TRUE(signature) << describe(signature.error());
    EXPECT_TRUE(verifyDigest(key->publicKey(), scheme, digest, *signature).value()) << text(scheme);
    Bytes other = digest;
    other[0] ^= 1;
    EXPECT_FALSE(verifyDigest(key->publicKey(), scheme, other, *signature).value()) << text(scheme);
  }
}

TEST_P(EveryKeyType, SurvivesTheRoundTripThroughPkcs8) {
  const auto key = make(GetParam());
  const auto pkcs8 = key->toPkcs8();
  ASSERT_TRUE(pkcs8);
  const auto again = SoftwareKey::fromPkcs8(*pkcs8);
  ASSERT_TRUE(again) << describe(again.error());
  EXPECT_EQ((*again)->publicKey().spki, key->publicKey().spki);
}

INSTANTIATE_TEST_SUITE_P(All, EveryKeyType,
                         testing::Values(KeyType::EcP256, KeyType::EcP384, KeyType::EcP521, KeyType::Rsa));

TEST(SoftwareKeyTest, SignHashesTheMessageWithTheSchemesDigest) {
  const auto key = make(KeyType::EcP256);
  const auto signature = key->sign(SignatureScheme::EcdsaSecp256r1Sha256, asBytes("hello"), kForever);
  ASSERT_TRUE(signature);
  EXPECT_TRUE(
      verifyDigest(key->publicKey(), SignatureScheme::EcdsaSecp256r1Sha256, sha256(asBytes("hello")), *signature)
          .value());
}

TEST(SoftwareKeyTest, PssSaltIsAsLongAsTheDigest) {
  const auto key = make(KeyType::Rsa);
  const Bytes digest = randomBytes(48);
  const auto signature = key->signDigest(SignatureScheme::RsaPssRsaeSha384, digest, kForever);
  ASSERT_TRUE(signature);
  const uint8_t* at = key->publicKey().spki.data();
  const EvpPkeyPtr pkey(d2i_PUBKEY(nullptr, &at, static_cast<long>(key->publicKey().spki.size())));
  const EvpPkeyCtxPtr context(EVP_PKEY_CTX_new_from_pkey(nullptr, pkey.get(), nullptr));
  ASSERT_EQ(EVP_PKEY_verify_init(context.get()), 1);
  EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_PSS_PADDING);
  EVP_PKEY_CTX_set_signature_md(context.get(), EVP_sha384());
  EVP_PKEY_CTX_set_rsa_pss_saltlen(context.get(), 48);  // exactly: verification fails on any other length
  EXPECT_EQ(EVP_PKEY_verify(context.get(), signature->data(), signature->size(), digest.data(), digest.size()), 1);
}

TEST(SoftwareKeyTest, RefusesAWrongSchemeAWrongDigestLengthAndAPassedDeadline) {
  const auto key = make(KeyType::EcP384);
  const Bytes digest = randomBytes(48);
  EXPECT_EQ(key->signDigest(SignatureScheme::EcdsaSecp256r1Sha256, randomBytes(32), kForever).error().reason,
            Reason::Unsupported);
  EXPECT_EQ(key->signDigest(SignatureScheme::RsaPssRsaeSha384, digest, kForever).error().reason, Reason::Unsupported);
  EXPECT_EQ(key->signDigest(SignatureScheme::EcdsaSecp384r1Sha384, ByteView(digest).first(32), kForever).error().reason,
            Reason::BadInput);
  EXPECT_EQ(key->signDigest(SignatureScheme::EcdsaSecp384r1Sha384, digest, Steady{}).error().reason,
            Reason::DeadlineExceeded);
}

TEST(SoftwareKeyTest, GenerateRefusesModuliOutsideTheRange) {
  for (const int bits : {-1, 0, 512, 1024, 2047, 2052, 16384})
    EXPECT_EQ(SoftwareKey::generate(KeyType::Rsa, bits).error().reason, Reason::Unsupported) << bits;
  EXPECT_EQ(SoftwareKey::generate(KeyType::Rsa, 3072).value()->publicKey().bits, 3072);
}

TEST(SoftwareKeyTest, Pkcs8MustBeWholeAndSupported) {
  EXPECT_EQ(SoftwareKey::fromPkcs8(Secret{}).error().reason, Reason::BadInput);
  EXPECT_EQ(SoftwareKey::fromPkcs8(Secret(randomBytes(64))).error().reason, Reason::BadInput);
  Secret pkcs8 = make(KeyType::EcP256)->toPkcs8().value();
  pkcs8.mutableBytes().push_back(0);
  EXPECT_EQ(SoftwareKey::fromPkcs8(pkcs8).error().reason, Reason::BadInput);
  const EvpPkeyPtr ed25519(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
  EXPECT_EQ(SoftwareKey::fromPkcs8(pkcs8Of(ed25519.get())).error().reason, Reason::Unsupported);
}

TEST(SoftwareKeyTest, HalvesOfTwoKeysAreAKeyMismatch) {
  Secret mixed = make(KeyType::EcP256)->toPkcs8().value();
  const auto other = make(KeyType::EcP256);
  // An ECPrivateKey ends in the public point: put another key's there.
  const Bytes& spki = other->publicKey().spki;
  std::copy(spki.end() - 65, spki.end(), mixed.mutableBytes().end() - 65);
  EXPECT_EQ(SoftwareKey::fromPkcs8(mixed).error().reason, Reason::KeyMismatch);
}

TEST(SoftwareKeyTest, ManyThreadsMaySignAtOnce) {
  const auto key = make(KeyType::Rsa);
  std::vector<std::jthread> threads;
  std::atomic<int> good = 0;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10; ++i) {
        const Bytes digest = randomBytes(32);
        const auto signature = key->signDigest(SignatureScheme::RsaPssRsaeSha256, digest, kForever);
        good += signature && *verifyDigest(key->publicKey(), SignatureScheme::RsaPssRsaeSha256, digest, *signature);
      }
    });
  }
  threads.clear();
  EXPECT_EQ(good, 80);
}

TEST(SoftwareKeyTest, VerifyDigestRefusesAKeyThatDoesNotDecode) {
  const PublicKey broken{{1, 2, 3}, KeyType::EcP256, 256};
  EXPECT_EQ(verifyDigest(broken, SignatureScheme::EcdsaSha256, randomBytes(32), {}).error().reason, Reason::BadInput);
}

}  // namespace
}  // namespace wayleave::keys
