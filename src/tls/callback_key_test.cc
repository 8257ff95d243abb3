#include "tls/callback_key.h"

#include <gtest/gtest.h>
#include <openssl/cms.h>

#include "keys/software_key.h"

namespace wayleave::tls {
namespace {

using keys::EvpPkeyPtr;
using keys::KeyType;
using RequestPtr = Handle<X509_REQ, X509_REQ_free>;

class CallbackKey : public testing::TestWithParam<KeyType> {
 protected:
  void SetUp() override {
    auto made = keys::SoftwareKey::generate(GetParam(), 2048);
    ASSERT_TRUE(made) << describe(made.error());
    software_ = std::move(*made);
  }
  EvpPkeyPtr make() {
    auto key = makeCallbackKey(software_->publicKey(), [this](const KeyRequest& request) {
      ++asked_;
      messages_.push_back(toBytes(request.message));
      return software_->signDigest(request.scheme, request.digest, Steady::max());
    });
    EXPECT_TRUE(key) << describe(key.error());
    return std::move(*key);
  }
  const char* hash() const { return GetParam() == KeyType::EcP384 ? "SHA384" : GetParam() == KeyType::EcP521 ? "SHA512" : "SHA256"; }

  std::unique_ptr<keys::SoftwareKey> software_;
  int asked_ = 0;
  std::vector<Bytes> messages_;
};

INSTANTIATE_TEST_SUITE_P(Types, CallbackKey,
                         testing::Values(KeyType::EcP256, KeyType::EcP384, KeyType::EcP521, KeyType::Rsa));

TEST_P(CallbackKey, SignsARequestThatVerifiesElsewhere) {
  const EvpPkeyPtr key = make();
  const RequestPtr request(X509_REQ_new_ex(callbackLibrary(), nullptr));
  X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(request.get()), "CN", MBSTRING_ASC, asBytes("device").data(), 6, -1, 0);
  ASSERT_EQ(X509_REQ_set_pubkey(request.get(), key.get()), 1);
  const Handle<EVP_MD, EVP_MD_free> digest(EVP_MD_fetch(callbackLibrary(), hash(), nullptr));
  ASSERT_GT(X509_REQ_sign(request.get(), key.get(), digest.get()), 0);
  EXPECT_EQ(asked_, 1);
  ASSERT_FALSE(messages_.empty());
  EXPECT_EQ(messages_[0].at(0), 0x30) << "the signer sees the CertificationRequestInfo itself";

  uint8_t* der = nullptr;
  const int length = i2d_X509_REQ(request.get(), &der);
  const uint8_t* cursor = der;
  const RequestPtr parsed(d2i_X509_REQ(nullptr, &cursor, length));  // in the default library context
  OPENSSL_free(der);
  ASSERT_TRUE(parsed);
  EXPECT_EQ(X509_REQ_verify(parsed.get(), X509_REQ_get0_pubkey(parsed.get())), 1);
}

TEST_P(CallbackKey, KeepsItsPrivateHalf) {
  const EvpPkeyPtr key = make();
  OSSL_PARAM* params = nullptr;
  EXPECT_NE(EVP_PKEY_todata(key.get(), EVP_PKEY_KEYPAIR, &params), 1);
  uint8_t* der = nullptr;
  EXPECT_LE(i2d_PrivateKey(key.get(), &der), 0);
}

TEST_P(CallbackKey, EqualsItsPublicKeyAndNoOther) {
  const EvpPkeyPtr key = make();
  const uint8_t* cursor = software_->publicKey().spki.data();
  const EvpPkeyPtr same(d2i_PUBKEY_ex(nullptr, &cursor, static_cast<long>(software_->publicKey().spki.size()),
                                      callbackLibrary(), nullptr));
  EXPECT_EQ(EVP_PKEY_eq(same.get(), key.get()), 1);
  auto another = keys::SoftwareKey::generate(GetParam(), 2048);
  const uint8_t* otherCursor = (*another)->publicKey().spki.data();
  const EvpPkeyPtr other(d2i_PUBKEY_ex(nullptr, &otherCursor, static_cast<long>((*another)->publicKey().spki.size()),
                                       callbackLibrary(), nullptr));
  EXPECT_NE(EVP_PKEY_eq(other.get(), key.get()), 1);
}

TEST_P(CallbackKey, ReportsTheSignersOwnError) {
  auto key = makeCallbackKey(software_->publicKey(), [](const KeyRequest&) -> Result<Bytes> {
    return fail(Reason::KeyLockout, "the TPM is locked");
  });
  ASSERT_TRUE(key);
  const Handle<EVP_MD_CTX, EVP_MD_CTX_free> context(EVP_MD_CTX_new());
  ASSERT_EQ(EVP_DigestSignInit_ex(context.get(), nullptr, hash(), callbackLibrary(), nullptr, key->get(), nullptr), 1);
  Bytes signature(1024);
  size_t length = signature.size();
  EXPECT_NE(EVP_DigestSign(context.get(), signature.data(), &length, asBytes("x").data(), 1), 1);
  const auto why = takeSignError();
  ASSERT_TRUE(why);
  EXPECT_EQ(why->reason, Reason::KeyLockout);
  EXPECT_FALSE(takeSignError()) << "told once";
}

TEST_P(CallbackKey, SignsStreamedMessages) {
  const EvpPkeyPtr key = make();
  const Handle<EVP_MD_CTX, EVP_MD_CTX_free> context(EVP_MD_CTX_new());
  ASSERT_EQ(EVP_DigestSignInit_ex(context.get(), nullptr, hash(), callbackLibrary(), nullptr, key.get(), nullptr), 1);
  ASSERT_EQ(EVP_DigestSignUpdate(context.get(), "two ", 4), 1);
  ASSERT_EQ(EVP_DigestSignUpdate(context.get(), "parts", 5), 1);
  Bytes signature(1024);
  size_t length = signature.size();
  ASSERT_EQ(EVP_DigestSignFinal(context.get(), signature.data(), &length), 1);
  ASSERT_EQ(messages_.size(), 1u);
  EXPECT_EQ(asText(messages_[0]), "two parts");
}

TEST(CallbackKeyInput, RefusesWhatIsNoPublicKey) {
  keys::PublicKey broken;
  broken.spki = toBytes("not DER");
  auto key = makeCallbackKey(broken, {});
  ASSERT_FALSE(key);
  EXPECT_EQ(key.error().reason, Reason::BadInput);
}

}  // namespace
}  // namespace wayleave::tls
