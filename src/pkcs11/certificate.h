#pragma once

// What PKCS #11 wants to know of an X.509 certificate, in the encodings it wants it in.

#include <string>

#include "base/bytes.h"
#include "pkcs11/cryptoki.h"

namespace wayleave::pkcs11 {

enum class KeyFamily : uint8_t { Ec, Rsa, Other };

struct Certificate {
  Bytes der;
  Bytes subject, issuer;  // DER Name
  Bytes serial;           // DER INTEGER
  std::string commonName;  // UTF-8, may be empty
  std::string startDate, endDate;  // CK_DATE: "20261124"
  bool isAuthority = false;
  Bytes sha1;             // of the whole certificate
  Bytes issuerKeyId;      // the authority key identifier; empty when it has none

  Bytes spki;             // DER
  Bytes keyHash;          // SHA-1 over the contents of the SPKI's BIT STRING: how keychains pair certificate and key
  KeyFamily family = KeyFamily::Other;
  int bits = 0;
  Bytes ecParams;         // DER: the named curve's OID
  Bytes ecPoint;          // DER OCTET STRING around the uncompressed point
  Bytes modulus, publicExponent;  // big-endian, no leading zeros

  // Exactly one certificate. A key of an algorithm we cannot use is KeyFamily::Other. Errors: CKR_DATA_INVALID.
  static Answer<Certificate> parse(ByteView der);
};

}  // namespace wayleave::pkcs11
