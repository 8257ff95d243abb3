#include "enrolment/certification_request.h"

#include <fmt/format.h>
#include <openssl/asn1.h>
#include <openssl/objects.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <algorithm>

#include "keys/openssl.h"

namespace wayleave::enrolment {
namespace {

using keys::opensslError;
using ReqPtr = Handle<X509_REQ, X509_REQ_free>;
using ObjectPtr = Handle<ASN1_OBJECT, ASN1_OBJECT_free>;
using NamesPtr = Handle<GENERAL_NAMES, GENERAL_NAMES_free>;
using GeneralNamePtr = Handle<GENERAL_NAME, GENERAL_NAME_free>;
using BitsPtr = Handle<ASN1_BIT_STRING, ASN1_BIT_STRING_free>;
using UsagesPtr = Handle<EXTENDED_KEY_USAGE, EXTENDED_KEY_USAGE_free>;
using AlgorithmPtr = Handle<X509_ALGOR, X509_ALGOR_free>;

void freeExtensions(STACK_OF(X509_EXTENSION) * list) { sk_X509_EXTENSION_pop_free(list, X509_EXTENSION_free); }
using ExtensionsPtr = Handle<STACK_OF(X509_EXTENSION), freeExtensions>;

constexpr const char* kPermanentIdentifier = "1.3.6.1.5.5.7.8.3";
constexpr const char* kUserPrincipalName = "1.3.6.1.4.1.311.20.2.3";
// X.520 bounds are smaller; this only keeps nonsense out.
constexpr size_t kMaxNameBytes = 1024;

ObjectPtr objectFor(const std::string& text) { return ObjectPtr(OBJ_txt2obj(text.c_str(), 0)); }

Status fillName(X509_NAME* name, const Subject& subject) {
  for (const auto& rdn : subject) {
    bool first = true;
    for (const auto& [type, value] : rdn) {
      const ObjectPtr object = objectFor(type);
      if (!object) return fail(Reason::BadInput, fmt::format("Subject: '{}' is neither an OID nor one of C, L, ST, O, OU, CN", type));
      if (value.size() > kMaxNameBytes) return fail(Reason::BadInput, fmt::format("Subject: the value of {} is too long", type));
      if (X509_NAME_add_entry_by_OBJ(name, object.get(), MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(value.data()),
                                     static_cast<int>(value.size()), -1, first ? 0 : -1) != 1)
        return std::unexpected(opensslError(Reason::BadInput, fmt::format("Subject: {}={}", type, value)));
      first = false;
    }
  }
  return {};
}

ASN1_STRING* newString(int type, const std::string& value) {
  ASN1_STRING* string = ASN1_STRING_type_new(type);
  if (string != nullptr && ASN1_STRING_set(string, value.data(), static_cast<int>(value.size())) != 1) {
    ASN1_STRING_free(string);
    return nullptr;
  }
  return string;
}

Status addName(GENERAL_NAMES* names, int kind, const std::string& value) {
  if (value.empty() || value.size() > kMaxNameBytes) return fail(Reason::BadInput, "SubjectAltName: an empty or overlong value");
  GeneralNamePtr name(GENERAL_NAME_new());
  ASN1_STRING* string = newString(V_ASN1_IA5STRING, value);
  if (!name || string == nullptr) return fail(Reason::Internal, "out of memory");
  GENERAL_NAME_set0_value(name.get(), kind, string);
  if (sk_GENERAL_NAME_push(names, name.get()) == 0) return fail(Reason::Internal, "out of memory");
  name.release();
  return {};
}

Bytes derElement(int tag, ByteView content) {
  Bytes out{static_cast<uint8_t>(tag)};
  if (content.size() < 0x80) {
    out.push_back(static_cast<uint8_t>(content.size()));
  } else if (content.size() <= 0xff) {
    out.push_back(0x81);
    out.push_back(static_cast<uint8_t>(content.size()));
  } else if (content.size() <= 0xffff) {
    out.push_back(0x82);
    appendU16(out, static_cast<uint16_t>(content.size()));
  } else {
    out.push_back(0x84);
    appendU32(out, static_cast<uint32_t>(content.size()));
  }
  append(out, content);
  return out;
}

// PermanentIdentifier ::= SEQUENCE { identifierValue UTF8String OPTIONAL, assigner OID OPTIONAL }
Bytes permanentIdentifierDer(const std::string& value) {
  return derElement(0x20 | V_ASN1_SEQUENCE, derElement(V_ASN1_UTF8STRING, asBytes(value)));
}

Status addOtherName(GENERAL_NAMES* names, const char* oid, int type, const std::string& content) {
  GeneralNamePtr name(GENERAL_NAME_new());
  ObjectPtr object = objectFor(oid);
  ASN1_TYPE* value = ASN1_TYPE_new();
  ASN1_STRING* string = newString(type, content);
  if (!name || !object || value == nullptr || string == nullptr) return fail(Reason::Internal, "out of memory");
  ASN1_TYPE_set(value, type, string);
  if (GENERAL_NAME_set0_othername(name.get(), object.get(), value) != 1) return fail(Reason::Internal, "out of memory");
  object.release();
  if (sk_GENERAL_NAME_push(names, name.get()) == 0) return fail(Reason::Internal, "out of memory");
  name.release();
  return {};
}

Status addExtension(STACK_OF(X509_EXTENSION) * list, int nid, bool critical, void* value) {
  X509_EXTENSION* extension = X509V3_EXT_i2d(nid, critical ? 1 : 0, value);
  if (extension == nullptr) return std::unexpected(opensslError(Reason::BadInput, "encode an extension"));
  if (sk_X509_EXTENSION_push(list, extension) == 0) {
    X509_EXTENSION_free(extension);
    return fail(Reason::Internal, "out of memory");
  }
  return {};
}

Status addAlternativeNames(STACK_OF(X509_EXTENSION) * list, const SubjectAlternativeNames& wanted) {
  const NamesPtr names(GENERAL_NAMES_new());
  if (!names) return fail(Reason::Internal, "out of memory");
  const auto all = [&](const std::vector<std::string>& values, int kind) -> Status {
    for (const std::string& value : values)
      if (Status added = addName(names.get(), kind, value); !added) return added;
    return {};
  };
  if (Status s = all(wanted.rfc822Names, GEN_EMAIL); !s) return s;
  if (Status s = all(wanted.dnsNames, GEN_DNS); !s) return s;
  if (Status s = all(wanted.uris, GEN_URI); !s) return s;
  for (const std::string& name : wanted.ntPrincipalNames)
    if (Status s = addOtherName(names.get(), kUserPrincipalName, V_ASN1_UTF8STRING, name); !s) return s;
  for (const std::string& identifier : wanted.permanentIdentifiers) {
    if (identifier.empty() || identifier.size() > kMaxNameBytes) return fail(Reason::BadInput, "the permanent identifier is empty or too long");
    if (Status s = addOtherName(names.get(), kPermanentIdentifier, V_ASN1_SEQUENCE, std::string(asText(permanentIdentifierDer(identifier)))); !s)
      return s;
  }
  if (sk_GENERAL_NAME_num(names.get()) == 0) return {};
  return addExtension(list, NID_subject_alt_name, false, names.get());
}

Status addUsages(STACK_OF(X509_EXTENSION) * list, const RequestParameters& parameters) {
  if (parameters.signing || parameters.encrypting) {
    const BitsPtr bits(ASN1_BIT_STRING_new());
    if (!bits) return fail(Reason::Internal, "out of memory");
    if (parameters.signing) ASN1_BIT_STRING_set_bit(bits.get(), 0, 1);
    if (parameters.encrypting) ASN1_BIT_STRING_set_bit(bits.get(), 2, 1);
    if (Status s = addExtension(list, NID_key_usage, true, bits.get()); !s) return s;
  }
  if (parameters.extendedKeyUsage.empty()) return {};
  const UsagesPtr usages(EXTENDED_KEY_USAGE_new());
  if (!usages) return fail(Reason::Internal, "out of memory");
  for (const std::string& oid : parameters.extendedKeyUsage) {
    ObjectPtr object(OBJ_txt2obj(oid.c_str(), 1));
    if (!object) return fail(Reason::BadInput, fmt::format("ExtendedKeyUsage: '{}' is not a dotted OID", oid));
    if (sk_ASN1_OBJECT_push(usages.get(), object.get()) == 0) return fail(Reason::Internal, "out of memory");
    object.release();
  }
  return addExtension(list, NID_ext_key_usage, false, usages.get());
}

// A PrintableString where the word allows: servers exist that read nothing else. An empty one is left out (its syntax demands
// at least one character).
Status addChallenge(X509_REQ* request, std::string_view challenge) {
  if (challenge.empty()) return {};
  constexpr std::string_view kPunctuation = " '()+,-./:=?";
  const bool printable = std::ranges::all_of(challenge, [&](unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || kPunctuation.find(static_cast<char>(c)) != std::string_view::npos;
  });
  if (X509_REQ_add1_attr_by_NID(request, NID_pkcs9_challengePassword, printable ? V_ASN1_PRINTABLESTRING : MBSTRING_UTF8,
                                reinterpret_cast<const unsigned char*>(challenge.data()), static_cast<int>(challenge.size())) != 1)
    return std::unexpected(opensslError(Reason::BadInput, "the challenge cannot be put into a request"));
  return {};
}

}  // namespace

Result<CertificationRequest> CertificationRequest::make(const RequestParameters& parameters, ByteView spki) {
  ReqPtr request(X509_REQ_new());
  const unsigned char* at = spki.data();
  const keys::EvpPkeyPtr key(d2i_PUBKEY(nullptr, &at, static_cast<long>(spki.size())));
  if (!request || !key) return std::unexpected(opensslError(Reason::BadInput, "the public key for the request"));
  if (X509_REQ_set_version(request.get(), 0) != 1 || X509_REQ_set_pubkey(request.get(), key.get()) != 1)
    return std::unexpected(opensslError(Reason::Internal, "start a certification request"));
  if (Status s = fillName(X509_REQ_get_subject_name(request.get()), parameters.subject); !s) return propagate(s.error());

  const ExtensionsPtr extensions(sk_X509_EXTENSION_new_null());
  if (!extensions) return fail(Reason::Internal, "out of memory");
  if (Status s = addAlternativeNames(extensions.get(), parameters.alternativeNames); !s) return propagate(s.error());
  if (Status s = addUsages(extensions.get(), parameters); !s) return propagate(s.error());
  if (sk_X509_EXTENSION_num(extensions.get()) > 0 && X509_REQ_add_extensions(request.get(), extensions.get()) != 1)
    return std::unexpected(opensslError(Reason::Internal, "add the extensions"));
  if (Status s = addChallenge(request.get(), parameters.challengePassword.viewText()); !s) return propagate(s.error());

  unsigned char* der = nullptr;
  const int length = i2d_re_X509_REQ_tbs(request.get(), &der);
  if (length <= 0) return std::unexpected(opensslError(Reason::Internal, "encode the request"));
  Bytes info(der, der + length);
  OPENSSL_free(der);
  unsigned char* name = nullptr;
  const int nameLength = i2d_X509_NAME(X509_REQ_get_subject_name(request.get()), &name);
  if (nameLength <= 0) return std::unexpected(opensslError(Reason::Internal, "encode the subject"));
  Bytes subject(name, name + nameLength);
  OPENSSL_free(name);
  return CertificationRequest(std::move(info), std::move(subject));
}

Result<Bytes> CertificationRequest::complete(keys::SignatureScheme scheme, ByteView signature) const {
  int nid = NID_undef;
  bool nullParameter = false;
  switch (scheme) {
    case keys::SignatureScheme::EcdsaSecp256r1Sha256:
    case keys::SignatureScheme::EcdsaSha256: nid = NID_ecdsa_with_SHA256; break;
    case keys::SignatureScheme::EcdsaSecp384r1Sha384: nid = NID_ecdsa_with_SHA384; break;
    case keys::SignatureScheme::EcdsaSecp521r1Sha512: nid = NID_ecdsa_with_SHA512; break;
    case keys::SignatureScheme::RsaPkcs1Sha256: nid = NID_sha256WithRSAEncryption, nullParameter = true; break;
    case keys::SignatureScheme::RsaPkcs1Sha384: nid = NID_sha384WithRSAEncryption, nullParameter = true; break;
    case keys::SignatureScheme::RsaPkcs1Sha512: nid = NID_sha512WithRSAEncryption, nullParameter = true; break;
    case keys::SignatureScheme::RsaPssRsaeSha256:
    case keys::SignatureScheme::RsaPssRsaeSha384:
    case keys::SignatureScheme::RsaPssRsaeSha512:
      return fail(Reason::Unsupported, "certification requests are signed with PKCS #1, not PSS");
  }
  const AlgorithmPtr algorithm(X509_ALGOR_new());
  if (!algorithm || X509_ALGOR_set0(algorithm.get(), OBJ_nid2obj(nid), nullParameter ? V_ASN1_NULL : V_ASN1_UNDEF, nullptr) != 1)
    return std::unexpected(opensslError(Reason::Internal, "complete the request"));
  unsigned char* der = nullptr;
  const int length = i2d_X509_ALGOR(algorithm.get(), &der);
  if (length <= 0) return std::unexpected(opensslError(Reason::Internal, "complete the request"));
  Bytes content = info_;
  append(content, {der, static_cast<size_t>(length)});
  OPENSSL_free(der);
  Bytes bits{0};  // no unused bits
  append(bits, signature);
  append(content, derElement(V_ASN1_BIT_STRING, bits));
  return derElement(0x20 | V_ASN1_SEQUENCE, content);
}

keys::SignatureScheme requestScheme(keys::KeyType type) {
  switch (type) {
    case keys::KeyType::EcP256: return keys::SignatureScheme::EcdsaSecp256r1Sha256;
    case keys::KeyType::EcP384: return keys::SignatureScheme::EcdsaSecp384r1Sha384;
    case keys::KeyType::EcP521: return keys::SignatureScheme::EcdsaSecp521r1Sha512;
    case keys::KeyType::Rsa: return keys::SignatureScheme::RsaPkcs1Sha256;
  }
  return keys::SignatureScheme::RsaPkcs1Sha256;
}

}  // namespace wayleave::enrolment
