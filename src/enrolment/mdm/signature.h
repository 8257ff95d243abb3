#pragma once

// The header Mdm-Signature: a detached CMS SignedData over the body, base64 in one line, made with a key that lives in
// identityd.

#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "localapi/identity_client.h"

namespace wayleave::enrolment::mdm {

// `identity`: with its chain. Gives up at `deadline`. Errors: those of IdentityAgent::signMessage; BadInput, Unsupported (the
// certificate); Internal (OpenSSL).
Result<std::string> mdmSignature(localapi::IdentityAgent& agent, const localapi::IdentityInfo& identity, ByteView body, Steady deadline);

}  // namespace wayleave::enrolment::mdm
