// Identities and certificates: what the payload's keys promise against what a gateway, a CA and a person with the file will
// make of them. PKCS#12 files are opened with the password beside them, as the device would.

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>

#include <algorithm>

#include "authoring/lint_internal.h"
#include "base/owned.h"
#include "enrolment/pkcs12.h"
#include "management/cms_certificate.h"
#include "management/profile_secrets.h"

namespace wayleave::authoring {
namespace {

using plist::childPath;
using plist::Dictionary;
using Certificate = Handle<X509, X509_free>;

// A deployment takes weeks to reach the last device.
constexpr std::chrono::days kSoon{30};
constexpr std::string_view kClientAuthentication = "1.3.6.1.5.5.7.3.2";
constexpr int kSigning = 1;  // bit of UsageFlags and Key Usage

Certificate parse(ByteView der) {
  const unsigned char* at = der.data();
  Certificate certificate(d2i_X509(nullptr, &at, static_cast<long>(der.size())));
  ERR_clear_error();
  return certificate;
}

bool hasWeakKey(X509* certificate) {
  const EVP_PKEY* key = X509_get0_pubkey(certificate);
  return key != nullptr && EVP_PKEY_get_base_id(key) == EVP_PKEY_RSA && EVP_PKEY_get_bits(key) < 2048;
}

void lintDates(const management::CertificateInfo& certificate, bool ours, const std::string& path, RuleReport& report, Wall now) {
  const std::string subject = management::shown(certificate.subject);
  if (certificate.notAfter < now) {
    // Of other certificates the importer says so.
    if (ours)
      report.add("expiry", Severity::Error, path, fmt::format("the identity {} expired at {}: no gateway will take it", subject, rfc3339(certificate.notAfter)));
  } else if (certificate.notAfter < now + kSoon) {
    report.add("expiry", Severity::Warning, path, fmt::format("the certificate {} expires at {}, within {} days", subject, rfc3339(certificate.notAfter), kSoon.count()));
  }
}

void lintPkcs12(const Dictionary& payload, const std::string& path, RuleReport& report, Wall now) {
  const plist::Value* content = payload.find("PayloadContent");
  const plist::Value* given = payload.find("Password");
  const std::string* password = given == nullptr ? nullptr : given->string();
  const std::string at = childPath(path, "PayloadContent");
  if (password != nullptr && !password->empty() && !management::templateVariable(*password))
    report.add("secret-in-profile", Severity::Note, childPath(path, "Password"), "stands in the clear beside the key it protects: whoever reads the file has the identity",
               "let only the MDM server's TLS carry it and keep the file private; ACME needs no secret at all");
  if (content == nullptr || content->data() == nullptr || (password != nullptr && management::templateVariable(*password))) return;
  Result<enrolment::Pkcs12Contents> opened =
      enrolment::parsePkcs12(*content->data(), password == nullptr ? std::nullopt : std::optional<std::string_view>(*password));
  if (!opened) {
    // Without a Password the importer has said already that one must come from elsewhere.
    const bool locked = opened.error().reason == Reason::WrongPassword;
    if (!locked || password != nullptr)
      report.add("pkcs12", Severity::Error, locked ? childPath(path, "Password") : at, opened.error().message, opened.error().hint);
    return;
  }
  for (const std::string& warning : opened->warnings) report.add("pkcs12", Severity::Warning, at, warning);
  const Result<management::CertificateInfo> leaf = management::readCertificate(opened->chain.front());
  if (!leaf) return;
  lintDates(*leaf, true, at, report, now);
  const Certificate certificate = parse(opened->chain.front());
  if (!certificate) return;
  if (hasWeakKey(certificate.get())) report.add("weak-key", Severity::Warning, at, "the key is RSA with less than 2048 bits");
  if ((X509_get_extension_flags(certificate.get()) & EXFLAG_XKUSAGE) != 0 && (X509_get_extended_key_usage(certificate.get()) & XKU_SSL_CLIENT) == 0)
    report.add("client-authentication", Severity::Warning, at, fmt::format("the certificate {} is not for client authentication: gateways refuse it", management::shown(leaf->subject)),
               fmt::format("its extended key usage needs {}", kClientAuthentication));
}

void lintAcme(const Dictionary& payload, const std::string& path, RuleReport& report) {
  const auto flag = [&](std::string_view key) {
    const plist::Value* value = payload.find(key);
    return value != nullptr && value->boolean() == true;
  };
  if (flag("HardwareBound") && !flag("Attest"))
    report.add("attestation", Severity::Note, childPath(path, payload.contains("Attest") ? "Attest" : "HardwareBound"),
               "the key is hardware bound, but without Attest the CA cannot tell", "set Attest to true");
  if (flag("HardwareBound") && flag("KeyIsExtractable"))
    report.add("attestation", Severity::Warning, childPath(path, "KeyIsExtractable"), "is true, but a hardware-bound key can never be exported");
  if (const plist::Value* usages = payload.find("ExtendedKeyUsage"); usages != nullptr && usages->array() != nullptr) {
    const bool client = std::ranges::any_of(*usages->array(), [](const plist::Value& usage) {
      return usage.string() != nullptr && *usage.string() == kClientAuthentication;
    });
    if (!client)
      report.add("client-authentication", Severity::Warning, childPath(path, "ExtendedKeyUsage"), "lacks client authentication: gateways refuse such a certificate",
                 fmt::format("add {}", kClientAuthentication));
  }
  if (const plist::Value* flags = payload.find("UsageFlags"); flags != nullptr && flags->integer() && *flags->integer() != 0 && (*flags->integer() & kSigning) == 0)
    report.add("client-authentication", Severity::Warning, childPath(path, "UsageFlags"), "lacks bit 1 (signing), which TLS client authentication needs");
  if (payload.contains("ExternalAccountBinding"))
    report.add("secret-in-profile", Severity::Note, childPath(path, "ExternalAccountBinding"), "holds the HMAC key of a CA account in the clear",
               "use one account per device, or one that may only be bound once");
}

void lintScep(const Dictionary& payload, const std::string& path, RuleReport& report) {
  const plist::Value* found = payload.find("PayloadContent");
  const Dictionary* content = found == nullptr ? nullptr : found->dictionary();
  if (content == nullptr) return;
  const std::string inside = childPath(path, "PayloadContent");
  if (const std::string challenge = stringOf(*content, "Challenge"); !challenge.empty() && !management::templateVariable(challenge))
    report.add("secret-in-profile", Severity::Note, childPath(inside, "Challenge"), "stands in the clear: whoever reads the file can enrol",
               "let the server put a challenge for one use into each device's profile");
  if (const plist::Value* usage = content->find("Key Usage"); usage != nullptr && usage->integer() && *usage->integer() != 0 && (*usage->integer() & kSigning) == 0)
    report.add("client-authentication", Severity::Warning, childPath(inside, "Key Usage"), "lacks bit 1 (signing), which TLS client authentication needs");
}

}  // namespace

void lintIdentityPayload(const Dictionary& payload, const std::string& path, RuleReport& report, Wall now) {
  const std::string type = stringOf(payload, "PayloadType");
  if (type == "com.apple.security.pkcs12") lintPkcs12(payload, path, report, now);
  if (type == "com.apple.security.acme") lintAcme(payload, path, report);
  if (type == "com.apple.security.scep") lintScep(payload, path, report);
  if (const plist::Value* open = payload.find("AllowAllAppsAccess"); open != nullptr && open->boolean() == true)
    report.add("all-apps", Severity::Warning, childPath(path, "AllowAllAppsAccess"), "is true: on Macs every program may use the key; here grants decide all the same");
}

void lintCertificatePayload(const Dictionary& payload, const std::string& path, RuleReport& report, Wall now) {
  const plist::Value* content = payload.find("PayloadContent");
  if (content == nullptr || content->data() == nullptr) return;
  const Result<management::CertificateFile> file = management::readCertificateFile(*content->data());
  if (!file) return;
  const std::string at = childPath(path, "PayloadContent");
  for (const management::CertificateInfo& info : file->certificates) {
    lintDates(info, false, at, report, now);
    const Certificate certificate = parse(info.der);
    if (!certificate) continue;
    if (hasWeakKey(certificate.get()))
      report.add("weak-key", Severity::Warning, at, fmt::format("the key of {} is RSA with less than 2048 bits", management::shown(info.subject)));
    if (X509_check_ca(certificate.get()) == 0)
      report.add("not-a-ca", Severity::Note, at, fmt::format("{} is no CA certificate: trusted, it vouches for itself alone", management::shown(info.subject)));
  }
}

}  // namespace wayleave::authoring
