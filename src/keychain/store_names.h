#pragma once

// The names by which the outside finds an identity: the (issuer, serial) of each certificate it ever had, as a file
// keychain's reference spells them, and what a reference of either form asks for.

#include <array>
#include <string>
#include <variant>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::keychain {

// What mintFileReference takes, from a certificate.
struct CertificateName {
  Bytes issuer;            // complete DER of the issuer Name, as it stands in the certificate
  Bytes normalisedIssuer;  // as references spell it
  Bytes serial;            // INTEGER content octets, a leading 00 kept
};
// `certificate`: DER, nothing behind it. Errors: BadInput.
Result<CertificateName> certificateName(ByteView certificate);

// Whether the certificate is for the key whose SPKI is given. Errors: BadInput (either does not decode), KeyMismatch.
Status checkCertificateHasKey(ByteView certificate, ByteView spki);

struct FileName {
  std::string keychainPath;
  Bytes issuer, serial;
};
using RowUuid = std::array<uint8_t, 16>;
// What a reference asks this store for. Errors: BadInput (the osStatus of the codec, else errSecParam); NotFound
// (errSecItemNotFound) for references that are well-formed but can only name items of others (row ids, tokens,
// passwords, key rows).
Result<std::variant<FileName, RowUuid>> nameIn(ByteView reference);

}  // namespace wayleave::keychain
