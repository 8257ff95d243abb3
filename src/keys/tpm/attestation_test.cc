// Attestation with a real software TPM: certification, credential activation, and our own check of both.

#include <openssl/ec.h>
#include <openssl/x509v3.h>

#include <fstream>

#include "keys/tpm/attestation_check.h"
#include "keys/tpm/tpm_test_support.h"
#include "keys/tpm/wire.h"

namespace wayleave::keys::tpm {
namespace {

using namespace std::chrono_literals;

// A certification authority of a few lines: what an attestation CA issues for an attestation key, and ways to do it
// wrong.
class TinyCa {
 public:
  TinyCa() : key_(EVP_EC_gen("P-256")) {
    root_ = issue(key_.get(), "Test attestation CA", "basicConstraints=critical,CA:true\n", nullptr, 24h, 2);
  }

  struct Flaws {
    std::string subject;  // must be empty
    std::string usage = "2.23.133.8.3";
    // OpenSSL takes what is after the first dot as the attribute's type.
    std::string directory = "x.2.23.133.2.1=id:00001014\nx.2.23.133.2.2=swtpm\nx.2.23.133.2.3=id:20191023\n";
    std::string more;                     // further lines of extensions
    std::string identifier = "device-1";  // empty: no PermanentIdentifier
    std::chrono::seconds life = std::chrono::hours{24};
    int version = 2;
  };

  Bytes certify(ByteView akSpki, const Flaws& flaws) const {
    const uint8_t* cursor = akSpki.data();
    const EvpPkeyPtr ak(d2i_PUBKEY(nullptr, &cursor, static_cast<long>(akSpki.size())));
    std::string san = "subjectAltName=critical,dirName:tpm";
    if (!flaws.identifier.empty()) san += ",otherName:1.3.6.1.5.5.7.8.3;SEQUENCE:identifier";
    const std::string extensions = "basicConstraints=critical,CA:false\nkeyUsage=digitalSignature\n" +
                                   (flaws.usage.empty() ? "" : "extendedKeyUsage=" + flaws.usage + "\n") + san + "\n" +
                                   flaws.more + "[tpm]\n" + flaws.directory +
                                   "[identifier]\nvalue=UTF8:" + flaws.identifier + "\n";
    return der(*issue(ak.get(), flaws.subject, extensions, root_.get(), flaws.life, flaws.version));
  }
  Bytes root() const { return der(*root_); }

 private:
  static Bytes der(const X509& certificate) {
    uint8_t* out = nullptr;
    const int length = i2d_X509(&certificate, &out);
    Bytes bytes(out, out + length);
    OPENSSL_free(out);
    return bytes;
  }

  X509Ptr issue(EVP_PKEY* subjectKey, const std::string& subject, const std::string& extensions, X509* issuer,
                std::chrono::seconds life, int version) const {
    X509Ptr made(X509_new());
    X509* certificate = made.get();
    X509_set_version(certificate, version);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 7);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate), life.count());
    X509_set_pubkey(certificate, subjectKey);
    if (!subject.empty())
      X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_UTF8,
                                 reinterpret_cast<const uint8_t*>(subject.c_str()), -1, -1, 0);
    X509_set_issuer_name(certificate, X509_get_subject_name(issuer ? issuer : certificate));
    const std::string text = "[extensions]\n" + extensions;
    const Handle<BIO, BIO_free_all> bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
    const Handle<CONF, NCONF_free> conf(NCONF_new(nullptr));
    long line = 0;
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer ? issuer : certificate, certificate, nullptr, nullptr, 0);
    if (NCONF_load_bio(conf.get(), bio.get(), &line) != 1)
      throw std::runtime_error("extensions, line " + std::to_string(line));
    X509V3_set_nconf(&context, conf.get());
    if (version == 2 && X509V3_EXT_add_nconf(conf.get(), &context, "extensions", certificate) != 1)
      throw std::runtime_error("extensions: " + opensslError(Reason::Internal, "add").message);
    X509_sign(certificate, key_.get(), EVP_sha256());
    return made;
  }

  EvpPkeyPtr key_;
  X509Ptr root_;
};

class AttestationTest : public SwTpmTest {
 protected:
  void SetUp() override {
    SwTpmTest::SetUp();
    if (IsSkipped()) return;
    device_ = open();
    key_ = makeKey(device_, KeyType::EcP384);
    auto ak = device_->createAttestationKey(soon());
    ASSERT_TRUE(ak.has_value()) << describe(ak.error());
    ak_ = std::move(*ak);
    akSpki_ = spkiOf(parsePublicArea(ak_.key.publicArea).value()).value();
    auto certified = key_->certify(ak_, qualifying_, soon());
    ASSERT_TRUE(certified.has_value()) << describe(certified.error());
    good_ = {{ca_.certify(akSpki_, {})},
             certified->certifyInfo,
             certified->signature,
             certified->publicArea,
             certified->algorithm};
    expected_ = {qualifying_, "device-1", std::chrono::system_clock::now()};
  }

