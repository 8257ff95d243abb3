#include "pkcs11/explain.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

namespace wayleave::pkcs11 {

void explain(std::string_view what, const Error& error) {
  static const bool wanted = secure_getenv("WAYLEAVE_PKCS11_DEBUG") != nullptr;
  if (!wanted) return;
  fmt::print(stderr, "wayleave-pkcs11: {}: {} {}\n", what, text(error.reason), describe(error));
}

CK_RV codeOf(const Error& error) {
  // Every reason but these few says: not now, or not this one.
  if (error.reason == Reason::NotEntitled || error.reason == Reason::CallerUnverified) return CKR_FUNCTION_REJECTED;
  if (error.reason == Reason::Unavailable || error.reason == Reason::IdentityLost || error.reason == Reason::NotFound)
    return CKR_DEVICE_REMOVED;
  if (error.reason == Reason::DeadlineExceeded || error.reason == Reason::Busy || error.reason == Reason::RateLimited)
    return CKR_FUNCTION_FAILED;
  return CKR_DEVICE_ERROR;
}

}  // namespace wayleave::pkcs11
