// The compromised caller: it may sign for TLS, and tries everything else.

#include "broker/certificate_verify.h"

#include <gtest/gtest.h>

#include "enrolment/certification_request.h"
#include "keys/software_key.h"

namespace wayleave::broker {
namespace {

using keys::SignatureScheme;

Bytes content(std::string_view context, size_t hash, size_t padding = 64) {
  Bytes out(padding, 0x20);
  append(out, asBytes(context));
  out.push_back(0);
  out.insert(out.end(), hash, 0x42);
  return out;
}
constexpr std::string_view kClient = "TLS 1.3, client CertificateVerify";
constexpr SignatureScheme kScheme = SignatureScheme::EcdsaSecp384r1Sha384;

Reason reasonOf(ByteView bytes, SignatureScheme scheme = kScheme) {
  const Status status = checkClientCertificateVerify(scheme, bytes);
  return status ? Reason::Ok : status.error().reason;
}

TEST(CertificateVerify, AcceptsTheClientsContentWithBothTranscriptHashes) {
  EXPECT_EQ(Reason::Ok, reasonOf(content(kClient, 48)));
  EXPECT_EQ(Reason::Ok, reasonOf(content(kClient, 32)));
  EXPECT_EQ(Reason::Ok, reasonOf(content(kClient, 32), SignatureScheme::RsaPssRsaeSha256));
}

TEST(CertificateVerify, RefusesToActAsAServer) {
  const Status status = checkClientCertificateVerify(kScheme, content("TLS 1.3, server CertificateVerify", 48));
  ASSERT_FALSE(status);
  EXPECT_EQ(Reason::NotEntitled, status.error().reason);
  EXPECT_NE(std::string::npos, status.error().message.find("TLS server"));
}

TEST(CertificateVerify, RefusesEveryOtherShape) {
  EXPECT_EQ(Reason::BadInput, reasonOf({}));
  EXPECT_EQ(Reason::BadInput, reasonOf(Bytes(64, 0x20)));
  EXPECT_EQ(Reason::BadInput, reasonOf(content(kClient, 48, 63)));
  EXPECT_EQ(Reason::BadInput, reasonOf(content(kClient, 48, 65)));
  EXPECT_EQ(Reason::BadInput, reasonOf(content(kClient, 0)));
  EXPECT_EQ(Reason::BadInput, reasonOf(content(kClient, 47)));
  EXPECT_EQ(Reason::BadInput, reasonOf(content(kClient, 64)));
  EXPECT_EQ(Reason::BadInput, reasonOf(content("TLS 1.3, client CertificateVerif", 48)));
  EXPECT_EQ(Reason::BadInput, reasonOf(content("TLS 1.3, client CertificateVerifY", 48)));
  Bytes noSeparator = content(kClient, 48);
  noSeparator[64 + kClient.size()] = 1;
  EXPECT_EQ(Reason::BadInput, reasonOf(noSeparator));
  Bytes longer = content(kClient, 48);
  longer.push_back(0);
  EXPECT_EQ(Reason::BadInput, reasonOf(longer));
  // Every truncation.
  const Bytes whole = content(kClient, 48);
  for (size_t length = 0; length < whole.size(); ++length)
    if (length != whole.size() - 16) {
      EXPECT_EQ(Reason::BadInput, reasonOf(ByteView(whole).first(length))) << length;
    }
}

TEST(CertificateVerify, SaysWhatWasTried) {
  const auto message = [](std::string_view text) {
    return checkClientCertificateVerify(kScheme, asBytes(text)).error().message;
  };
  EXPECT_NE(std::string::npos, message("eyJhbGciOiJFUzM4NCJ9.eyJzdWIiOiJyb290In0").find("JSON web token"));
  EXPECT_NE(std::string::npos, message("transfer 100 to mallory").find("a text"));
  EXPECT_NE(std::string::npos, message(std::string(48, '\1')).find("bare digest"));
  EXPECT_NE(std::string::npos, message("\x30\x82\x01\x02").find("certification request"));
}

TEST(CertificateVerify, RefusesSchemesThatTls13DoesNotUseHere) {
  EXPECT_EQ(Reason::Unsupported, reasonOf(content(kClient, 48), SignatureScheme::RsaPkcs1Sha256));
  EXPECT_EQ(Reason::Unsupported, reasonOf(content(kClient, 48), SignatureScheme::EcdsaSha256));
}

TEST(Digest, MustFitTheScheme) {
  EXPECT_TRUE(checkDigest(kScheme, Bytes(48)));
  EXPECT_EQ(Reason::BadInput, checkDigest(kScheme, Bytes(32)).error().reason);
  EXPECT_EQ(Reason::BadInput, checkDigest(kScheme, {}).error().reason);
}

TEST(CertificationRequestInfo, MustCarryTheKeysOwnPublicKey) {
  const auto key = keys::SoftwareKey::generate(keys::KeyType::EcP384).value();
  const auto other = keys::SoftwareKey::generate(keys::KeyType::EcP384).value();
  enrolment::RequestParameters parameters;
  parameters.subject = {{{"CN", "device"}}};
  const auto request = enrolment::CertificationRequest::make(parameters, key->publicKey().spki).value();
  EXPECT_TRUE(checkCertificationRequestInfo(request.info(), key->publicKey().spki));
  EXPECT_EQ(Reason::KeyMismatch, checkCertificationRequestInfo(request.info(), other->publicKey().spki).error().reason);
  for (size_t length = 0; length < request.info().size(); ++length)
    EXPECT_FALSE(checkCertificationRequestInfo(ByteView(request.info()).first(length), key->publicKey().spki));
  Bytes longer = request.info();
  longer.push_back(0);
  EXPECT_EQ(Reason::BadInput, checkCertificationRequestInfo(longer, key->publicKey().spki).error().reason);
  EXPECT_EQ(Reason::BadInput,
            checkCertificationRequestInfo(content(kClient, 48), key->publicKey().spki).error().reason);
}

}  // namespace
}  // namespace wayleave::broker
