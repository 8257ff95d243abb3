#pragma once

// One identity as PKCS #11 objects.

#include <span>

#include "localapi/identity_client.h"
#include "pkcs11/attributes.h"
#include "pkcs11/certificate.h"
#include "pkcs11/mechanism.h"

namespace wayleave::pkcs11 {

// `issuer`: the next certificate of the chain, when there is one. `label`: what people know it by.
Attributes certificateAttributes(const Certificate& certificate, const Certificate* issuer, std::string_view label);
// The certificate carries the key. CKA_ID is the keychain's public-key hash in all three: so they are paired.
Attributes publicKeyAttributes(const Certificate& certificate, std::string_view label, const localapi::IdentityInfo& identity);
Attributes privateKeyAttributes(const Certificate& certificate, std::string_view label, const localapi::IdentityInfo& identity,
                                const SigningKey& key);

}  // namespace wayleave::pkcs11
