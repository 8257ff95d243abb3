#pragma once

// Profiles, certificates and signatures made for tests.

#include <gtest/gtest.h>
#include <openssl/cms.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pkcs12.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "base/owned.h"
#include "management/profile.h"
#include "plist/plist.h"

namespace wayleave::management::test {

using plist::Array;
using plist::Dictionary;
using plist::Value;

inline const Wall kNow = Wall{std::chrono::seconds{1'795'000'000}};  // November 2026

inline Dictionary dict(std::initializer_list<std::pair<const char*, Value>> entries) {
  Dictionary out;
  for (const auto& [key, value] : entries) out.set(key, value);
  return out;
}
// `base` with some keys replaced.
inline Dictionary with(Dictionary base, std::initializer_list<std::pair<const char*, Value>> changes) {
  for (const auto& [key, value] : changes) base.set(key, value);
  return base;
}
inline Dictionary without(const Dictionary& base, std::string_view key) {
  Dictionary out;
  for (const plist::Entry& entry : base.entries())
    if (entry.key != key) out.add(entry.key, entry.value);
  return out;
}

// A payload with all common keys; `number` makes its UUID and identifier.
inline Dictionary payload(const char* type, int number, std::initializer_list<std::pair<const char*, Value>> entries) {
  char uuid[40];
  std::snprintf(uuid, sizeof uuid, "00000000-0000-4000-8000-ABCDEF%06d", number);
  Dictionary out = dict({{"PayloadType", type},
                         {"PayloadVersion", 1},
                         {"PayloadIdentifier", "com.example.payload" + std::to_string(number)},
                         {"PayloadUUID", uuid}});
  return with(std::move(out), entries);
}
inline std::string uuidOf(int number) { return *payload("", number, {}).find("PayloadUUID")->string(); }

inline Dictionary profile(Array payloads) {
  return dict({{"PayloadType", "Configuration"},
               {"PayloadVersion", 1},
               {"PayloadIdentifier", "com.example.profile"},
               {"PayloadUUID", "11111111-0000-4000-8000-000000000000"},
               {"PayloadContent", std::move(payloads)}});
}

inline Bytes xml(const Dictionary& root) { return toBytes(plist::toXml(Value(root)).value()); }

inline ImportResult import(const Dictionary& root) { return importProfile(xml(root), {.now = kNow}); }

inline std::string all(const ImportResult& result) {
  std::string out;
  for (const Finding& finding : result.findings)
    out += std::string(text(finding.severity)) + ": " + describe(finding) + "\n";
  return out;
}
inline bool says(const ImportResult& result, Severity severity, std::string_view part) {
  return std::ranges::any_of(result.findings, [&](const Finding& finding) {
    return finding.severity == severity && describe(finding).find(part) != std::string::npos;
  });
}
#define EXPECT_ERROR(result, part) \
  EXPECT_TRUE(!(result).profile && says(result, Severity::Error, part)) << part << "\namong\n" << all(result)
#define EXPECT_WARNING(result, part) \
  EXPECT_TRUE((result).profile&& says(result, Severity::Warning, part)) << part << "\namong\n" << all(result)
#define EXPECT_CLEAN(result) EXPECT_TRUE((result).profile && (result).findings.empty()) << all(result)

// --- certificates ---

using KeyHandle = Handle<EVP_PKEY, EVP_PKEY_free>;
using CertificateHandle = Handle<X509, X509_free>;

struct Identity {
  KeyHandle key;
  CertificateHandle certificate;
};

struct CertificateWish {
  const char* name = "Test";
  Wall notBefore = kNow - std::chrono::hours(24);
  Wall notAfter = kNow + std::chrono::hours(24 * 365);
  const Identity* issuer = nullptr;  // self-signed otherwise
  bool rsa = false;
  int extendedKeyUsage = 0;  // a NID
};

inline Identity makeIdentity(const CertificateWish& wish) {
  Identity out;
  out.key.reset(wish.rsa ? EVP_RSA_gen(2048) : EVP_EC_gen("P-256"));
  out.certificate.reset(X509_new());
  X509* c = out.certificate.get();
  X509_set_version(c, 2);
  static int serial = 1;
  ASN1_INTEGER_set(X509_get_serialNumber(c), ++serial);
  ASN1_TIME_set(X509_getm_notBefore(c), std::chrono::system_clock::to_time_t(wish.notBefore));
  ASN1_TIME_set(X509_getm_notAfter(c), std::chrono::system_clock::to_time_t(wish.notAfter));
  X509_NAME_add_entry_by_txt(X509_get_subject_name(c), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(wish.name), -1, -1, 0);
  const Identity& issuer = wish.issuer == nullptr ? out : *wish.issuer;
  X509_set_issuer_name(c, X509_get_subject_name(issuer.certificate.get()));
  X509_set_pubkey(c, out.key.get());
  const auto extend = [&](int nid, const char* value) {
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, issuer.certificate.get(), c, nullptr, nullptr, 0);
    const Handle<X509_EXTENSION, X509_EXTENSION_free> extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value));
    X509_add_ext(c, extension.get(), -1);
  };
  if (wish.issuer == nullptr) extend(NID_basic_constraints, "critical,CA:TRUE");
  if (wish.extendedKeyUsage != 0) extend(NID_ext_key_usage, OBJ_nid2sn(wish.extendedKeyUsage));
  X509_sign(c, issuer.key.get(), EVP_sha256());
  return out;
}

