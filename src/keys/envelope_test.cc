#include "keys/envelope.h"

#include <gtest/gtest.h>
#include <openssl/cms.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

#include "keys/legacy_library.h"
#include "keys/software_key.h"

namespace wayleave::keys {
namespace {

using CmsPtr = Handle<CMS_ContentInfo, CMS_ContentInfo_free>;
using BioPtr = Handle<BIO, BIO_free_all>;

class Envelope : public ::testing::Test {
 protected:
  static EvpPkeyPtr& key() {
    static EvpPkeyPtr made(EVP_RSA_gen(2048));
    return made;
  }

  static X509Ptr certificate(EVP_PKEY* pkey) {
    X509Ptr made(X509_new());
    X509_set_version(made.get(), 2);
    ASN1_INTEGER_set(X509_get_serialNumber(made.get()), 7);
    X509_gmtime_adj(X509_getm_notBefore(made.get()), 0);
    X509_gmtime_adj(X509_getm_notAfter(made.get()), 3600);
    X509_set_pubkey(made.get(), pkey);
    X509_sign(made.get(), pkey, EVP_sha256());
    return made;
  }

  static Bytes encode(CMS_ContentInfo* cms) {
    uint8_t* der = nullptr;
    const int length = i2d_CMS_ContentInfo(cms, &der);
    Bytes out(der, der + length);
    OPENSSL_free(der);
    return out;
  }

  static Bytes encryptTo(const std::vector<EVP_PKEY*>& recipients, const std::string& content, const char* cipher, OSSL_LIB_CTX* library = nullptr) {
    STACK_OF(X509)* certificates = sk_X509_new_null();
    for (EVP_PKEY* recipient : recipients) sk_X509_push(certificates, certificate(recipient).release());
    const BioPtr in(BIO_new_mem_buf(content.data(), static_cast<int>(content.size())));
    EVP_CIPHER* fetched = EVP_CIPHER_fetch(library, cipher, nullptr);
    const CmsPtr cms(CMS_encrypt_ex(certificates, in.get(), fetched, CMS_BINARY, library, nullptr));
    EVP_CIPHER_free(fetched);
    sk_X509_pop_free(certificates, X509_free);
    EXPECT_TRUE(cms != nullptr) << cipher;
    return cms ? encode(cms.get()) : Bytes{};
  }

  const std::string content = std::string(1000, 'c') + "ertificates";
};

TEST_F(Envelope, OpensAesAndTripleDes) {
  for (const auto& [cipher, named] : {std::pair{"AES-128-CBC", "AES-128-CBC"}, {"AES-256-CBC", "AES-256-CBC"}, {"DES-EDE3-CBC", "DES-EDE3-CBC"}}) {
    const auto opened = openEnvelope(key().get(), encryptTo({key().get()}, content, cipher));
    ASSERT_TRUE(opened.has_value()) << cipher << describe(opened.error());
    EXPECT_EQ(asText(opened->content), content);
    EXPECT_EQ(opened->cipher, named);
    EXPECT_FALSE(opened->weak);
  }
}

TEST_F(Envelope, OpensSingleDesInALibraryOfItsOwnAndCallsItWeak) {
  const LegacyLibrary library = LegacyLibrary::load().value();
  const Bytes message = encryptTo({key().get()}, content, "DES-CBC", library.context());
  const auto opened = openEnvelope(key().get(), message);
  ASSERT_TRUE(opened.has_value()) << describe(opened.error());
  EXPECT_EQ(asText(opened->content), content);
  EXPECT_TRUE(opened->weak);
  EVP_CIPHER* leaked = EVP_CIPHER_fetch(nullptr, "DES-CBC", nullptr);
  EXPECT_EQ(leaked, nullptr) << "the legacy provider reached the default library context";
}

TEST_F(Envelope, EveryWayNotToFitIsOneSentence) {
  const EvpPkeyPtr other(EVP_RSA_gen(2048));
  Bytes message = encryptTo({key().get()}, content, "AES-128-CBC");
  const auto wrongKey = openEnvelope(other.get(), message);
  ASSERT_FALSE(wrongKey.has_value());
  EXPECT_EQ(wrongKey.error().reason, Reason::KeyMismatch);
  message.back() ^= 0xff;  // the last block: the content's padding
  const auto damaged = openEnvelope(key().get(), message);
  // A damaged last block has a valid padding once in 256 times; then the content is merely wrong.
  if (!damaged) {
    EXPECT_EQ(damaged.error().reason, wrongKey.error().reason);
    EXPECT_EQ(damaged.error().message, wrongKey.error().message);
  }
}

TEST_F(Envelope, RefusesOtherCiphersByName) {
  const LegacyLibrary library = LegacyLibrary::load().value();
  const auto opened = openEnvelope(key().get(), encryptTo({key().get()}, content, "RC2-CBC", library.context()));
  ASSERT_FALSE(opened.has_value());
  EXPECT_EQ(opened.error().reason, Reason::Unsupported);
  EXPECT_NE(opened.error().message.find("rc2"), std::string::npos) << opened.error().message;
}

TEST_F(Envelope, RefusesSeveralRecipientsAndOtherKeyTypes) {
  const EvpPkeyPtr second(EVP_RSA_gen(2048)), curve(EVP_EC_gen("P-256"));
  EXPECT_EQ(openEnvelope(key().get(), encryptTo({key().get(), second.get()}, content, "AES-128-CBC")).error().reason, Reason::Unsupported);
  EXPECT_EQ(openEnvelope(key().get(), encryptTo({curve.get()}, content, "AES-128-CBC")).error().reason, Reason::Unsupported);
  const auto software = SoftwareKey::generate(KeyType::EcP256).value();
  EXPECT_EQ(software->openEnvelope(encryptTo({key().get()}, content, "AES-128-CBC"), Steady::max()).error().reason, Reason::Unsupported);
}

TEST_F(Envelope, RefusesWhatIsNoEnvelope) {
  const Bytes good = encryptTo({key().get()}, content, "AES-128-CBC");
  EXPECT_EQ(openEnvelope(key().get(), {}).error().reason, Reason::BadInput);
  EXPECT_EQ(openEnvelope(key().get(), Bytes(kMostEnvelopeBytes + 1, 0x30)).error().reason, Reason::BadInput);
  EXPECT_EQ(openEnvelope(key().get(), asBytes("no CMS at all")).error().reason, Reason::BadInput);
  Bytes longer = good;
  longer.push_back(0);
  EXPECT_EQ(openEnvelope(key().get(), longer).error().reason, Reason::BadInput);
  for (size_t cut = 1; cut < good.size(); cut += 13)
    EXPECT_FALSE(openEnvelope(key().get(), ByteView(good).first(cut)).has_value()) << cut;
}

TEST_F(Envelope, ASoftwareKeyLooksAtItsDeadline) {
  const auto software = SoftwareKey::generate(KeyType::Rsa, 2048).value();
  EXPECT_EQ(software->openEnvelope(Bytes{1}, Steady::min()).error().reason, Reason::DeadlineExceeded);
}

}  // namespace
}  // namespace wayleave::keys
