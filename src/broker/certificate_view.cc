#include "broker/certificate_view.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/x509.h>

#include <chrono>

#include "base/owned.h"
#include "keys/openssl.h"

namespace wayleave::broker {
namespace {

using BioPtr = Handle<BIO, BIO_free_all>;

std::string nameText(const X509_NAME* name) {
  const BioPtr out(BIO_new(BIO_s_mem()));
  // RFC 2253's escaping is RFC 4514's; UTF-8 stays readable.
  if (!out ||
      X509_NAME_print_ex(out.get(), name, 0, XN_FLAG_RFC2253 & ~static_cast<unsigned long>(ASN1_STRFLGS_ESC_MSB)) < 0)
    return {};
  char* data = nullptr;
  const long length = BIO_get_mem_data(out.get(), &data);
  return {data, static_cast<size_t>(length)};
}

std::string commonName(const X509_NAME* name) {
  const int index = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
  if (index < 0) return {};
  uint8_t* utf8 = nullptr;
  const int length = ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, index)));
  if (length < 0) return {};
  std::string out(reinterpret_cast<char*>(utf8), static_cast<size_t>(length));
  OPENSSL_free(utf8);
  return out;
}

Result<Wall> timeOf(const ASN1_TIME* time) {
  tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return fail(Reason::BadInput, "the certificate's validity is not a time");
  using namespace std::chrono;
  const sys_days date = year{parts.tm_year + 1900} / month{static_cast<unsigned>(parts.tm_mon + 1)} /
                        day{static_cast<unsigned>(parts.tm_mday)};
  return Wall{date} + hours{parts.tm_hour} + minutes{parts.tm_min} + seconds{parts.tm_sec};
}

}  // namespace

Result<CertificateView> viewCertificate(ByteView der) {
  const uint8_t* cursor = der.data();
  const keys::X509Ptr certificate(d2i_X509(nullptr, &cursor, static_cast<long>(der.size())));
  ERR_clear_error();
  if (!certificate || cursor != der.data() + der.size()) return fail(Reason::BadInput, "not one DER certificate");
  CertificateView view;
  view.subject = nameText(X509_get_subject_name(certificate.get()));
  view.issuer = nameText(X509_get_issuer_name(certificate.get()));
  view.commonName = commonName(X509_get_subject_name(certificate.get()));
  const ASN1_INTEGER* serial = X509_get0_serialNumber(certificate.get());
  view.serial = toHex({ASN1_STRING_get0_data(serial), static_cast<size_t>(ASN1_STRING_length(serial))});
  const Result<Wall> from = timeOf(X509_get0_notBefore(certificate.get()));
  const Result<Wall> until = timeOf(X509_get0_notAfter(certificate.get()));
  if (!from) return propagate(from.error());
  if (!until) return propagate(until.error());
  view.notBefore = *from;
  view.notAfter = *until;
  view.sha256 = toHex(sha256(der));
  return view;
}

}  // namespace wayleave::broker
