#pragma once

// PKCS #11 has numbers for errors and nothing for reasons. With WAYLEAVE_PKCS11_DEBUG set in the environment (and not in a
// set-user-ID program) the module says on standard error what identityd answered and what to do about it.

#include <string_view>

#include "base/result.h"
#include "pkcs11/cryptoki.h"

namespace wayleave::pkcs11 {

void explain(std::string_view what, const Error& error);
// The nearest code of the standard.
CK_RV codeOf(const Error& error);

}  // namespace wayleave::pkcs11
