// PKCS#12 files of every kind, made here by OpenSSL, and what a hostile or clumsy writer could make of them.

#include "enrolment/pkcs12.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/asn1t.h>
#include <openssl/err.h>
#include <openssl/pkcs12.h>
#include <openssl/provider.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>

#include "keys/openssl.h"
#include "keys/software_key.h"

namespace wayleave::enrolment {
namespace {

using keys::EvpPkeyPtr;
using keys::X509Ptr;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using Pkcs12Ptr = Handle<PKCS12, PKCS12_free>;

EvpPkeyPtr ecKey() { return EvpPkeyPtr(EVP_EC_gen("P-384")); }

template <typename T, typename Encode>
Bytes encoded(T* object, Encode encode) {
  Bytes out(static_cast<size_t>(encode(object, nullptr)));
  uint8_t* at = out.data();
  encode(object, &at);
  return out;
}
Bytes derOf(X509* certificate) { return encoded(certificate, i2d_X509); }
Bytes derOf(PKCS12* file) { return encoded(file, i2d_PKCS12); }

struct Entity {
  EvpPkeyPtr key;
  X509Ptr certificate;
};

X509Ptr certify(EVP_PKEY* key, const std::string& name, const Entity* issuer, long days = 30) {
  static long serial = 1000;
  X509Ptr certificate(X509_new());
  X509_set_version(certificate.get(), X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), ++serial);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate.get()), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const uint8_t*>(name.data()), static_cast<int>(name.size()), -1, 0);
  X509_set_issuer_name(certificate.get(),
                       X509_get_subject_name(issuer ? issuer->certificate.get() : certificate.get()));
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), 0);
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), days * 86400);
  X509_set_pubkey(certificate.get(), key);
  X509_sign(certificate.get(), issuer ? issuer->key.get() : key, EVP_sha256());
  return certificate;
}

Entity entity(const std::string& name, const Entity* issuer = nullptr) {
  Entity out{ecKey(), nullptr};
  out.certificate = certify(out.key.get(), name, issuer);
  return out;
}

// A writer's context: with the legacy ciphers, as old servers have them.
class LegacyWriter {
 public:
  LegacyWriter() : context_(OSSL_LIB_CTX_new()) {
    default_ = OSSL_PROVIDER_load(context_, "default");
    legacy_ = OSSL_PROVIDER_load(context_, "legacy");
  }
  ~LegacyWriter() {
    OSSL_PROVIDER_unload(legacy_);
    OSSL_PROVIDER_unload(default_);
    OSSL_LIB_CTX_free(context_);
  }
  OSSL_LIB_CTX* context() const { return context_; }

 private:
  OSSL_LIB_CTX* context_;
  OSSL_PROVIDER* default_;
  OSSL_PROVIDER* legacy_;
};

struct Writing {
  const char* password = "secret";
  const char* name = "Device identity";
  int keyNid = 0;  // 0: AES-256 by PBES2
  int certificateNid = 0;
  int iterations = 2048;
  int macIterations = 2048;  // -1: no MAC
};

Bytes write(EVP_PKEY* key, X509* leaf, const std::vector<X509*>& others, const Writing& how = {}) {
  static const LegacyWriter writer;
  STACK_OF(X509)* stack = sk_X509_new_null();
  for (X509* other : others) sk_X509_push(stack, other);
  const Pkcs12Ptr file(PKCS12_create_ex(how.password, how.name, key, leaf, stack, how.keyNid, how.certificateNid,
                                        how.iterations, how.macIterations, 0, writer.context(), nullptr));
  sk_X509_free(stack);
  EXPECT_TRUE(file) << ERR_reason_error_string(ERR_peek_last_error());
  ERR_clear_error();
  return file ? derOf(file.get()) : Bytes{};
}

