#pragma once

// What may be signed for TLS. A TLS 1.3 client proves its key by signing (RFC 8446 section 4.4.3)
//   64 × 0x20 ‖ "TLS 1.3, client CertificateVerify" ‖ 0x00 ‖ transcript hash
// The prefix exists so that nothing else can be mistaken for it; a signer that insists on it can be used for nothing
// else either: not as a server, not for a message, a token, a certification request. No agent we know checks it.

#include "base/bytes.h"
#include "base/result.h"
#include "keys/private_key.h"

namespace wayleave::broker {

// The transcript hash must be as long as a hash of TLS 1.3: 32 or 48 octets. (The hash of the cipher suite, not the
// scheme's.) Only schemes that TLS 1.3 allows in CertificateVerify. Errors: BadInput, NotEntitled (the server's context
// string), Unsupported (scheme). The sentence says what it looked like.
Status checkClientCertificateVerify(keys::SignatureScheme scheme, ByteView content);

// A TLS 1.2 digest: exactly as long as the scheme's hash. Errors: BadInput.
Status checkDigest(keys::SignatureScheme scheme, ByteView digest);

// The to-be-signed part of a PKCS#10 request (RFC 2986): one complete DER CertificationRequestInfo, version 0, whose
// public key is `spki`. Errors: BadInput, KeyMismatch.
Status checkCertificationRequestInfo(ByteView der, ByteView spki);

}  // namespace wayleave::broker