  // The refusal's message, or "" when it is accepted.
  std::string verdict(const AttestationStatement& statement) const {
    const auto checked = validateAttestation(statement, expected_);
    if (checked) return "";
    EXPECT_EQ(checked.error().reason, Reason::AttestationRefused);
    return checked.error().message;
  }
  std::string verdictWith(const TinyCa::Flaws& flaws) const {
    AttestationStatement statement = good_;
    statement.akChain = {ca_.certify(akSpki_, flaws)};
    return verdict(statement);
  }
  std::string at(const char* name) const { return (tpm_->folder() / name).string(); }
  void write(const char* name, ByteView bytes) const { std::ofstream(at(name), std::ios::binary) << asText(bytes); }

  // A credential as an attestation CA makes it, by tpm2-tools: {TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET}.
  std::pair<Bytes, Bytes> makeCredential(ByteView ekArea, ByteView akName, ByteView secret) const {
    Bytes sized;
    appendU16(sized, static_cast<uint16_t>(ekArea.size()));
    append(sized, ekArea);
    write("ek.pub", sized);
    write("secret", secret);
    const ToolResult made = tpm_->tool(
        {"tpm2_makecredential", "-e", at("ek.pub"), "-s", at("secret"), "-n", toHex(akName), "-o", at("credential")});
    EXPECT_EQ(made.status, 0) << made.output;
    std::ifstream file(at("credential"), std::ios::binary);
    const std::string all{std::istreambuf_iterator<char>(file), {}};
    // A magic number and a version, four bytes each, stand before the two.
    const auto sizeAt = [&](size_t i) {
      return static_cast<size_t>(static_cast<uint8_t>(all.at(i)) << 8 | static_cast<uint8_t>(all.at(i + 1)));
    };
    const size_t credential = 2 + sizeAt(8);
    return {toBytes(all.substr(8, credential)), toBytes(all.substr(8 + credential))};
  }

  TinyCa ca_;
  std::shared_ptr<TpmDevice> device_;
  std::unique_ptr<TpmKey> key_;
  AttestationKey ak_;
  Bytes akSpki_;
  const Bytes qualifying_ = sha256(asBytes("token.thumbprint"));
  AttestationStatement good_;
  AttestationExpectation expected_;
};

TEST_F(AttestationTest, AGenuineStatementPassesAndNamesTheKey) {
  const auto checked = validateAttestation(good_, expected_);
  ASSERT_TRUE(checked.has_value()) << describe(checked.error());
  EXPECT_EQ(checked->attestedKey, key_->publicKey().spki);
  EXPECT_TRUE(checked->warnings.empty());
}

TEST_F(AttestationTest, EveryKeyTypeCanBeAttested) {
  for (const KeyType type : {KeyType::EcP256, KeyType::Rsa}) {
    const auto key = makeKey(device_, type);
    const auto certified = key->certify(ak_, qualifying_, soon());
    ASSERT_TRUE(certified.has_value()) << describe(certified.error());
    AttestationStatement statement = good_;
    statement.certifyInfo = certified->certifyInfo;
    statement.signature = certified->signature;
    statement.publicArea = certified->publicArea;
    EXPECT_EQ(verdict(statement), "");
  }
}

TEST_F(AttestationTest, RenewalCertifiesTheSameKeyAgain) {
  const Bytes other = sha256(asBytes("another token"));
  const auto certified = key_->certify(ak_, other, soon());
  AttestationStatement statement = good_;
  statement.certifyInfo = certified->certifyInfo;
  statement.signature = certified->signature;
  EXPECT_NE(verdict(statement), "");  // not fresh for the first order
  expected_.qualifyingData = other;
  EXPECT_EQ(verdict(statement), "");
}

TEST_F(AttestationTest, EveryFlippedBitIsRefused) {
  for (Bytes AttestationStatement::* field :
       {&AttestationStatement::certifyInfo, &AttestationStatement::signature, &AttestationStatement::publicArea})
    for (size_t i = 0; i < (good_.*field).size(); ++i) {
      AttestationStatement bad = good_;
      (bad.*field)[i] ^= 0x01;
      EXPECT_NE(verdict(bad), "") << "byte " << i;
    }
}

TEST_F(AttestationTest, CutAndLengthenedPartsAreRefused) {
  for (Bytes AttestationStatement::* field :
       {&AttestationStatement::certifyInfo, &AttestationStatement::signature, &AttestationStatement::publicArea}) {
    for (size_t length = 0; length < (good_.*field).size(); ++length) {
      AttestationStatement bad = good_;
      (bad.*field).resize(length);
      EXPECT_NE(verdict(bad), "") << "length " << length;
    }
    AttestationStatement bad = good_;
    (bad.*field).push_back(0);
    EXPECT_NE(verdict(bad), "");
  }
}

