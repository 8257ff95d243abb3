#include "pkcs11/objects.h"

namespace wayleave::pkcs11 {
namespace {

// CKA_CERTIFICATE_CATEGORY (v2.40, 4.6.2): p11-kit's header has no names for them.
constexpr CK_ULONG kCategoryTokenUser = 1;
constexpr CK_ULONG kCategoryAuthority = 2;

Attributes storage(CK_OBJECT_CLASS kind, std::string_view label) {
  Attributes out;
  out.number(CKA_CLASS, kind);
  out.flag(CKA_TOKEN, true);
  // Nobody logs in: the broker has verified the program before it sees any of this.
  out.flag(CKA_PRIVATE, false);
  out.flag(CKA_MODIFIABLE, false);
  out.flag(CKA_COPYABLE, false);
  out.flag(CKA_DESTROYABLE, false);
  out.set(CKA_LABEL, label);
  return out;
}

Attributes key(CK_OBJECT_CLASS kind, const Certificate& certificate, std::string_view label, const localapi::IdentityInfo& identity) {
  Attributes out = storage(kind, label);
  out.number(CKA_KEY_TYPE, certificate.family == KeyFamily::Ec ? CKK_EC : CKK_RSA);
  out.set(CKA_ID, certificate.keyHash);
  out.set(CKA_SUBJECT, certificate.subject);
  out.set(CKA_START_DATE, Bytes{});
  out.set(CKA_END_DATE, Bytes{});
  out.flag(CKA_DERIVE, false);
  // A PKCS#12 file brought its key from elsewhere.
  out.flag(CKA_LOCAL, identity.source != "pkcs12");
  out.number(CKA_KEY_GEN_MECHANISM, CK_UNAVAILABLE_INFORMATION);
  out.set(CKA_PUBLIC_KEY_INFO, certificate.spki);
  if (certificate.family == KeyFamily::Ec) {
    out.set(CKA_EC_PARAMS, certificate.ecParams);
  } else {
    out.set(CKA_MODULUS, certificate.modulus);
    out.set(CKA_PUBLIC_EXPONENT, certificate.publicExponent);
  }
  return out;
}

}  // namespace

Attributes certificateAttributes(const Certificate& certificate, const Certificate* issuer, std::string_view label) {
  Attributes out = storage(CKO_CERTIFICATE, label);
  out.number(CKA_CERTIFICATE_TYPE, CKC_X_509);
  // The chain is for presenting, never for trusting.
  out.flag(CKA_TRUSTED, false);
  out.number(CKA_CERTIFICATE_CATEGORY, certificate.isAuthority ? kCategoryAuthority : kCategoryTokenUser);
  out.set(CKA_CHECK_VALUE, ByteView(certificate.sha1).first(3));
  out.set(CKA_START_DATE, certificate.startDate);
  out.set(CKA_END_DATE, certificate.endDate);
  out.set(CKA_PUBLIC_KEY_INFO, certificate.spki);
  out.set(CKA_SUBJECT, certificate.subject);
  out.set(CKA_ID, certificate.keyHash);
  out.set(CKA_ISSUER, certificate.issuer);
  out.set(CKA_SERIAL_NUMBER, certificate.serial);
  out.set(CKA_VALUE, certificate.der);
  out.set(CKA_URL, Bytes{});
  out.number(CKA_NAME_HASH_ALGORITHM, CKM_SHA_1);
  out.set(CKA_HASH_OF_SUBJECT_PUBLIC_KEY, certificate.keyHash);
  out.set(CKA_HASH_OF_ISSUER_PUBLIC_KEY, issuer != nullptr ? issuer->keyHash : Bytes{});
  out.number(CKA_JAVA_MIDP_SECURITY_DOMAIN, 0);
  return out;
}

Attributes publicKeyAttributes(const Certificate& certificate, std::string_view label, const localapi::IdentityInfo& identity) {
  Attributes out = key(CKO_PUBLIC_KEY, certificate, label, identity);
  // The key is for verifying; whoever does it does it in software, where a public key belongs.
  out.flag(CKA_VERIFY, true);
  out.flag(CKA_VERIFY_RECOVER, false);
  out.flag(CKA_ENCRYPT, false);
  out.flag(CKA_WRAP, false);
  out.flag(CKA_TRUSTED, false);
  if (certificate.family == KeyFamily::Ec)
    out.set(CKA_EC_POINT, certificate.ecPoint);
  else
    out.number(CKA_MODULUS_BITS, static_cast<CK_ULONG>(certificate.bits));
  return out;
}

Attributes privateKeyAttributes(const Certificate& certificate, std::string_view label, const localapi::IdentityInfo& identity,
                                const SigningKey& signing) {
  Attributes out = key(CKO_PRIVATE_KEY, certificate, label, identity);
  out.flag(CKA_SIGN, true);
  out.flag(CKA_SIGN_RECOVER, false);
  out.flag(CKA_DECRYPT, false);
  out.flag(CKA_UNWRAP, false);
  out.flag(CKA_ALWAYS_AUTHENTICATE, false);
  out.flag(CKA_WRAP_WITH_TRUSTED, false);
  out.flag(CKA_SENSITIVE, true);
  out.flag(CKA_EXTRACTABLE, false);
  // These two say something of the whole life of a key: of one that came in a file they would be untrue.
  const bool bornHere = identity.source != "pkcs12";
  out.flag(CKA_ALWAYS_SENSITIVE, bornHere);
  out.flag(CKA_NEVER_EXTRACTABLE, bornHere);
  const std::vector<CK_MECHANISM_TYPE> allowed = mechanismsFor(signing);
  out.numbers(CKA_ALLOWED_MECHANISMS, allowed);
  if (certificate.family == KeyFamily::Ec) {
    out.hide(CKA_VALUE);
  } else {
    for (const CK_ATTRIBUTE_TYPE type : {CKA_PRIVATE_EXPONENT, CKA_PRIME_1, CKA_PRIME_2, CKA_EXPONENT_1, CKA_EXPONENT_2, CKA_COEFFICIENT})
      out.hide(type);
  }
  return out;
}

}  // namespace wayleave::pkcs11
