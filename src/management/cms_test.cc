#include "management/cms.h"

#include "management/profile_test_support.h"

namespace wayleave::management {
namespace {

using namespace test;

class CmsTest : public ::testing::Test {
 protected:
  const Identity ca = makeIdentity({.name = "Signing CA"});
  const Identity signer = makeIdentity({.name = "Profile Signer", .issuer = &ca});
  const Bytes content = xml(profile({Value(pkcs12Payload(1))}));
  const TrustOptions trustsCa{.useSystemStore = false, .anchorsPem = {toPem(der(ca))}};
};

TEST_F(CmsTest, DerVerifiesAndShowsTheSignerLeafFirst) {
  const auto signedContent = verifyCms(sign(content, signer, {.chain = {&ca}}), trustsCa, kNow);
  ASSERT_TRUE(signedContent) << signedContent.error().message;
  EXPECT_EQ(signedContent->content, content);
  ASSERT_EQ(signedContent->signers.size(), 1u);
  const Signer& who = signedContent->signers[0];
  ASSERT_EQ(who.chain.size(), 2u);
  EXPECT_EQ(who.chain[0].subject, "CN=Profile Signer");
  EXPECT_EQ(who.chain[1].subject, "CN=Signing CA");
  EXPECT_EQ(who.digest, "SHA256");
  EXPECT_EQ(who.trust, Trust::Trusted) << who.trustProblem;
  EXPECT_TRUE(who.signingTime);
}

TEST_F(CmsTest, Quirk1_BerWithIndefiniteLengthIsAccepted) {
  const Bytes ber = sign(content, signer, {.indefinite = true});
  ASSERT_EQ(ber[0], 0x30);
  ASSERT_EQ(ber[1], 0x80);
  ASSERT_TRUE(looksLikeCms(ber));
  const auto signedContent = verifyCms(ber, {}, kNow);
  ASSERT_TRUE(signedContent) << signedContent.error().message;
  EXPECT_EQ(signedContent->content, content);
  EXPECT_EQ(signedContent->signers[0].trust, Trust::NotEvaluated);
  EXPECT_TRUE(importProfile(ber, {.now = kNow}).profile);
}

TEST_F(CmsTest, Quirk2_Sha1WithoutSignedAttributesVerifiesAndIsWeak) {
  const Identity rsa = makeIdentity({.name = "Old tool", .rsa = true});
  const auto result = importProfile(sign(content, rsa, {.digest = EVP_sha1(), .flags = CMS_NOATTR}), {.now = kNow});
  EXPECT_WARNING(result, "the signature is weak: SHA-1 digest");
  EXPECT_FALSE(result.signature.signers.at(0).signingTime);
}

TEST_F(CmsTest, Quirk3_SignersOfAnyExtendedKeyUsageAreShownNotRefused) {
  for (const int usage : {NID_code_sign, NID_server_auth}) {
    const Identity odd = makeIdentity({.name = "Odd", .issuer = &ca, .extendedKeyUsage = usage});
    const auto signedContent = verifyCms(sign(content, odd), trustsCa, kNow);
    ASSERT_TRUE(signedContent) << signedContent.error().message;
    EXPECT_EQ(signedContent->signers[0].trust, Trust::Trusted) << signedContent->signers[0].trustProblem;
  }
}

TEST_F(CmsTest, ExpiredSignerIsReportedAndNotFatal) {
  const Identity old = makeIdentity({.name = "Old",
                                     .notBefore = kNow - std::chrono::hours(48),
                                     .notAfter = kNow - std::chrono::hours(24),
                                     .issuer = &ca});
  const Bytes file = sign(content, old);
  const auto result = importProfile(file, {.now = kNow, .signerTrust = trustsCa});
  EXPECT_WARNING(result, "outside its dates");
  EXPECT_EQ(result.signature.signers.at(0).trust, Trust::Expired);
  EXPECT_WARNING(importProfile(file, {.now = kNow}), "the signer's certificate expired at");
}

TEST_F(CmsTest, UnknownSignerIsUntrustedAlsoWhenExpired) {
  const Identity stranger = makeIdentity({.name = "Stranger", .notAfter = kNow - std::chrono::hours(1)});
  const auto result = importProfile(sign(content, stranger), {.now = kNow, .signerTrust = trustsCa});
  EXPECT_WARNING(result, "the signer is not trusted");
  EXPECT_EQ(result.signature.signers.at(0).trust, Trust::Untrusted);
}

TEST_F(CmsTest, BrokenSignatureIsRefused) {
  for (const bool indefinite : {false, true}) {
    Bytes file = sign(content, signer, {.indefinite = indefinite});
    const auto at = std::ranges::search(file, asBytes("com.example.profile")).begin();
    ASSERT_NE(at, file.end());
    *at = 'C';
    const auto result = importProfile(file, {.now = kNow});
    EXPECT_ERROR(result, "the signature does not fit the profile");
    EXPECT_EQ(toError(result.findings).reason, Reason::SignatureInvalid);
    EXPECT_FALSE(result.signature.isSigned);
  }
}

TEST_F(CmsTest, SignerWithoutCertificateIsRefused) {
  const auto result = verifyCms(sign(content, signer, {.flags = CMS_NOCERTS}), {}, kNow);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().reason, Reason::SignatureInvalid);
}

TEST_F(CmsTest, CertificatesAloneAreNoSignature) {
  const Handle<CMS_ContentInfo, CMS_ContentInfo_free> cms(
      CMS_sign(nullptr, nullptr, nullptr, nullptr, CMS_PARTIAL | CMS_BINARY));
  const Handle<BIO, BIO_free_all> in(BIO_new_mem_buf("x", 1)), out(BIO_new(BIO_s_mem()));
  CMS_add1_cert(cms.get(), ca.certificate.get());
  CMS_final(cms.get(), in.get(), nullptr, CMS_BINARY);
  i2d_CMS_bio(out.get(), cms.get());
  char* data = nullptr;
  const long length = BIO_get_mem_data(out.get(), &data);
  const auto result = verifyCms({reinterpret_cast<uint8_t*>(data), static_cast<size_t>(length)}, {}, kNow);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().reason, Reason::SignatureInvalid);
}

