#pragma once

// What every file of ours that talks to libcrypto needs: owning pointers and the error queue as an Error.

#include <openssl/evp.h>
#include <openssl/x509.h>

#include <string_view>

#include "base/owned.h"
#include "base/result.h"

namespace wayleave::keys {

using EvpPkeyPtr = Handle<EVP_PKEY, EVP_PKEY_free>;
using EvpPkeyCtxPtr = Handle<EVP_PKEY_CTX, EVP_PKEY_CTX_free>;
using EvpCipherCtxPtr = Handle<EVP_CIPHER_CTX, EVP_CIPHER_CTX_free>;
using Pkcs8Ptr = Handle<PKCS8_PRIV_KEY_INFO, PKCS8_PRIV_KEY_INFO_free>;
using X509Ptr = Handle<X509, X509_free>;
using X509PubkeyPtr = Handle<X509_PUBKEY, X509_PUBKEY_free>;

// "what: <OpenSSL's own words>". Takes the newest entry of this thread's error queue and empties the queue, so that no
// stale entry is blamed for a later failure.
Error opensslError(Reason reason, std::string_view what);

}  // namespace wayleave::keys
