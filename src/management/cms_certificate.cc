#include "management/cms_certificate.h"

#include <fmt/format.h>
#include <openssl/asn1.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <algorithm>
#include <ctime>

#include "base/owned.h"

namespace wayleave::management {
namespace {

using X509Handle = Handle<X509, X509_free>;
using BioHandle = Handle<BIO, BIO_free_all>;

constexpr size_t kMostCertificates = 32;

std::string nameText(const X509_NAME* name) {
  const BioHandle out(BIO_new(BIO_s_mem()));
  if (!out || X509_NAME_print_ex(out.get(), name, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB) < 0) return "?";
  char* text = nullptr;
  const long length = BIO_get_mem_data(out.get(), &text);
  return std::string(text, static_cast<size_t>(length));
}

Result<Wall> moment(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return fail(Reason::BadInput, "certificate with a malformed date");
  // The clock counts nanoseconds and ends in 2262; "no expiry" is often written as the year 9999.
  constexpr int64_t kFirst = -9'000'000'000, kLast = 9'000'000'000;
  const int64_t seconds = std::clamp<int64_t>(::timegm(&parts), kFirst, kLast);
  return Wall{std::chrono::seconds{seconds}};
}

Result<CertificateInfo> describe(X509& certificate) {
  CertificateInfo info;
  const int length = i2d_X509(&certificate, nullptr);
  if (length <= 0) return fail(Reason::BadInput, "certificate that cannot be encoded");
  info.der.resize(static_cast<size_t>(length));
  unsigned char* out = info.der.data();
  i2d_X509(&certificate, &out);
  info.subject = nameText(X509_get_subject_name(&certificate));
  info.issuer = nameText(X509_get_issuer_name(&certificate));
  info.sha256 = toHex(sha256(info.der));
  const Result<Wall> from = moment(X509_get0_notBefore(&certificate));
  const Result<Wall> until = moment(X509_get0_notAfter(&certificate));
  if (!from) return propagate(from.error());
  if (!until) return propagate(until.error());
  info.notBefore = *from;
  info.notAfter = *until;
  return info;
}

struct PemBlock {
  char* name = nullptr;
  char* header = nullptr;
  unsigned char* data = nullptr;
  long length = 0;
  PemBlock() = default;
  PemBlock(const PemBlock&) = delete;
  PemBlock& operator=(const PemBlock&) = delete;
  ~PemBlock() {
    OPENSSL_free(name);
    OPENSSL_free(header);
    OPENSSL_clear_free(data, static_cast<size_t>(length));
  }
};

Result<CertificateFile> readPem(ByteView bytes) {
  const BioHandle in(BIO_new_mem_buf(bytes.data(), static_cast<int>(bytes.size())));
  if (!in) return fail(Reason::Internal, "no memory for a BIO");
  CertificateFile file{.certificates = {}, .wasPem = true};
  for (;;) {
    PemBlock block;
    if (PEM_read_bio(in.get(), &block.name, &block.header, &block.data, &block.length) != 1) {
      const bool atEnd = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
      ERR_clear_error();
      if (!atEnd) return fail(Reason::BadInput, "damaged PEM text");
      break;
    }
    const std::string_view name = block.name;
    if (name.ends_with("PRIVATE KEY"))
      return fail(Reason::BadInput, "holds a private key", "deliver keys in com.apple.security.pkcs12 only");
    if (name != "CERTIFICATE") return fail(Reason::BadInput, fmt::format("holds a PEM block {}", name.substr(0, 40)));
    if (file.certificates.size() == kMostCertificates)
      return fail(Reason::BadInput, fmt::format("holds more than {} certificates", kMostCertificates));
    Result<CertificateInfo> certificate = readCertificate({block.data, static_cast<size_t>(block.length)});
    if (!certificate) return propagate(certificate.error());
    file.certificates.push_back(std::move(*certificate));
  }
  if (file.certificates.empty()) return fail(Reason::BadInput, "holds no certificate");
  return file;
}

}  // namespace

Result<CertificateInfo> readCertificate(ByteView der) {
  const unsigned char* at = der.data();
  const X509Handle certificate(d2i_X509(nullptr, &at, static_cast<long>(der.size())));
  ERR_clear_error();
  if (!certificate) return fail(Reason::BadInput, "is not an X.509 certificate");
  if (at != der.data() + der.size()) return fail(Reason::BadInput, "has bytes after the certificate");
  return describe(*certificate);
}

Result<CertificateFile> readCertificateFile(ByteView bytes) {
  if (bytes.size() > size_t{1} << 20) return fail(Reason::BadInput, "certificate file beyond 1 MiB");
  if (asText(bytes).find("-----BEGIN ") != std::string_view::npos && !bytes.empty() && bytes[0] != 0x30)
    return readPem(bytes);
  Result<CertificateInfo> certificate = readCertificate(bytes);
  if (!certificate) return propagate(certificate.error());
  CertificateFile file;
  file.certificates.push_back(std::move(*certificate));
  return file;
}

std::string toPem(ByteView der) {
  const std::string base64 = toBase64(der);
  std::string out = "-----BEGIN CERTIFICATE-----\n";
  for (size_t i = 0; i < base64.size(); i += 64) out += base64.substr(i, 64) + '\n';
  return out + "-----END CERTIFICATE-----\n";
}

}  // namespace wayleave::management