TEST_F(CmsTest, DetachedSignatureHoldsNoProfile) {
  const auto result = verifyCms(sign(content, signer, {.detached = true}), {}, kNow);
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message.find("detached"), std::string::npos);
}

TEST_F(CmsTest, EncryptedProfileIsUnsupported) {
  const Identity device = makeIdentity({.rsa = true});
  STACK_OF(X509)* to = sk_X509_new_null();
  sk_X509_push(to, device.certificate.get());
  const Handle<BIO, BIO_free_all> in(BIO_new_mem_buf(content.data(), static_cast<int>(content.size()))),
      out(BIO_new(BIO_s_mem()));
  const Handle<CMS_ContentInfo, CMS_ContentInfo_free> cms(CMS_encrypt(to, in.get(), EVP_aes_128_cbc(), CMS_BINARY));
  sk_X509_free(to);
  i2d_CMS_bio(out.get(), cms.get());
  char* data = nullptr;
  const long length = BIO_get_mem_data(out.get(), &data);
  const auto result = importProfile({reinterpret_cast<uint8_t*>(data), static_cast<size_t>(length)}, {.now = kNow});
  EXPECT_ERROR(result, "encrypted to a device identity");
  EXPECT_EQ(toError(result.findings).reason, Reason::Unsupported);
}

TEST_F(CmsTest, Quirk4_SignedFileWhoseContentIsNoProfileIsRefusedForItsContent) {
  const auto result = importProfile(sign(xml(dict({{"askForPassword", true}})), signer), {.now = kNow});
  EXPECT_ERROR(result, "not a configuration profile");
  EXPECT_TRUE(result.signature.isSigned);
}

TEST_F(CmsTest, TrailingBytesAreRefusedButNulsAndNewlinesAreNot) {
  Bytes file = sign(content, signer);
  file.push_back('\n');
  file.push_back(0);
  EXPECT_TRUE(verifyCms(file, {}, kNow));
  file.push_back('x');
  EXPECT_FALSE(verifyCms(file, {}, kNow));
}

TEST_F(CmsTest, EveryPrefixIsRefused) {
  const Bytes small = sign(asBytes("<plist/>"), signer);
  const Bytes smallBer = sign(asBytes("<plist/>"), signer, {.indefinite = true});
  for (const Bytes* file : {&small, &smallBer})
    for (size_t length = 0; length < file->size(); ++length)
      EXPECT_FALSE(verifyCms(ByteView(*file).first(length), {}, kNow)) << length;
}

TEST_F(CmsTest, EveryFlippedByteIsHandledAndTheContentNeverChangesUnnoticed) {
  const Bytes small = sign(asBytes("<plist/>"), signer);
  for (size_t i = 0; i < small.size(); ++i) {
    Bytes changed = small;
    changed[i] ^= 0x21;
    const auto result = verifyCms(changed, {}, kNow);
    if (result) {
      EXPECT_EQ(asText(result->content), "<plist/>") << i;
    }
  }
}

TEST(CertificateFiles, AreReadInBothEncodings) {
  const Identity one = makeIdentity({.name = "One"});
  const Identity two = makeIdentity({.name = "Two"});
  EXPECT_EQ(readCertificateFile(der(one))->certificates.at(0).subject, "CN=One");
  const std::string pem = "Some text\n" + toPem(der(one)) + toPem(der(two));
  const auto file = readCertificateFile(asBytes(pem));
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_TRUE(file->wasPem);
  EXPECT_EQ(file->certificates.size(), 2u);
  Bytes longer = der(one);
  longer.push_back(0);
  EXPECT_FALSE(readCertificateFile(longer));
  EXPECT_FALSE(readCertificateFile({}));
  EXPECT_FALSE(readCertificateFile(asBytes("-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n")));
  EXPECT_FALSE(readCertificateFile(asBytes("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n")));
}

}  // namespace
}  // namespace wayleave::management