TEST_F(AttestationTest, AnotherKeysPublicAreaIsRefused) {
  AttestationStatement bad = good_;
  bad.publicArea = makeKey(device_, KeyType::EcP384)->blob().publicArea;
  EXPECT_EQ(verdict(bad), "certifyInfo: it certifies another key than pubArea");
}

TEST_F(AttestationTest, TheAttestationKeyDoesNotVouchForARestrictedKey) {
  const auto other = device_->createAttestationKey(soon());
  const auto certified = device_->certify(other->key, ak_, qualifying_, soon());
  ASSERT_TRUE(certified.has_value()) << describe(certified.error());
  AttestationStatement bad = good_;
  bad.publicArea = certified->publicArea;
  bad.certifyInfo = certified->certifyInfo;
  bad.signature = certified->signature;
  EXPECT_NE(verdict(bad).find("attributes 0x50472"), std::string::npos) << verdict(bad);
}

TEST_F(AttestationTest, ACreationAttestationIsNoCertification) {
  AttestationStatement bad = good_;
  bad.certifyInfo = ak_.createAttestation;
  bad.signature = ak_.createSignature;
  EXPECT_NE(verdict(bad).find("type 0x801a"), std::string::npos) << verdict(bad);
}

TEST_F(AttestationTest, AlgorithmMustBeTheAttestationKeys) {
  AttestationStatement bad = good_;
  for (const int algorithm : {-35, -257, -65535, 0}) {  // ES384 is the device key's, RS256 and RS1 nobody's here
    bad.algorithm = algorithm;
    EXPECT_NE(verdict(bad), "") << algorithm;
  }
}

TEST_F(AttestationTest, CertificateOfAnotherAttestationKeyIsRefused) {
  const auto other = device_->createAttestationKey(soon()).value();
  AttestationStatement bad = good_;
  bad.akChain = {ca_.certify(spkiOf(parsePublicArea(other.key.publicArea).value()).value(), {})};
  EXPECT_EQ(verdict(bad), "the attestation is not signed by the AK");
}

TEST_F(AttestationTest, ChainMustHoldTogether) {
  AttestationStatement statement = good_;
  statement.akChain.push_back(ca_.root());
  EXPECT_EQ(verdict(statement), "");
  statement.akChain.back() = TinyCa().root();
  EXPECT_EQ(verdict(statement), "x5c: certificate 0 was not issued by certificate 1");
  statement.akChain.back() = Bytes{1, 2, 3};
  EXPECT_EQ(verdict(statement), "x5c: certificate 1 is not DER");
  statement.akChain.clear();
  EXPECT_EQ(verdict(statement), "x5c: no AK certificate");
  statement.akChain.assign(9, ca_.root());
  EXPECT_EQ(verdict(statement), "x5c: more than 8 certificates");
}

TEST_F(AttestationTest, EveryRuleOfTheAkCertificateIsApplied) {
  EXPECT_EQ(verdictWith({}), "");
  EXPECT_NE(verdictWith({.subject = "somebody"}).find("Subject must be empty"), std::string::npos);
  EXPECT_NE(verdictWith({.usage = ""}).find("extended key usage"), std::string::npos);
  EXPECT_NE(verdictWith({.usage = "clientAuth"}).find("extended key usage"), std::string::npos);
  EXPECT_NE(verdictWith({.usage = "clientAuth,2.23.133.8.3"}).find("first extended key usage"), std::string::npos);
  EXPECT_NE(verdictWith({.directory = "x.2.23.133.2.1=id:00001014\nx.2.23.133.2.2=swtpm\n"}).find("version"),
            std::string::npos);
  EXPECT_NE(verdictWith({.more = "1.2.3.4=critical,ASN1:NULL\n"}).find("1.2.3.4"), std::string::npos);
  EXPECT_EQ(verdictWith({.more = "1.2.3.4=ASN1:NULL\n"}), "");
  EXPECT_NE(verdictWith({.life = -60s}).find("expired"), std::string::npos);
  EXPECT_NE(verdictWith({.version = 0}).find("version 3"), std::string::npos);
  EXPECT_NE(verdictWith({.identifier = "device-2"}).find("\"device-2\""), std::string::npos);
  expected_.now -= 48h;
  EXPECT_NE(verdictWith({}).find("not valid yet"), std::string::npos);
}

TEST_F(AttestationTest, AnAkCertificateForNobodyIsAWarning) {
  AttestationStatement statement = good_;
  statement.akChain = {ca_.certify(akSpki_, {.identifier = ""})};
  const auto checked = validateAttestation(statement, expected_);
  ASSERT_TRUE(checked.has_value()) << describe(checked.error());
  EXPECT_EQ(checked->warnings.size(), 1u);
}

