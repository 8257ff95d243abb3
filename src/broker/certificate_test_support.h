#pragma once

// Certificates for tests and fuzzers.

#include <openssl/ec.h>
#include <openssl/x509.h>

#include "base/bytes.h"
#include "keys/openssl.h"

namespace wayleave::broker {

// A self-signed certificate for `spki`'s own key; enough, as the broker judges no chain.
inline Bytes certificateFor(EVP_PKEY* key, int serial, const char* name = "device") {
  const keys::X509Ptr certificate(X509_new());
  X509_set_version(certificate.get(), X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), serial);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), 3600 * 24 * 3650L);
  X509_NAME* subject = X509_get_subject_name(certificate.get());
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, reinterpret_cast<const uint8_t*>(name), -1, -1, 0);
  X509_set_issuer_name(certificate.get(), subject);
  X509_set_pubkey(certificate.get(), key);
  // Signed by a throw-away key where the real one is not ours.
  const keys::EvpPkeyPtr signer(EVP_EC_gen("P-256"));
  X509_sign(certificate.get(), signer.get(), EVP_sha256());
  uint8_t* der = nullptr;
  const int length = i2d_X509(certificate.get(), &der);
  Bytes out(der, der + length);
  OPENSSL_free(der);
  return out;
}

inline Bytes certificateForSpki(ByteView spki, int serial) {
  const uint8_t* cursor = spki.data();
  const keys::EvpPkeyPtr key(d2i_PUBKEY(nullptr, &cursor, static_cast<long>(spki.size())));
  return certificateFor(key.get(), serial);
}

}  // namespace wayleave::broker
