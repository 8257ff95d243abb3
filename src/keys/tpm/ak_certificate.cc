// The profile of an AK certificate: TCG "Credential Profiles for Attestation Keys" as step-ca reads it.

#include <fmt/format.h>
#include <openssl/x509v3.h>

#include <algorithm>

#include "keys/openssl.h"
#include "keys/tpm/attestation_check.h"

namespace wayleave::keys::tpm {
namespace {

using ObjectPtr = Handle<ASN1_OBJECT, ASN1_OBJECT_free>;
using NamesPtr = Handle<GENERAL_NAMES, GENERAL_NAMES_free>;
using EkuPtr = Handle<EXTENDED_KEY_USAGE, EXTENDED_KEY_USAGE_free>;
using BasicPtr = Handle<BASIC_CONSTRAINTS, BASIC_CONSTRAINTS_free>;

constexpr const char* kAikCertificate = "2.23.133.8.3";
constexpr const char* kManufacturer = "2.23.133.2.1";
constexpr const char* kModel = "2.23.133.2.2";
constexpr const char* kVersion = "2.23.133.2.3";
constexpr const char* kPermanentIdentifier = "1.3.6.1.5.5.7.8.3";
constexpr const char* kHardwareModuleName = "1.3.6.1.5.5.7.8.4";

std::unexpected<Error> refused(std::string message, std::string hint = {}) {
  return fail(Reason::AttestationRefused, std::move(message), std::move(hint));
}

bool is(const ASN1_OBJECT* object, const char* oid) {
  const ObjectPtr wanted(OBJ_txt2obj(oid, 1));
  return wanted && OBJ_cmp(object, wanted.get()) == 0;
}

bool isText(const ASN1_STRING* string) {
  switch (ASN1_STRING_type(string)) {
    case V_ASN1_UTF8STRING:
    case V_ASN1_PRINTABLESTRING:
    case V_ASN1_IA5STRING:
    case V_ASN1_T61STRING: return ASN1_STRING_length(string) > 0;
    default: return false;
  }
}

bool namesTpm(const X509_NAME* name, const char* oid) {
  for (int i = 0; i < X509_NAME_entry_count(name); ++i) {
    const X509_NAME_ENTRY* entry = X509_NAME_get_entry(name, i);
    if (is(X509_NAME_ENTRY_get_object(entry), oid)) return isText(X509_NAME_ENTRY_get_data(entry));
  }
  return false;
}

// PermanentIdentifier ::= SEQUENCE { identifierValue UTF8String OPTIONAL, assigner OBJECT IDENTIFIER OPTIONAL }
std::string permanentIdentifierIn(const ASN1_TYPE* value) {
  if (ASN1_TYPE_get(value) != V_ASN1_SEQUENCE) return {};
  const uint8_t* cursor = ASN1_STRING_get0_data(value->value.sequence);
  const Handle<ASN1_SEQUENCE_ANY, [](ASN1_SEQUENCE_ANY* parts) { sk_ASN1_TYPE_pop_free(parts, ASN1_TYPE_free); }> parts(
      d2i_ASN1_SEQUENCE_ANY(nullptr, &cursor, ASN1_STRING_length(value->value.sequence)));
  if (!parts || sk_ASN1_TYPE_num(parts.get()) < 1) return {};
  const ASN1_TYPE* first = sk_ASN1_TYPE_value(parts.get(), 0);
  if (ASN1_TYPE_get(first) != V_ASN1_UTF8STRING) return {};
  const ASN1_STRING* text = first->value.utf8string;
  return {reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)), static_cast<size_t>(ASN1_STRING_length(text))};
}

struct AltName {
  bool tpmNamed = false;
  std::vector<std::string> permanentIdentifiers;
  bool hardwareModule = false;
};

AltName readAltName(const GENERAL_NAMES* names) {
  AltName out;
  for (int i = 0; i < sk_GENERAL_NAME_num(names); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names, i);
    if (name->type == GEN_DIRNAME)
      out.tpmNamed |= namesTpm(name->d.directoryName, kManufacturer) && namesTpm(name->d.directoryName, kModel) &&
                      namesTpm(name->d.directoryName, kVersion);
    if (name->type != GEN_OTHERNAME) continue;
    if (is(name->d.otherName->type_id, kPermanentIdentifier))
      out.permanentIdentifiers.push_back(permanentIdentifierIn(name->d.otherName->value));
    out.hardwareModule |= is(name->d.otherName->type_id, kHardwareModuleName);
  }
  return out;
}