TEST_F(AttestationTest, CreationOfTheAttestationKeyIsProvenByItself) {
  const auto check = [](const AttestationKey& ak) {
    return validateAttestationKey(ak.key.publicArea, ak.createData, ak.createAttestation, ak.createSignature);
  };
  EXPECT_TRUE(check(ak_).has_value());
  AttestationKey bad = ak_;
  bad.createData.back() ^= 1;
  EXPECT_EQ(check(bad).error().message, "createAttestation: creationHash is not the hash of createData");
  bad = ak_;
  bad.createSignature.back() ^= 1;
  EXPECT_EQ(check(bad).error().message, "the attestation is not signed by the AK");
  bad = ak_;
  bad.key = key_->blob();  // not restricted
  EXPECT_EQ(check(bad).error().reason, Reason::AttestationRefused);
  bad.key = device_->createAttestationKey(soon())->key;
  EXPECT_EQ(check(bad).error().message, "createAttestation: it is about another key");
}

TEST_F(AttestationTest, StoredAttestationKeyStillCertifies) {
  const auto back = AttestationKey::decode(ak_.encode());
  ASSERT_TRUE(back.has_value());
  device_ = nullptr;
  key_ = TpmKey::fromPem(open(), key_->pem().value()).value();
  EXPECT_TRUE(key_->certify(*back, qualifying_, soon()).has_value());
}

TEST_F(AttestationTest, QualifyingDataIsBounded) {
  EXPECT_EQ(key_->certify(ak_, Bytes(65), soon()).error().reason, Reason::BadInput);
}

TEST_F(AttestationTest, CredentialsForEveryKindOfEndorsementKeyAreActivated) {
  const Bytes secret = randomBytes(32);
  for (const EkChoice choice : {EkChoice::Rsa, EkChoice::EcP384, EkChoice::EcP256}) {
    device_ = nullptr;
    key_ = nullptr;  // it holds the only connection
    const auto device = open({.endorsementKey = choice});
    const auto ek = device->endorsementKey(soon());
    ASSERT_TRUE(ek.has_value()) << describe(ek.error());
    ASSERT_TRUE(device->disconnect(soon()).has_value());
    const auto [credential, encrypted] = makeCredential(ek->publicArea, nameOf(ak_.key.publicArea).value(), secret);
    const auto opened = device->activateCredential(ak_, credential, encrypted, soon());
    ASSERT_TRUE(opened.has_value()) << ek->kind << ": " << describe(opened.error());
    EXPECT_EQ(*opened, secret) << ek->kind;
    // Twice: no session may be left behind.
    EXPECT_TRUE(device->activateCredential(ak_, credential, encrypted, soon()).has_value());
  }
}

TEST_F(AttestationTest, CredentialsForOtherKeysAreRefused) {
  const auto ek = device_->endorsementKey(soon()).value();
  const auto otherAk = device_->createAttestationKey(soon()).value();
  SwTpm blank(SwTpm::Kind::Blank);
  blank.start();
  const auto foreignEk = open(blank)->endorsementKey(soon()).value();
  ASSERT_TRUE(device_->disconnect(soon()).has_value());
  const Bytes akName = nameOf(ak_.key.publicArea).value();
  const auto [forOtherAk, secret1] =
      makeCredential(ek.publicArea, nameOf(otherAk.key.publicArea).value(), Bytes(32, 1));
  const auto [forOtherEk, secret2] = makeCredential(foreignEk.publicArea, akName, Bytes(32, 1));
  const auto [good, secret3] = makeCredential(ek.publicArea, akName, Bytes(32, 1));

  EXPECT_EQ(device_->activateCredential(ak_, forOtherAk, secret1, soon()).error().reason, Reason::KeyMismatch);
  const auto mismatch = device_->activateCredential(ak_, forOtherEk, secret2, soon());
  ASSERT_FALSE(mismatch.has_value());
  EXPECT_EQ(mismatch.error().reason, Reason::KeyMismatch) << describe(mismatch.error());
  EXPECT_EQ(device_->activateCredential(ak_, Bytes{0}, secret3, soon()).error().reason, Reason::BadInput);
  EXPECT_EQ(device_->activateCredential(ak_, good, {}, soon()).error().reason, Reason::BadInput);
  for (int i = 0; i < 70; ++i)  // a TPM has 64 sessions at most: failures must not keep theirs
    ASSERT_EQ(device_->activateCredential(ak_, forOtherEk, secret2, soon()).error().reason, Reason::KeyMismatch);
  EXPECT_EQ(device_->activateCredential(ak_, good, secret3, soon()).value(), Bytes(32, 1));
}

}  // namespace
}  // namespace wayleave::keys::tpm