class Pkcs12Test : public testing::Test {
 protected:
  // Names what it should be: `EXPECT_TRUE` says nothing about an Error.
  static Pkcs12Contents parsed(ByteView file, std::optional<std::string_view> password = "secret") {
    auto contents = parsePkcs12(file, password);
    EXPECT_TRUE(contents) << describe(contents.error());
    return contents ? std::move(*contents) : Pkcs12Contents{};
  }
  static Error refused(ByteView file, std::optional<std::string_view> password = "secret") {
    auto contents = parsePkcs12(file, password);
    EXPECT_FALSE(contents);
    if (contents) return {};
    EXPECT_FALSE(contents.error().hint.empty()) << contents.error().message;
    return contents.error();
  }
  void expectIdentity(const Pkcs12Contents& contents) const {
    ASSERT_FALSE(contents.chain.empty());
    EXPECT_EQ(contents.chain.front(), derOf(leaf_.certificate.get()));
    const auto key = keys::SoftwareKey::fromPkcs8(contents.pkcs8);
    ASSERT_TRUE(key) << describe(key.error());
    EXPECT_EQ((*key)->publicKey().spki, encoded(leaf_.key.get(), i2d_PUBKEY));
  }
  Bytes standard(const Writing& how = {}) const {
    return write(leaf_.key.get(), leaf_.certificate.get(), {middle_.certificate.get(), root_.certificate.get()}, how);
  }

  const Entity root_ = entity("Root");
  const Entity middle_ = entity("Issuer", &root_);
  const Entity leaf_ = entity("device-1", &middle_);
};

// --- Ways of writing it ---

TEST_F(Pkcs12Test, ReadsWhatOpenSslWritesTodayWithoutAWarning) {
  const Pkcs12Contents contents = parsed(standard());
  expectIdentity(contents);
  EXPECT_EQ(contents.chain.size(), 3u);
  EXPECT_EQ(contents.friendlyName, "Device identity");
  EXPECT_THAT(contents.warnings, IsEmpty());
}

TEST_F(Pkcs12Test, ReadsTripleDesAsMacOsExportsIt) {
  expectIdentity(parsed(standard(
      {.keyNid = NID_pbe_WithSHA1And3_Key_TripleDES_CBC, .certificateNid = NID_pbe_WithSHA1And3_Key_TripleDES_CBC})));
}

TEST_F(Pkcs12Test, ReadsRc2AsOldServersEmitItAndSaysItIsWeak) {
  const Pkcs12Contents contents = parsed(
      standard({.keyNid = NID_pbe_WithSHA1And3_Key_TripleDES_CBC, .certificateNid = NID_pbe_WithSHA1And40BitRC2_CBC}));
  expectIdentity(contents);
  EXPECT_THAT(contents.warnings, Contains(HasSubstr("RC2-40")));
}

TEST_F(Pkcs12Test, TheLegacyCiphersStayOutOfTheProcess) {
  parsed(standard({.certificateNid = NID_pbe_WithSHA1And40BitRC2_CBC}));
  EXPECT_EQ(OSSL_PROVIDER_available(nullptr, "legacy"), 0);
  EXPECT_EQ(EVP_CIPHER_fetch(nullptr, "RC2-40-CBC", nullptr), nullptr);
  ERR_clear_error();
}

TEST_F(Pkcs12Test, AMacOfOneIterationIsReadAndReported) {
  const Pkcs12Contents contents = parsed(standard({.iterations = 1, .macIterations = 1}));
  expectIdentity(contents);
  EXPECT_THAT(contents.warnings, Contains(HasSubstr("MAC is protected by 1 iteration only")));
}

TEST_F(Pkcs12Test, NoMacIsReadAndReported) {
  const Pkcs12Contents contents = parsed(standard({.macIterations = -1}));
  expectIdentity(contents);
  EXPECT_THAT(contents.warnings, Contains(HasSubstr("no MAC")));
}

TEST_F(Pkcs12Test, EverythingInTheClearIsReadAndReported) {
  const Pkcs12Contents contents = parsed(standard({.keyNid = -1, .certificateNid = -1}));
  expectIdentity(contents);
  EXPECT_THAT(contents.warnings, Contains(HasSubstr("not encrypted")));
}