// Servers tolerate a critical SAN of unknown kinds, and no other critical extension they do not know.
Status checkCritical(const X509* certificate) {
  for (int i = 0; i < X509_get_ext_count(certificate); ++i) {
    X509_EXTENSION* extension = X509_get_ext(certificate, i);
    if (!X509_EXTENSION_get_critical(extension) || X509_supported_extension(extension)) continue;
    char oid[80];
    OBJ_obj2txt(oid, sizeof oid, X509_EXTENSION_get_object(extension), 1);
    return refused(fmt::format("AK certificate: critical extension {} is unknown to servers", oid));
  }
  return {};
}

}  // namespace

Result<std::vector<std::string>> checkAkCertificate(ByteView leaf, std::string_view permanentIdentifier, Wall now) {
  const uint8_t* cursor = leaf.data();
  const X509Ptr certificate(leaf.empty() ? nullptr : d2i_X509(nullptr, &cursor, static_cast<long>(leaf.size())));
  if (!certificate || cursor != leaf.data() + leaf.size()) {
    (void)opensslError(Reason::BadInput, "AK certificate");
    return refused("AK certificate: not a DER certificate");
  }
  const X509* ak = certificate.get();
  if (X509_get_version(ak) != X509_VERSION_3) return refused("AK certificate: not X.509 version 3");
  if (X509_NAME_entry_count(X509_get_subject_name(ak)) != 0)
    return refused("AK certificate: its Subject must be empty");
  time_t at = std::chrono::system_clock::to_time_t(now);
  if (X509_cmp_time(X509_get0_notBefore(ak), &at) > 0)
    return refused("AK certificate: not valid yet", "check this machine's clock");
  if (X509_cmp_time(X509_get0_notAfter(ak), &at) < 0)
    return refused("AK certificate: expired", "enrol the attestation key again with the attestation CA");

  const BasicPtr basic(static_cast<BASIC_CONSTRAINTS*>(X509_get_ext_d2i(ak, NID_basic_constraints, nullptr, nullptr)));
  if (basic && basic->ca) return refused("AK certificate: it is a CA certificate");
  const EkuPtr eku(static_cast<EXTENDED_KEY_USAGE*>(X509_get_ext_d2i(ak, NID_ext_key_usage, nullptr, nullptr)));
  if (!eku || sk_ASN1_OBJECT_num(eku.get()) < 1 || !is(sk_ASN1_OBJECT_value(eku.get(), 0), kAikCertificate))
    return refused("AK certificate: its first extended key usage must be tcg-kp-AIKCertificate (2.23.133.8.3)");
  if (auto critical = checkCritical(ak); !critical) return propagate(critical.error());

  const NamesPtr names(static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(ak, NID_subject_alt_name, nullptr, nullptr)));
  if (!names) return refused("AK certificate: no subject alternative name");
  const AltName alt = readAltName(names.get());
  if (!alt.tpmNamed)
    return refused("AK certificate: the subject alternative name must give the TPM's manufacturer, model and version");
  std::vector<std::string> warnings;
  if (alt.permanentIdentifiers.empty())
    warnings.emplace_back("the AK certificate names no permanent identifier: a server cannot tell whose TPM this is");
  else if (!permanentIdentifier.empty() && std::find(alt.permanentIdentifiers.begin(), alt.permanentIdentifiers.end(),
                                                     permanentIdentifier) == alt.permanentIdentifiers.end())
    return refused(fmt::format("AK certificate: it is for permanent identifier \"{}\", the order is for \"{}\"",
                               alt.permanentIdentifiers.front(), permanentIdentifier),
                   "the attestation CA's inventory and the profile's ClientIdentifier must name the same device");
  if (alt.hardwareModule)
    warnings.emplace_back("the AK certificate has a HardwareModuleName, which step-ca cannot parse");
  return warnings;
}

}  // namespace wayleave::keys::tpm
