#include <gtest/gtest.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "enrolment/acme/client.h"
#include "enrolment/acme/jose.h"
#include "enrolment/attestation_object.h"
#include "enrolment/certification_request.h"
#include "enrolment/journal.h"
#include "enrolment/renewal.h"
#include "keys/software_key.h"

namespace wayleave::enrolment {
namespace {

using std::chrono::hours;
using std::chrono::seconds;

std::string temporaryFolder() {
  std::string path = ::testing::TempDir() + "enrolment.XXXXXX";
  EXPECT_NE(::mkdtemp(path.data()), nullptr);
  return path;
}

TEST(Renewal, ComesAtTwoThirdsOfALongLifeAndHalfOfAShortOne) {
  const Wall start{seconds{1'800'000'000}};
  const auto longLife = hours{24 * 90}, shortLife = hours{24 * 10};
  const Wall late = renewalTime(start, start + longLife, "a");
  EXPECT_LE(late, start + longLife * 2 / 3);
  EXPECT_GE(late, start + longLife * 2 / 3 - longLife / 20);
  const Wall early = renewalTime(start, start + shortLife, "a");
  EXPECT_LE(early, start + shortLife / 2);
  EXPECT_GE(early, start + shortLife / 2 - shortLife / 20);
}

TEST(Renewal, JitterIsFixedPerIdentityAndSpreadsAFleet) {
  const Wall start{seconds{1'800'000'000}};
  EXPECT_EQ(renewalTime(start, start + hours{1000}, "a"), renewalTime(start, start + hours{1000}, "a"));
  EXPECT_NE(renewalTime(start, start + hours{1000}, "a"), renewalTime(start, start + hours{1000}, "b"));
}

TEST(Renewal, ACertificateThatEndsBeforeItBeginsIsDueAtOnce) {
  const Wall start{seconds{1'800'000'000}};
  EXPECT_EQ(renewalTime(start, start - hours{1}, "a"), start);
}

TEST(Renewal, BackoffDoublesAndStopsAtSixHours) {
  EXPECT_EQ(renewalBackoff(1), seconds{60});
  EXPECT_EQ(renewalBackoff(2), seconds{120});
  EXPECT_EQ(renewalBackoff(100), hours{6});
}

TEST(Journal, KeepsWhatWasRecordedAndForgetsWhatWasRemoved) {
  const std::string path = temporaryFolder() + "/journal";
  auto journal = Journal::open(path).value();
  EXPECT_EQ(journal.entry(), JournalEntry{});
  ASSERT_TRUE(journal.record({"key", "https://d", "https://o", true}).has_value());
  EXPECT_EQ(Journal::open(path)->entry(), (JournalEntry{"key", "https://d", "https://o", true}));
  ASSERT_TRUE(journal.remove().has_value());
  ASSERT_TRUE(journal.remove().has_value());
  EXPECT_EQ(Journal::open(path)->entry(), JournalEntry{});
}

TEST(Journal, RefusesAFileThatIsNotOurs) {
  const std::string path = temporaryFolder() + "/journal";
  ASSERT_TRUE(writeFileAtomically(path, asBytes("[1]"), 0600).has_value());
  EXPECT_EQ(Journal::open(path).error().reason, Reason::BadInput);
}

TEST(AccountKey, IsMadeOnceAndNeverBecauseAReadFailed) {
  const std::string folder = temporaryFolder();
  const auto first = acme::AccountKey::openOrCreate(folder + "/account").value();
  EXPECT_EQ(acme::AccountKey::openOrCreate(folder + "/account")->thumbprint(), first.thumbprint());
  struct stat info{};
  ASSERT_EQ(::stat((folder + "/account").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_TRUE(writeFileAtomically(folder + "/broken", asBytes("not a key"), 0600).has_value());
  EXPECT_FALSE(acme::AccountKey::openOrCreate(folder + "/broken").has_value());
  EXPECT_EQ(asText(readFile(folder + "/broken", 100).value()), "not a key");
  ASSERT_EQ(::mkdir((folder + "/folder").c_str(), 0700), 0);
  EXPECT_FALSE(acme::AccountKey::openOrCreate(folder + "/folder").has_value());
}

TEST(AccountKey, ThumbprintIsOverTheRequiredMembersInOrder) {
  const auto key = acme::AccountKey::openOrCreate(temporaryFolder() + "/account").value();
  const auto jwk = nlohmann::json::parse(key.jwk());
  EXPECT_EQ(jwk.size(), 4u);
  EXPECT_TRUE(key.jwk().starts_with(R"({"crv":"P-256","kty":"EC","x":")"));
  EXPECT_EQ(key.thumbprint(), toBase64Url(sha256(asBytes(key.jwk()))));
}

TEST(Jose, EcdsaSignaturesArePaddedToTheCurve) {
  // SEQUENCE { INTEGER 1, INTEGER 2 }
  const Bytes der = fromHex("3006020101020102").value();
  const Bytes raw = acme::rawEcdsaSignature(der, 32).value();
  ASSERT_EQ(raw.size(), 64u);
  EXPECT_EQ(raw[31], 1);
  EXPECT_EQ(raw[63], 2);
  EXPECT_FALSE(acme::rawEcdsaSignature(asBytes("junk"), 32).has_value());
}

TEST(AttestationObject, IsInCanonicalOrder) {
  localapi::KeyAttestation attestation{{Bytes{1}}, Bytes{2}, Bytes{3}, Bytes{4}, -7};
  // {"fmt": "tpm", "attStmt": {"alg": -7, "sig": h'02', "ver": "2.0", "x5c": [h'01'], "pubArea": h'04', "certInfo": h'03'}}
  EXPECT_EQ(toHex(tpmAttestationObject(attestation)),
            "a263666d746374706d6761747453746d74a663616c6726637369674102637665726332"
            "2e3063783563814101677075624172656141046863657274496e666f4103");
}

TEST(RetryAfter, TakesSecondsAndDatesWithinADay) {
  const Wall now{seconds{1'800'000'000}};  // 15 Jan 2027 08:00:00 GMT
  EXPECT_EQ(acme::parseRetryAfter("30", now), seconds{30});
  EXPECT_EQ(acme::parseRetryAfter("Fri, 15 Jan 2027 08:01:00 GMT", now), seconds{60});
  EXPECT_EQ(acme::parseRetryAfter("999999999", now), hours{24});
  EXPECT_EQ(acme::parseRetryAfter("-5", now), seconds{0});
  EXPECT_EQ(acme::parseRetryAfter("soon", now), seconds{0});
}

TEST(Problem, ShowsDetailAndEverySubproblem) {
  const Error error = acme::problemError(403, "application/problem+json",
                                         R"({"type":"urn:ietf:params:acme:error:rejectedIdentifier","detail":"not this one","subproblems":[
      {"type":"urn:ietf:params:acme:error:rejectedIdentifier","detail":"ask first","identifier":{"type":"permanent-identifier","value":"dev-1"}}]})",
                                         "", Wall{});
  EXPECT_EQ(error.reason, Reason::NotEntitled);
  EXPECT_NE(error.message.find("not this one"), std::string::npos);
  EXPECT_NE(error.message.find("ask first"), std::string::npos);
  EXPECT_NE(error.message.find("dev-1"), std::string::npos);
}

TEST(Problem, AnythingThatIsNoProblemDocumentIsTheServersError) {
  EXPECT_EQ(acme::problemError(502, "text/html", "<html>", "", Wall{}).reason, Reason::ServerError);
  EXPECT_EQ(acme::problemError(429, "", "", "10", Wall{}).reason, Reason::RateLimited);
}

class RequestFor : public ::testing::TestWithParam<keys::KeyType> {};

TEST_P(RequestFor, VerifiesAndCarriesWhatWasAskedFor) {
  const auto key = keys::SoftwareKey::generate(GetParam(), 2048).value();
  RequestParameters parameters;
  parameters.subject = {{{"O", "Example"}, {"OU", "Devices"}}, {{"CN", "device-1"}}, {{"1.2.840.113635.100.6.99", "x"}}};
  parameters.alternativeNames = {{"a@example.org"}, {"d.example"}, {"urn:x"}, {"user@EXAMPLE"}, {"device-1"}};
  parameters.signing = true;
  parameters.extendedKeyUsage = {"1.3.6.1.5.5.7.3.2"};
  const auto request = CertificationRequest::make(parameters, key->publicKey().spki).value();
  const auto scheme = requestScheme(GetParam());
  const auto signature = key->sign(scheme, request.info(), std::chrono::steady_clock::now() + seconds{10}).value();
  const Bytes der = request.complete(scheme, signature).value();

  const unsigned char* at = der.data();
  const Handle<X509_REQ, X509_REQ_free> parsed(d2i_X509_REQ(nullptr, &at, static_cast<long>(der.size())));
  ASSERT_TRUE(parsed);
  EXPECT_EQ(X509_REQ_verify(parsed.get(), X509_REQ_get0_pubkey(parsed.get())), 1);
  EXPECT_EQ(X509_NAME_entry_count(X509_REQ_get_subject_name(parsed.get())), 4);
  EXPECT_EQ(X509_NAME_ENTRY_set(X509_NAME_get_entry(X509_REQ_get_subject_name(parsed.get()), 1)), 0);  // O and OU share an RDN
  STACK_OF(X509_EXTENSION)* extensions = X509_REQ_get_extensions(parsed.get());
  EXPECT_EQ(sk_X509_EXTENSION_num(extensions), 3);
  sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
}

INSTANTIATE_TEST_SUITE_P(EveryKeyType, RequestFor,
                         ::testing::Values(keys::KeyType::EcP256, keys::KeyType::EcP384, keys::KeyType::EcP521, keys::KeyType::Rsa));

TEST(CertificationRequest, NamesWhatCannotBeEncoded) {
  const auto key = keys::SoftwareKey::generate(keys::KeyType::EcP256).value();
  RequestParameters parameters;
  parameters.subject = {{{"NoSuchAttribute", "x"}}};
  EXPECT_NE(CertificationRequest::make(parameters, key->publicKey().spki).error().message.find("NoSuchAttribute"), std::string::npos);
  parameters.subject = {{{"C", "much too long for a country"}}};
  EXPECT_EQ(CertificationRequest::make(parameters, key->publicKey().spki).error().reason, Reason::BadInput);
  parameters.subject.clear();
  parameters.extendedKeyUsage = {"not an oid"};
  EXPECT_EQ(CertificationRequest::make(parameters, key->publicKey().spki).error().reason, Reason::BadInput);
  EXPECT_EQ(CertificationRequest::make({}, asBytes("no key")).error().reason, Reason::BadInput);
}

}  // namespace
}  // namespace wayleave::enrolment