TEST_F(Pkcs12Test, ReadsRsaKeys) {
  const EvpPkeyPtr rsa(EVP_RSA_gen(2048));
  const X509Ptr certificate = certify(rsa.get(), "rsa device", &middle_);
  const Pkcs12Contents contents = parsed(write(rsa.get(), certificate.get(), {}));
  EXPECT_EQ(keys::SoftwareKey::fromPkcs8(contents.pkcs8).value()->publicKey().type, keys::KeyType::Rsa);
}

// --- Passwords ---

TEST_F(Pkcs12Test, EmptyAndMissingPasswordsOpenEitherWriting) {
  for (const char* written : {static_cast<const char*>(nullptr), ""}) {
    for (const int macIterations : {2048, -1}) {
      for (const int nid : {0, NID_pbe_WithSHA1And3_Key_TripleDES_CBC}) {
        const Bytes file =
            standard({.password = written, .keyNid = nid, .certificateNid = nid, .macIterations = macIterations});
        expectIdentity(parsed(file, std::nullopt));
        expectIdentity(parsed(file, ""));
      }
    }
  }
}

TEST_F(Pkcs12Test, WrongPasswordIsSaidSo) {
  for (const int macIterations : {2048, -1}) {
    const Bytes file = standard({.macIterations = macIterations});
    EXPECT_EQ(refused(file, "Secret").reason, Reason::WrongPassword);
    EXPECT_EQ(refused(file, "").reason, Reason::WrongPassword);
    EXPECT_EQ(refused(file, std::nullopt).reason, Reason::WrongPassword);
    EXPECT_NE(refused(file, "").osStatus, 0);
  }
  EXPECT_EQ(refused(standard({.password = ""}), "secret").reason, Reason::WrongPassword);
}

TEST_F(Pkcs12Test, ReadsPasswordsOutsideAscii) {
  expectIdentity(parsed(standard({.password = "pässwörd ✓"}), "pässwörd ✓"));
}

TEST_F(Pkcs12Test, ThePasswordIsTakenByItsLength) {
  const std::string longer = "secret and more";
  expectIdentity(parsed(standard(), std::string_view(longer).substr(0, 6)));
  EXPECT_EQ(refused(standard(), std::string_view("secret\0x", 8)).reason, Reason::WrongPassword);
  EXPECT_EQ(refused(standard(), std::string(2000, 'x')).reason, Reason::BadInput);
}

TEST_F(Pkcs12Test, NoErrorRepeatsThePassword) {
  EXPECT_EQ(describe(refused(standard(), "hunter2-hunter2")).find("hunter2"), std::string::npos);
}

// --- Which key, which certificate, which order ---

TEST_F(Pkcs12Test, ChainIsLeafFirstWhateverTheFilesOrder) {
  const std::vector<Bytes> expected{derOf(leaf_.certificate.get()), derOf(middle_.certificate.get()),
                                    derOf(root_.certificate.get())};
  X509 *const m = middle_.certificate.get(), *const r = root_.certificate.get(), *const l = leaf_.certificate.get();
  for (const std::vector<X509*>& order : {std::vector{l, m, r}, {r, m, l}, {m, l, r}, {r, l, m}})
    EXPECT_EQ(parsed(write(leaf_.key.get(), nullptr, order)).chain, expected);
}

TEST_F(Pkcs12Test, AnIssuerOfTheSameNameWithAnotherKeyIsNotInTheChain) {
  const Entity impostor = entity("Issuer", &root_);
  const Pkcs12Contents contents =
      parsed(write(leaf_.key.get(), leaf_.certificate.get(), {impostor.certificate.get(), middle_.certificate.get()}));
  EXPECT_EQ(contents.chain, (std::vector{derOf(leaf_.certificate.get()), derOf(middle_.certificate.get())}));
  EXPECT_THAT(contents.warnings, Contains(HasSubstr("1 certificate(s) outside the chain")));
}

