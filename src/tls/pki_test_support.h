#pragma once

// A certification authority in memory for the tests of `tls` and `tunnel`: keys and certificates made at test time.

#include <fmt/format.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "keys/openssl.h"
#include "tls/client_tls.h"

namespace wayleave::tls::test {

using keys::EvpPkeyPtr;
using keys::X509Ptr;

inline void must(bool fact, const char* what) {
  if (!fact) throw std::runtime_error(what);
}

inline EvpPkeyPtr newKey(keys::KeyType type) {
  switch (type) {
    case keys::KeyType::EcP256: return EvpPkeyPtr(EVP_EC_gen("P-256"));
    case keys::KeyType::EcP384: return EvpPkeyPtr(EVP_EC_gen("P-384"));
    case keys::KeyType::EcP521: return EvpPkeyPtr(EVP_EC_gen("P-521"));
    case keys::KeyType::Rsa: return EvpPkeyPtr(EVP_RSA_gen(2048));
  }
  return nullptr;
}

inline std::string pem(X509* certificate) {
  const Handle<BIO, BIO_free> bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509(bio.get(), certificate);
  char* data = nullptr;
  const long length = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<size_t>(length)};
}
inline std::string pem(EVP_PKEY* key) {
  const Handle<BIO, BIO_free> bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr);
  char* data = nullptr;
  const long length = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<size_t>(length)};
}
inline Bytes der(X509* certificate) {
  uint8_t* out = nullptr;
  const int length = i2d_X509(certificate, &out);
  Bytes bytes(out, out + length);
  OPENSSL_free(out);
  return bytes;
}

struct Leaf {
  EvpPkeyPtr key;
  X509Ptr certificate;
};

class Authority {
 public:
  explicit Authority(const char* name = "Test CA") : key_(newKey(keys::KeyType::EcP256)) {
    certificate_ = make(name, key_.get(), nullptr, "critical,CA:TRUE", nullptr, nullptr, 3600);
  }

  // `usage`: "serverAuth" or "clientAuth"; `names`: a subjectAltName value or nullptr; negative seconds: expired.
  Leaf issue(const char* name, keys::KeyType type, const char* usage, const char* names, long validSeconds = 3600) const {
    Leaf leaf{newKey(type), nullptr};
    leaf.certificate = make(name, leaf.key.get(), certificate_.get(), "critical,CA:FALSE", usage, names, validSeconds);
    return leaf;
  }
  X509* certificate() const { return certificate_.get(); }
  std::string pemText() const { return pem(certificate_.get()); }

 private:
  X509Ptr make(const char* name, EVP_PKEY* subject, X509* issuer, const char* constraints, const char* usage,
               const char* names, long validSeconds) const {
    X509Ptr made(X509_new());
    X509_set_version(made.get(), X509_VERSION_3);
    const Bytes serial = randomBytes(8);
    const Handle<BIGNUM, BN_free> number(BN_bin2bn(serial.data(), 8, nullptr));
    BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(made.get()));
    X509_gmtime_adj(X509_getm_notBefore(made.get()), -7200);
    X509_gmtime_adj(X509_getm_notAfter(made.get()), validSeconds);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(made.get()), "CN", MBSTRING_ASC, asBytes(name).data(), -1, -1, 0);
    X509_set_issuer_name(made.get(), X509_get_subject_name(issuer != nullptr ? issuer : made.get()));
    X509_set_pubkey(made.get(), subject);
    extend(made.get(), NID_basic_constraints, constraints);
    if (usage != nullptr) extend(made.get(), NID_ext_key_usage, usage);
    if (names != nullptr) extend(made.get(), NID_subject_alt_name, names);
    must(X509_sign(made.get(), key_.get(), EVP_sha256()) > 0, "sign a certificate");
    return made;
  }
  static void extend(X509* certificate, int nid, const char* value) {
    const Handle<X509_EXTENSION, X509_EXTENSION_free> extension(X509V3_EXT_conf_nid(nullptr, nullptr, nid, value));
    must(extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1, "extend a certificate");
  }

  EvpPkeyPtr key_;
  X509Ptr certificate_;
};

// Signs as identityd would, with the key in this process.
inline SignCallback signWith(EVP_PKEY* key, std::function<void()> first = {}) {
  EVP_PKEY_up_ref(key);
  const std::shared_ptr<EVP_PKEY> held(key, EVP_PKEY_free);
  return [held, first = std::move(first)](const SignInput& input) -> Result<Bytes> {
    if (first) first();
    const EVP_MD* hash = EVP_get_digestbyname(keys::digestName(input.scheme));
    Bytes digest = toBytes(input.input);
    if (input.tls13) {
      digest.resize(keys::digestLength(input.scheme));
      EVP_Digest(input.input.data(), input.input.size(), digest.data(), nullptr, hash, nullptr);
    }
    const keys::EvpPkeyCtxPtr context(EVP_PKEY_CTX_new(held.get(), nullptr));
    if (EVP_PKEY_sign_init(context.get()) != 1 || EVP_PKEY_CTX_set_signature_md(context.get(), hash) != 1)
      return propagate(keys::opensslError(Reason::Internal, "sign"));
    if (keys::isPss(input.scheme)) {
      EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_PSS_PADDING);
      EVP_PKEY_CTX_set_rsa_pss_saltlen(context.get(), RSA_PSS_SALTLEN_DIGEST);
    }
    Bytes signature(1024);
    size_t length = signature.size();
    if (EVP_PKEY_sign(context.get(), signature.data(), &length, digest.data(), digest.size()) != 1)
      return propagate(keys::opensslError(Reason::Internal, "sign"));
    signature.resize(length);
    return signature;
  };
}

inline ClientIdentity identityOf(const Leaf& leaf, std::function<void()> first = {}) {
  return {{der(leaf.certificate.get())}, signWith(leaf.key.get(), std::move(first))};
}

// The gateway's side, for servers that the tests write themselves.
inline std::shared_ptr<SSL_CTX> serverContext(const Leaf& leaf, X509* clientAuthority) {
  std::shared_ptr<SSL_CTX> context(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
  must(SSL_CTX_use_certificate(context.get(), leaf.certificate.get()) == 1, "use the server's certificate");
  must(SSL_CTX_use_PrivateKey(context.get(), leaf.key.get()) == 1, "use the server's key");
  const unsigned char id[] = "wayleave-test";
  SSL_CTX_set_session_id_context(context.get(), id, sizeof(id));
  if (clientAuthority != nullptr) {
    X509_STORE_add_cert(SSL_CTX_get_cert_store(context.get()), clientAuthority);
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  }
  return context;
}

}  // namespace wayleave::tls::test
