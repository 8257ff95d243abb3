#pragma once

// PKCS #11 v2.40 (OASIS) in the standard's own names, from p11-kit's header.

#define CK_DISABLE_TRUE_FALSE  // TRUE and FALSE as macros would reach every header included later
#include <p11-kit/pkcs11.h>

#include <expected>

namespace wayleave::pkcs11 {

// A value, or the return code the caller of the C function gets.
template <typename T>
using Answer = std::expected<T, CK_RV>;

inline std::unexpected<CK_RV> failWith(CK_RV code) { return std::unexpected(code); }

}  // namespace wayleave::pkcs11