TEST_F(Pkcs12Test, ARingOfAuthoritiesEnds) {
  Entity a = entity("A"), b = entity("B");
  a.certificate = certify(a.key.get(), "A", &b);
  b.certificate = certify(b.key.get(), "B", &a);
  const X509Ptr leaf = certify(leaf_.key.get(), "device", &a);
  EXPECT_EQ(parsed(write(leaf_.key.get(), leaf.get(), {b.certificate.get(), a.certificate.get()})).chain.size(), 3u);
}

TEST_F(Pkcs12Test, OfSeveralCertificatesForTheKeyTheLongestValidIsTaken) {
  const X509Ptr longer = certify(leaf_.key.get(), "device-1", &middle_, 300);
  const Pkcs12Contents contents = parsed(write(leaf_.key.get(), nullptr, {leaf_.certificate.get(), longer.get()}));
  EXPECT_EQ(contents.chain.front(), derOf(longer.get()));
  EXPECT_THAT(contents.warnings, Contains(HasSubstr("2 certificates for its key")));
}

TEST_F(Pkcs12Test, ACertificateForAnotherKeyIsAMismatch) {
  const EvpPkeyPtr other = ecKey();
  EXPECT_EQ(refused(write(other.get(), nullptr, {leaf_.certificate.get()})).reason, Reason::KeyMismatch);
}

TEST_F(Pkcs12Test, KeyOrCertificateAloneIsRefused) {
  const Error noKey = refused(write(nullptr, nullptr, {leaf_.certificate.get()}));
  EXPECT_EQ(noKey.reason, Reason::BadInput);
  EXPECT_THAT(noKey.message, HasSubstr("no private key"));
  const Error noCertificate = refused(write(leaf_.key.get(), nullptr, {}));
  EXPECT_EQ(noCertificate.reason, Reason::BadInput);
  EXPECT_THAT(noCertificate.message, HasSubstr("no certificate"));
}

