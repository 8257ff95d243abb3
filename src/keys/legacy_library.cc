#include "keys/legacy_library.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/provider.h>

#include "keys/openssl.h"

namespace wayleave::keys {

void LegacyLibrary::free(OSSL_LIB_CTX* context) { OSSL_LIB_CTX_free(context); }
void LegacyLibrary::unload(OSSL_PROVIDER* provider) { OSSL_PROVIDER_unload(provider); }

Result<LegacyLibrary> LegacyLibrary::load() {
  LegacyLibrary library;
  library.context_.reset(OSSL_LIB_CTX_new());
  if (library.context_) library.default_.reset(OSSL_PROVIDER_load(library.context_.get(), "default"));
  if (!library.default_) return std::unexpected(opensslError(Reason::Internal, "load OpenSSL's default provider"));
  library.legacy_.reset(OSSL_PROVIDER_load(library.context_.get(), "legacy"));
  ERR_clear_error();  // without the module the old ciphers are missing, and say so when one is needed
  return library;
}

}  // namespace wayleave::keys
