// Certificates without a key (root, pkcs1, pem) and PKCS#12 files.

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/pkcs12.h>

#include "base/owned.h"
#include "management/payload_reader.h"

namespace wayleave::management {

CertificatePayload readCertificatePayload(Keys& keys, const ReadContext& context) {
  CertificatePayload payload;
  const Bytes* content = keys.data("PayloadContent", Need::Required);
  if (const std::string* name = keys.string("PayloadCertificateFileName")) payload.fileName = *name;
  keys.mistaken("Password", "certificates without a key have no password");
  keys.finish();
  if (content == nullptr) return payload;

  Result<CertificateFile> file = readCertificateFile(*content);
  if (!file) {
    keys.error("PayloadContent", file.error().message, file.error().hint);
    return payload;
  }
  const bool wantsPem = context.header.type == "com.apple.security.pem";
  if (file->wasPem != wantsPem)
    keys.warn("PayloadContent", wantsPem ? "holds DER where PEM text belongs" : "holds PEM text where DER belongs");
  if (file->certificates.size() > 1)
    keys.warn("PayloadContent",
              fmt::format("holds {} certificates; Apple's systems expect one", file->certificates.size()));
  for (const CertificateInfo& certificate : file->certificates) {
    const std::string subject = shown(certificate.subject);
    if (certificate.notAfter < context.now)
      keys.warn("PayloadContent",
                fmt::format("the certificate {} expired at {}", subject, rfc3339(certificate.notAfter)));
    else if (certificate.notBefore > context.now)
      keys.warn("PayloadContent",
                fmt::format("the certificate {} is valid from {} on", subject, rfc3339(certificate.notBefore)));
  }
  payload.certificates = std::move(file->certificates);
  return payload;
}

Pkcs12Payload readPkcs12Payload(Keys& keys, const ReadContext&) {
  Pkcs12Payload payload;
  const Bytes* content = keys.data("PayloadContent", Need::Required);
  const std::string* password = keys.string("Password");
  if (password != nullptr)
    payload.password = Secret::copyOf(*password);
  else if (!keys.has("Password"))
    keys.note("Password", "is missing: the file must open without one, or the password be given at installation");
  if (const std::string* name = keys.string("PayloadCertificateFileName")) payload.fileName = *name;
  payload.allowAllAppsAccess = keys.boolean("AllowAllAppsAccess").value_or(false);
  payload.keyIsExtractable = keys.boolean("KeyIsExtractable").value_or(true);
  keys.finish();
  if (content == nullptr) return payload;

  // Only the shape is looked at here: keys are for identityd, which has no network.
  const unsigned char* at = content->data();
  const Handle<PKCS12, PKCS12_free> file(d2i_PKCS12(nullptr, &at, static_cast<long>(content->size())));
  ERR_clear_error();
  if (!file)
    keys.error("PayloadContent", "is not a PKCS #12 file");
  else if (PKCS12_mac_present(file.get()) != 1)
    keys.warn("PayloadContent", "is a PKCS #12 file without a MAC: nothing protects it from changes");
  payload.content = Secret(*content);
  return payload;
}

}  // namespace wayleave::management
