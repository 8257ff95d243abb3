#pragma once

// What a failed call on a TLS connection means, in our vocabulary.

#include <openssl/types.h>

#include <optional>

#include "base/result.h"

namespace wayleave::tls {

// Reads and empties this thread's OpenSSL error queue. `signError` is the signer's own, if it was asked and failed: it
// explains more than OpenSSL's words for it. An alert that speaks of certificates is GatewayRefusedCertificate at any
// time, since a TLS 1.3 server looks at ours only after the client is done; our own verdict is GatewayUntrusted.
Error tlsError(SSL* connection, std::string_view during, std::optional<Error> signError);

// A verification callback that changes no verdict and notes the subject of the certificate that failed in the std::string
// which the connection's app data points to: OpenSSL has forgotten it when the handshake has failed.
int rememberRejected(int accepted, X509_STORE_CTX* store);

}  // namespace wayleave::tls
