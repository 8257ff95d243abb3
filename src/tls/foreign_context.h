#pragma once

// A client certificate whose key lives elsewhere, in an SSL_CTX that a library of others makes and drives: libcurl, with
// CURLOPT_SSL_CTX_FUNCTION.
//
// Such a library knows nothing of library contexts, and makes everything in the thread's default one. ForeignScope makes
// the callback key's context that default while it lives, so that whatever the library does on this thread finds the key's
// provider. Keep one around every call that may touch the SSL_CTX or its connections, the cleaning up included.

#include <openssl/types.h>

#include "base/clock.h"
#include "base/result.h"
#include "tls/client_tls.h"

namespace wayleave::tls {

class ForeignScope {
 public:
  // Handshakes on this thread may sign until `signDeadline`. Not to be nested.
  explicit ForeignScope(Steady signDeadline);
  ~ForeignScope();
  ForeignScope(const ForeignScope&) = delete;
  ForeignScope& operator=(const ForeignScope&) = delete;

 private:
  OSSL_LIB_CTX* before_;
};

// To be called on a fresh SSL_CTX within a ForeignScope. Why a handshake could not sign tells takeSignError()
// (callback_key.h). Errors: BadInput (certificates), KeyMismatch, Unsupported (key type), Internal (OpenSSL).
Status useForeignIdentity(SSL_CTX* context, const ClientIdentity& identity);

}  // namespace wayleave::tls
