#pragma once

// What a TSS return code means to us.
//
// A TSS2_RC carries its layer in bits 16 to 23 (0 and 12: the TPM itself, 7 ESAPI, 8 SYS, 9 MU, 10 TCTI, 11 resource
// manager). In the TPM's own codes with bit 0x80 set, bits 6 and 8 to 11 say only *which* handle, parameter or
// authorisation was meant, so those are masked away before comparing (TPM 2.0 Library, part 2, section 6.6).
//
// One table, one function; nothing else in this folder compares codes.

#include <tss2/tss2_common.h>

#include <string>
#include <string_view>

#include "base/result.h"

namespace wayleave::keys::tpm {

// What the owner thread may do about a failure before it tells the caller.
enum class Reaction : uint8_t {
  Report,         // nothing helps: give the error to the caller
  RetryLater,     // the TPM asks for patience
  FreeSlots,      // object or session memory is full: flush what we hold, then once more
  ReloadObjects,  // an object we believed loaded is gone (TPM2_Clear, a resource manager): load it again
  StartTpm,       // TPM2_Startup was never sent (a software TPM that restarted)
  Reopen,         // the connection is gone: open it again, then once more
};

struct RcMeaning {
  Reason reason = Reason::Internal;
  Reaction reaction = Reaction::Report;
  std::string_view meaning;  // "the TPM is in dictionary-attack lockout"
  std::string_view hint;     // may be empty
};

// Total: unknown codes are IdentityUnavailable with a generic meaning. Pure.
RcMeaning classify(TSS2_RC code);

// An error on its way from the owner thread to a caller.
struct TpmFailure {
  Error error;
  Reaction reaction = Reaction::Report;
};
template <typename T>
using TpmResult = std::expected<T, TpmFailure>;
using TpmStatus = TpmResult<void>;

// "sign: the TPM is in … (0x921 tpm:warn(2.0): …)"
TpmFailure tssFailure(TSS2_RC code, std::string_view what);
inline std::unexpected<TpmFailure> failTss(TSS2_RC code, std::string_view what) {
  return std::unexpected(tssFailure(code, what));
}
inline std::unexpected<TpmFailure> failTpm(Reason reason, std::string message, std::string hint = {}) {
  return std::unexpected(TpmFailure{Error{reason, std::move(message), std::move(hint)}, Reaction::Report});
}
inline std::unexpected<TpmFailure> passOn(TpmFailure failure) { return std::unexpected(std::move(failure)); }
// An Error of a pure helper, reported as it is.
inline std::unexpected<TpmFailure> passOn(Error error) {
  return std::unexpected(TpmFailure{std::move(error), Reaction::Report});
}

}  // namespace wayleave::keys::tpm
