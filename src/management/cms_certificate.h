#pragma once

// What a person wants to know of an X.509 certificate, and the two encodings in which profiles carry one.

#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/result.h"

namespace wayleave::management {

struct CertificateInfo {
  Bytes der;
  std::string subject;  // RFC 2253 order, UTF-8
  std::string issuer;
  std::string sha256;  // fingerprint, hex
  Wall notBefore;
  Wall notAfter;
};

// Exactly one DER certificate, nothing after it. Errors: BadInput
Result<CertificateInfo> readCertificate(ByteView der);

struct CertificateFile {
  std::vector<CertificateInfo> certificates;  // at least one
  bool wasPem = false;
};
// One DER certificate, or PEM text with one or more (other PEM blocks are refused, above all private keys).
// Errors: BadInput
Result<CertificateFile> readCertificateFile(ByteView bytes);

std::string toPem(ByteView der);  // of a certificate

}  // namespace wayleave::management
