#include "tls/foreign_context.h"

#include <openssl/crypto.h>

#include "tls/callback_key.h"
#include "tls/client_context.h"

namespace wayleave::tls {

ForeignScope::ForeignScope(Steady signDeadline) : before_(OSSL_LIB_CTX_set0_default(callbackLibrary())) {
  setPermit({.maySign = true, .deadline = signDeadline});
  (void)takeSignError();  // of another handshake on this thread
}

ForeignScope::~ForeignScope() {
  setPermit({});
  OSSL_LIB_CTX_set0_default(before_);
}

Status useForeignIdentity(SSL_CTX* context, const ClientIdentity& identity) { return useIdentity(context, identity); }

}  // namespace wayleave::tls
