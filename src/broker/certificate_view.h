#pragma once

// What people and programs want to read in a certificate.

#include <string>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/result.h"

namespace wayleave::broker {

struct CertificateView {
  std::string subject, issuer;  // RFC 4514
  std::string commonName;       // of the subject; empty when it has none
  std::string serial;           // lower-case hex
  Wall notBefore, notAfter;
  std::string sha256;  // fingerprint, lower-case hex
};

// `der`: one certificate, nothing behind it. Errors: BadInput.
Result<CertificateView> viewCertificate(ByteView der);

}  // namespace wayleave::broker