inline Bytes der(const Identity& identity) {
  Bytes out(static_cast<size_t>(i2d_X509(identity.certificate.get(), nullptr)));
  unsigned char* at = out.data();
  i2d_X509(identity.certificate.get(), &at);
  return out;
}

inline Bytes pkcs12(const char* password, int macIterations = 2048) {
  const Identity identity = makeIdentity({});
  const Handle<PKCS12, PKCS12_free> file(PKCS12_create(password, "device", identity.key.get(),
                                                       identity.certificate.get(), nullptr, 0, 0, 0, macIterations, 0));
  Bytes out(static_cast<size_t>(i2d_PKCS12(file.get(), nullptr)));
  unsigned char* at = out.data();
  i2d_PKCS12(file.get(), &at);
  return out;
}

struct SigningWish {
  const EVP_MD* digest = EVP_sha256();
  unsigned flags = 0;       // CMS_NOATTR, CMS_NOCERTS
  bool indefinite = false;  // BER with indefinite lengths, as a streaming writer leaves it
  bool detached = false;
  std::vector<const Identity*> chain = {};
};

inline Bytes sign(ByteView content, const Identity& signer, const SigningWish& wish = {}) {
  const Handle<BIO, BIO_free_all> in(BIO_new_mem_buf(content.data(), static_cast<int>(content.size())));
  const unsigned flags =
      CMS_BINARY | CMS_PARTIAL | (wish.indefinite ? CMS_STREAM : 0u) | (wish.detached ? CMS_DETACHED : 0u);
  const Handle<CMS_ContentInfo, CMS_ContentInfo_free> cms(CMS_sign(nullptr, nullptr, nullptr, nullptr, flags));
  CMS_add1_signer(cms.get(), signer.certificate.get(), signer.key.get(), wish.digest, wish.flags | CMS_PARTIAL);
  for (const Identity* more : wish.chain) CMS_add1_cert(cms.get(), more->certificate.get());
  const Handle<BIO, BIO_free_all> out(BIO_new(BIO_s_mem()));
  if (wish.indefinite) {
    i2d_CMS_bio_stream(out.get(), cms.get(), in.get(), static_cast<int>(flags & ~unsigned{CMS_PARTIAL}));
  } else {
    CMS_final(cms.get(), in.get(), nullptr, flags & ~unsigned{CMS_PARTIAL});
    i2d_CMS_bio(out.get(), cms.get());
  }
  char* data = nullptr;
  const long length = BIO_get_mem_data(out.get(), &data);
  return Bytes(data, data + length);
}

// --- typical payloads ---

inline Dictionary rootPayload(int number, const Bytes& content) {
  return payload("com.apple.security.root", number, {{"PayloadContent", content}});
}
inline Dictionary pkcs12Payload(int number) {
  static const Bytes file = pkcs12("secret");
  return payload("com.apple.security.pkcs12", number, {{"PayloadContent", file}, {"Password", "secret"}});
}
inline Array subjectOf(const char* name) { return Array{Value(Array{Value(Array{Value("CN"), Value(name)})})}; }
inline Dictionary acmePayload(int number) {
  return payload("com.apple.security.acme", number,
                 {{"DirectoryURL", "https://ca.example/acme/directory"},
                  {"ClientIdentifier", "device-1"},
                  {"KeyType", "ECSECPrimeRandom"},
                  {"KeySize", 384},
                  {"HardwareBound", true},
                  {"Attest", true},
                  {"AttestationURL", "https://attestation.example"},
                  {"Subject", subjectOf("device-1")}});
}
inline Dictionary scepPayload(int number, std::initializer_list<std::pair<const char*, Value>> changes = {}) {
  return payload(
      "com.apple.security.scep", number,
      {{"PayloadContent",
        with(dict({{"URL", "https://ca.example/scep"}, {"Keysize", 2048}, {"Key Type", "RSA"}, {"Challenge", "word"}}),
             changes)}});
}
inline Dictionary vendorConfig() {
  return dict({{"GatewayURL", "https://gateway.example:8443"},
               {"IncludedNetworkRules", Array{Value(dict({{"MatchProtocol", "tcp"}}))}}});
}
inline Dictionary transparentProxy(const std::string& identity) {
  return dict(
      {{"AuthenticationMethod", "Certificate"}, {"PayloadCertificateUUID", identity}, {"ProviderType", "app-proxy"}});
}
inline Dictionary vpnPayload(int number, Dictionary proxy, Dictionary vendor) {
  return payload("com.apple.vpn.managed", number,
                 {{"VPNType", "TransparentProxy"},
                  {"VPNSubType", "com.wayleave.proxy"},
                  {"UserDefinedName", "Gateway"},
                  {"TransparentProxy", std::move(proxy)},
                  {"VendorConfig", std::move(vendor)}});
}
// Identity 1 and the proxy 2 that uses it.
inline Dictionary proxyProfile(const Dictionary& vendor = vendorConfig()) {
  return profile({Value(pkcs12Payload(1)), Value(vpnPayload(2, transparentProxy(uuidOf(1)), vendor))});
}

}  // namespace wayleave::management::test