TEST_F(Pkcs12Test, KeyTypesNobodyUsesForTlsAreUnsupported) {
  const EvpPkeyPtr ed25519(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
  const X509Ptr certificate = certify(ed25519.get(), "ed", nullptr);
  EXPECT_EQ(refused(write(ed25519.get(), nullptr, {leaf_.certificate.get()})).reason, Reason::Unsupported);
}

// Files PKCS12_create cannot write: bags are put together by hand, in the clear under a MAC.
class HandMade {
 public:
  ~HandMade() { sk_PKCS12_SAFEBAG_pop_free(bags_, PKCS12_SAFEBAG_free); }
  void add(EVP_PKEY* key) { PKCS12_add_key(&bags_, key, 0, 1, -1, nullptr); }
  PKCS12_SAFEBAG* add(X509* certificate) { return PKCS12_add_cert(&bags_, certificate); }
  void add(PKCS12_SAFEBAG* bag) {
    if (bags_ == nullptr) bags_ = sk_PKCS12_SAFEBAG_new_null();
    sk_PKCS12_SAFEBAG_push(bags_, bag);
  }
  // Wraps everything so far into one safeContents bag.
  void nest() {
    // There is no public maker of this bag: decode one from its encoding.
    const Bytes contents = encoded(bags_, [](const STACK_OF(PKCS12_SAFEBAG) * bags, uint8_t** out) {
      return ASN1_item_i2d(reinterpret_cast<const ASN1_VALUE*>(bags), out, ASN1_ITEM_rptr(PKCS12_SAFEBAGS));
    });
    sk_PKCS12_SAFEBAG_pop_free(bags_, PKCS12_SAFEBAG_free);
    bags_ = nullptr;
    const Bytes oid{0x06, 0x0b, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x06};
    Bytes body = oid;
    append(body, tlv(0xa0, contents));
    const Bytes bag = tlv(0x30, body);
    const uint8_t* at = bag.data();
    add(d2i_PKCS12_SAFEBAG(nullptr, &at, static_cast<long>(bag.size())));
  }
  Bytes file(const char* password = "secret") {
    STACK_OF(PKCS7)* parts = nullptr;
    PKCS12_add_safe(&parts, bags_, -1, 0, nullptr);
    const Pkcs12Ptr file(PKCS12_add_safes(parts, 0));
    PKCS12_set_mac(file.get(), password, -1, nullptr, 0, 2048, EVP_sha256());
    sk_PKCS7_pop_free(parts, PKCS7_free);
    return derOf(file.get());
  }

 private:
  static Bytes tlv(uint8_t tag, ByteView value) {
    Bytes out{tag, 0x82};
    appendU16(out, static_cast<uint16_t>(value.size()));
    append(out, value);
    return out;
  }
  STACK_OF(PKCS12_SAFEBAG) * bags_ = nullptr;
};

TEST_F(Pkcs12Test, OfTwoIdentitiesTheFirstIsTakenAndTheUserTold) {
  const Entity second = entity("device-2", &middle_);
  HandMade made;
  made.add(leaf_.key.get());
  made.add(second.key.get());
  made.add(second.certificate.get());
  made.add(leaf_.certificate.get());
  const Pkcs12Contents contents = parsed(made.file());
  expectIdentity(contents);
  EXPECT_THAT(contents.warnings, Contains(HasSubstr("2 identities")));
}

TEST_F(Pkcs12Test, AKeyWithoutACertificateIsLeftOut) {
  const EvpPkeyPtr other = ecKey();
  HandMade made;
  made.add(other.get());
  made.add(leaf_.key.get());
  made.add(leaf_.certificate.get());
  const Pkcs12Contents contents = parsed(made.file());
  expectIdentity(contents);
  EXPECT_THAT(contents.warnings, Contains(HasSubstr("1 private key(s) without a certificate")));
}

TEST_F(Pkcs12Test, NestedContentsAreReadToADepth) {
  HandMade made;
  made.add(leaf_.key.get());
  made.add(leaf_.certificate.get());
  made.nest();
  expectIdentity(parsed(made.file()));
  for (int i = 0; i < 5; ++i) made.nest();
  EXPECT_EQ(refused(made.file()).reason, Reason::BadInput);
}

TEST_F(Pkcs12Test, TooManyKeysCertificatesAndBagsAreRefused) {
  HandMade keysOnly;
  for (int i = 0; i < 17; ++i) keysOnly.add(leaf_.key.get());
  EXPECT_EQ(refused(keysOnly.file()).reason, Reason::BadInput);
  HandMade certificates;
  for (int i = 0; i < 65; ++i) certificates.add(certify(leaf_.key.get(), "x", &middle_).get());
  EXPECT_EQ(refused(certificates.file()).reason, Reason::BadInput);
  HandMade bags;
  for (int i = 0; i < 257; ++i) bags.add(leaf_.certificate.get());  // all the same: one certificate, many bags
  EXPECT_EQ(refused(bags.file()).reason, Reason::BadInput);
}

TEST_F(Pkcs12Test, TheFriendlyNameIsCleanAndBounded) {
  EXPECT_EQ(parsed(standard({.name = "line\nbreak \x1b[31m ü"})).friendlyName, "line?break ?[31m ü");
  const std::string longName(1000, 'n');
  EXPECT_EQ(parsed(standard({.name = longName.c_str()})).friendlyName.size(), 256u);
  EXPECT_EQ(parsed(standard({.name = nullptr})).friendlyName, "");
}

// --- Hostile and damaged ---

// Replaces each INTEGER 65537 (the marker iteration count) by `value`, which must have three octets.
Bytes withIterations(Bytes file, uint32_t value) {
  const Bytes marker{0x02, 0x03, 0x01, 0x00, 0x01};
  int replaced = 0;
  for (auto at = file.begin();; ++replaced) {
    at = std::search(at, file.end(), marker.begin(), marker.end());
    if (at == file.end()) break;
    at[2] = static_cast<uint8_t>(value >> 16);
    at[3] = static_cast<uint8_t>(value >> 8);
    at[4] = static_cast<uint8_t>(value);
  }
  EXPECT_GT(replaced, 0);
  return file;
}

TEST_F(Pkcs12Test, HostileIterationCountsAreRefusedBeforeTheyAreSpent) {
  // In the MAC; in PBES2; in PKCS#12's own scheme; as a negative number.
  const Bytes mac = standard({.macIterations = 65537});
  const Bytes pbes2 = standard({.iterations = 65537, .macIterations = -1});
  const Bytes old = standard({.keyNid = NID_pbe_WithSHA1And3_Key_TripleDES_CBC,
                              .certificateNid = NID_pbe_WithSHA1And3_Key_TripleDES_CBC,
                              .iterations = 65537,
                              .macIterations = -1});
  for (const Bytes& file : {mac, pbes2, old}) {
    expectIdentity(parsed(file));
    for (const uint32_t count : {0x7fffffu, 0x800000u, 0xff7fffu})
      EXPECT_EQ(refused(withIterations(file, count)).reason, Reason::Unsupported);
  }
}

TEST_F(Pkcs12Test, TheIterationBudgetIsForTheWholeFile) {
  const Bytes file = standard({.iterations = 2000, .macIterations = 2000});  // MAC, certificates, key
  EXPECT_TRUE(parsePkcs12(file, "secret", {.iterations = 6000}));
  EXPECT_EQ(parsePkcs12(file, "secret", {.iterations = 5999}).error().reason, Reason::Unsupported);
}

TEST_F(Pkcs12Test, SizeIsBounded) {
  const Bytes file = standard();
  EXPECT_TRUE(parsePkcs12(file, "secret", {.bytes = file.size()}));
  EXPECT_EQ(parsePkcs12(file, "secret", {.bytes = file.size() - 1}).error().reason, Reason::BadInput);
}

TEST_F(Pkcs12Test, NoTruncationIsAccepted) {
  const Bytes file = standard();
  for (size_t length = 0; length < file.size(); length += 1 + length / 50)
    EXPECT_EQ(refused(ByteView(file).first(length)).reason, Reason::BadInput) << length;
}

TEST_F(Pkcs12Test, TrailingBytesAreReported) {
  Bytes file = standard();
  file.insert(file.end(), 3, 0);
  const Pkcs12Contents contents = parsed(file);
  expectIdentity(contents);
  EXPECT_THAT(contents.warnings, Contains(HasSubstr("3 bytes after")));
}

TEST_F(Pkcs12Test, NoFlippedByteYieldsAnotherIdentity) {
  const Bytes file = standard({.iterations = 1, .macIterations = 1});
  for (size_t i = 0; i < file.size(); i += 3) {
    Bytes bent = file;
    bent[i] ^= 0x41;
    const auto contents = parsePkcs12(bent, "secret");
    if (contents) expectIdentity(*contents);  // a byte outside the MAC, such as a length's form
  }
}

TEST_F(Pkcs12Test, OtherThingsAreNotPkcs12) {
  EXPECT_EQ(refused({}).reason, Reason::BadInput);
  EXPECT_EQ(refused(toBytes("-----BEGIN CERTIFICATE-----\n")).reason, Reason::BadInput);
  EXPECT_EQ(refused(derOf(leaf_.certificate.get())).reason, Reason::BadInput);
  EXPECT_EQ(refused(randomBytes(500)).reason, Reason::BadInput);
}

TEST_F(Pkcs12Test, UnknownEncryptionIsNamed) {
  // pbeWithMD5AndDES-CBC, PKCS#5's first scheme: never part of PKCS#12.
  const Error error = refused(standard({.keyNid = NID_pbeWithMD5AndDES_CBC, .macIterations = 2048}));
  EXPECT_EQ(error.reason, Reason::Unsupported);
  EXPECT_THAT(error.message, HasSubstr("pbeWithMD5AndDES-CBC"));
}

}  // namespace
}  // namespace wayleave::enrolment
