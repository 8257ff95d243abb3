#pragma once

// Certificates and keys for tests, made at test time by OpenSSL.

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

#include <string>

#include "base/bytes.h"
#include "base/owned.h"
#include "keychain/reference.h"

namespace wayleave::keychain::fixtures {

using PkeyPtr = Handle<EVP_PKEY, EVP_PKEY_free>;
using X509Ptr = Handle<X509, X509_free>;

inline PkeyPtr newRsaKey() { return PkeyPtr(EVP_RSA_gen(2048)); }
inline PkeyPtr newEcKey() { return PkeyPtr(EVP_EC_gen("P-384")); }

struct Made {
  PkeyPtr key;
  X509Ptr certificate;
  Bytes der, pkcs8;
  Bytes issuer, serial;  // as a reference wants them
};

// `issuer`: null for a self-signed certificate. Names are UTF8Strings unless `printable`.
inline Made make(PkeyPtr key, const std::string& commonName, const Made* issuer = nullptr, bool printable = false) {
  Made out;
  out.key = std::move(key);
  out.certificate.reset(X509_new());
  X509* x = out.certificate.get();
  X509_set_version(x, 2);
  Bytes serial = randomBytes(20);
  serial[0] = static_cast<uint8_t>((serial[0] & 0x7f) | 0x40);
  Bytes serialDer = {0x02, 20};
  append(serialDer, serial);
  const unsigned char* at = serialDer.data();
  const Handle<ASN1_INTEGER, ASN1_INTEGER_free> number(
      d2i_ASN1_INTEGER(nullptr, &at, static_cast<long>(serialDer.size())));
  X509_set_serialNumber(x, number.get());
  const Handle<X509_NAME, X509_NAME_free> name(X509_NAME_new());
  X509_NAME_add_entry_by_txt(name.get(), "CN", printable ? V_ASN1_PRINTABLESTRING : V_ASN1_UTF8STRING,
                             reinterpret_cast<const unsigned char*>(commonName.data()),
                             static_cast<int>(commonName.size()), -1, 0);
  X509_set_subject_name(x, name.get());
  X509_set_issuer_name(x, issuer != nullptr ? X509_get_subject_name(issuer->certificate.get()) : name.get());
  X509_gmtime_adj(X509_getm_notBefore(x), 0);
  X509_gmtime_adj(X509_getm_notAfter(x), 3600);
  X509_set_pubkey(x, out.key.get());
  X509_sign(x, issuer != nullptr ? issuer->key.get() : out.key.get(), EVP_sha256());
  const auto encode = [](auto&& i2d) {
    unsigned char* der = nullptr;
    const int length = i2d(&der);
    Bytes bytes(der, der + length);
    OPENSSL_free(der);
    return bytes;
  };
  out.der = encode([&](unsigned char** der) { return i2d_X509(x, der); });
  const Handle<PKCS8_PRIV_KEY_INFO, PKCS8_PRIV_KEY_INFO_free> p8(EVP_PKEY2PKCS8(out.key.get()));
  out.pkcs8 = encode([&](unsigned char** der) { return i2d_PKCS8_PRIV_KEY_INFO(p8.get(), der); });
  out.issuer = encode([&](unsigned char** der) { return i2d_X509_NAME(X509_get_issuer_name(x), der); });
  out.serial = serial;
  return out;
}

}  // namespace wayleave::keychain::fixtures
