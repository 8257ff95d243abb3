#include "keys/tpm/tss_error.h"

#include <fmt/format.h>
#include <tss2/tss2_rc.h>
#include <tss2/tss2_tpm2_types.h>

namespace wayleave::keys::tpm {
namespace {

struct Row {
  uint32_t code;  // as masked by `significant`
  RcMeaning means;
};

constexpr std::string_view kLostHint =
    "keys made by another TPM, or before this one was cleared, never work again: enrol the device again";
constexpr std::string_view kLockoutHint =
    "wait for the TPM's recovery time or reset it with tpm2_dictionarylockout -c; our own keys are exempt, so a "
    "foreign program caused this";
constexpr std::string_view kAuthHint =
    "our keys have empty authorisation: this key or hierarchy is not set up by us; further tries would lead to lockout";
constexpr std::string_view kFirmwareHint = "look for a firmware update of the TPM, then power-cycle the machine";
constexpr std::string_view kReportHint = "this is a fault of the program, please report it";

constexpr Row kTpmRows[] = {
    // Format 1: something is wrong with a handle, parameter or authorisation.
    {TPM2_RC_ASYMMETRIC, {Reason::Unsupported, Reaction::Report, "the TPM does not have this kind of key", ""}},
    {TPM2_RC_ATTRIBUTES, {Reason::Unsupported, Reaction::Report, "the key's attributes do not allow this", ""}},
    {TPM2_RC_HASH, {Reason::Unsupported, Reaction::Report, "the TPM does not have this hash", ""}},
    {TPM2_RC_VALUE,
     {Reason::KeyMismatch, Reaction::Report, "a value does not fit this key or TPM",
      "when activating a credential: it was made for another endorsement key, compare the EK with its certificate"}},
    {TPM2_RC_HIERARCHY,
     {Reason::IdentityUnavailable, Reaction::Report, "the TPM's storage hierarchy is disabled",
      "enable the TPM's owner hierarchy in the firmware settings"}},
    {TPM2_RC_KEY_SIZE, {Reason::Unsupported, Reaction::Report, "the TPM does not have keys of this size", ""}},
    {TPM2_RC_MGF, {Reason::Unsupported, Reaction::Report, "the TPM does not have this mask function", ""}},
    {TPM2_RC_MODE, {Reason::Unsupported, Reaction::Report, "the TPM does not have this mode", ""}},
    {TPM2_RC_TYPE, {Reason::Unsupported, Reaction::Report, "the TPM does not have this type for this use", ""}},
    {TPM2_RC_HANDLE, {Reason::IdentityLost, Reaction::Report, "the key or its parent is not in the TPM", kLostHint}},
    {TPM2_RC_KDF, {Reason::Unsupported, Reaction::Report, "the TPM does not have this key derivation", ""}},
    {TPM2_RC_RANGE, {Reason::BadInput, Reaction::Report, "a value is out of range", ""}},
    {TPM2_RC_AUTH_FAIL, {Reason::IdentityUnavailable, Reaction::Report, "authorisation failed", kAuthHint}},
    {TPM2_RC_NONCE, {Reason::Internal, Reaction::Report, "a session nonce does not match", kReportHint}},
    {TPM2_RC_PP, {Reason::IdentityUnavailable, Reaction::Report, "the TPM asks for physical presence", ""}},
    {TPM2_RC_SCHEME, {Reason::Unsupported, Reaction::Report, "the key does not allow this scheme or hash", ""}},
    {TPM2_RC_SIZE, {Reason::BadInput, Reaction::Report, "a structure has the wrong size", ""}},
    {TPM2_RC_SYMMETRIC, {Reason::Unsupported, Reaction::Report, "the TPM does not have this cipher", ""}},
    {TPM2_RC_TAG, {Reason::BadInput, Reaction::Report, "a structure has the wrong tag", ""}},
    {TPM2_RC_SELECTOR, {Reason::BadInput, Reaction::Report, "a structure has the wrong selector", ""}},
    {TPM2_RC_INSUFFICIENT, {Reason::BadInput, Reaction::Report, "a structure is cut short", ""}},
    {TPM2_RC_SIGNATURE, {Reason::SignatureInvalid, Reaction::Report, "a signature is not valid", ""}},
    {TPM2_RC_KEY, {Reason::Unsupported, Reaction::Report, "the key is not made for this use", ""}},
    {TPM2_RC_POLICY_FAIL,
     {Reason::IdentityUnavailable, Reaction::Report, "the key's policy is not satisfied",
      "an endorsement key with a policy of its maker needs the maker's tools"}},
    {TPM2_RC_INTEGRITY,
     {Reason::IdentityLost, Reaction::Report, "the key belongs to another TPM or to this one before it was cleared",
      kLostHint}},
    {TPM2_RC_TICKET, {Reason::Internal, Reaction::Report, "a ticket is not valid", kReportHint}},
    {TPM2_RC_RESERVED_BITS, {Reason::BadInput, Reaction::Report, "reserved bits are set", ""}},
    {TPM2_RC_BAD_AUTH, {Reason::IdentityUnavailable, Reaction::Report, "authorisation failed", kAuthHint}},
    {TPM2_RC_EXPIRED, {Reason::IdentityUnavailable, Reaction::Report, "the authorisation has expired", ""}},
    {TPM2_RC_POLICY_CC, {Reason::IdentityUnavailable, Reaction::Report, "the key's policy forbids this command", ""}},
    {TPM2_RC_BINDING,
     {Reason::IdentityLost, Reaction::Report, "the key's public and private halves do not belong together",
      "the stored key is damaged: restore it from a backup of this machine, or enrol the device again"}},
    {TPM2_RC_CURVE,
     {Reason::Unsupported, Reaction::Report, "the TPM does not have this curve",
      "only P-256 is common to all TPM 2.0; ask for a 256-bit key"}},
    {TPM2_RC_ECC_POINT, {Reason::BadInput, Reaction::Report, "a point is not on its curve", ""}},
    // Format 0 errors.
    {TPM2_RC_INITIALIZE, {Reason::Unavailable, Reaction::StartTpm, "the TPM has not been started", ""}},
    {TPM2_RC_FAILURE, {Reason::IdentityUnavailable, Reaction::Report, "the TPM is in failure mode", kFirmwareHint}},
    {TPM2_RC_DISABLED, {Reason::IdentityUnavailable, Reaction::Report, "the TPM's maker disabled this command", ""}},
    {TPM2_RC_AUTH_TYPE, {Reason::Internal, Reaction::Report, "wrong kind of authorisation", kReportHint}},
    {TPM2_RC_AUTH_MISSING, {Reason::Internal, Reaction::Report, "authorisation is missing", kReportHint}},
    {TPM2_RC_UPGRADE, {Reason::IdentityUnavailable, Reaction::Report, "the TPM is upgrading its firmware", ""}},
    {TPM2_RC_TOO_MANY_CONTEXTS, {Reason::Busy, Reaction::FreeSlots, "too many saved contexts", ""}},
    {TPM2_RC_AUTH_UNAVAILABLE, {Reason::IdentityUnavailable, Reaction::Report, "authorisation is not possible", ""}},
    {TPM2_RC_REBOOT,
     {Reason::IdentityUnavailable, Reaction::Report, "the TPM asks for a restart", "restart the machine"}},
    {TPM2_RC_COMMAND_CODE,
     {Reason::Unsupported, Reaction::Report, "the TPM does not have this command", kFirmwareHint}},
    {TPM2_RC_NV_LOCKED, {Reason::IdentityUnavailable, Reaction::Report, "the TPM's memory is locked", ""}},
    {TPM2_RC_NV_AUTHORIZATION, {Reason::IdentityUnavailable, Reaction::Report, "the TPM's memory is protected", ""}},
    {TPM2_RC_NV_UNINITIALIZED, {Reason::NotFound, Reaction::Report, "nothing is stored there", ""}},
    {TPM2_RC_NV_SPACE, {Reason::Busy, Reaction::Report, "the TPM's memory is full", ""}},
    {TPM2_RC_NV_DEFINED, {Reason::Duplicate, Reaction::Report, "the place is taken", ""}},
    {TPM2_RC_BAD_CONTEXT, {Reason::IdentityUnavailable, Reaction::ReloadObjects, "a saved context is stale", ""}},
    {TPM2_RC_SENSITIVE,
     {Reason::IdentityLost, Reaction::Report, "the key's private half is damaged",
      "restore the stored key from a backup of this machine, or enrol the device again"}},
    // Warnings: the command would have been right at another moment.
    {TPM2_RC_CONTEXT_GAP, {Reason::Busy, Reaction::FreeSlots, "a session was saved too long ago", ""}},
    {TPM2_RC_OBJECT_MEMORY,
     {Reason::Busy, Reaction::FreeSlots, "the TPM's object slots are taken",
      "another program keeps objects loaded: use /dev/tpmrm0, or tpm2_flushcontext -t"}},
    {TPM2_RC_SESSION_MEMORY,
     {Reason::Busy, Reaction::FreeSlots, "the TPM's session slots are taken", "tpm2_flushcontext -l"}},
    {TPM2_RC_MEMORY, {Reason::Busy, Reaction::FreeSlots, "the TPM is out of memory", "tpm2_flushcontext -t"}},
    {TPM2_RC_SESSION_HANDLES,
     {Reason::Busy, Reaction::FreeSlots, "the TPM is out of session handles", "tpm2_flushcontext -l"}},
    {TPM2_RC_OBJECT_HANDLES, {Reason::Busy, Reaction::FreeSlots, "the TPM is out of object handles", ""}},
    {TPM2_RC_LOCALITY, {Reason::IdentityUnavailable, Reaction::Report, "wrong locality", ""}},
    {TPM2_RC_YIELDED, {Reason::Busy, Reaction::RetryLater, "the TPM suspended the command", ""}},
    {TPM2_RC_CANCELED, {Reason::Busy, Reaction::RetryLater, "the command was cancelled", ""}},
    {TPM2_RC_TESTING, {Reason::Busy, Reaction::RetryLater, "the TPM is testing itself", ""}},
    {TPM2_RC_NV_RATE, {Reason::Busy, Reaction::RetryLater, "the TPM limits writes to its memory", ""}},
    {TPM2_RC_LOCKOUT, {Reason::KeyLockout, Reaction::Report, "the TPM is in dictionary-attack lockout", kLockoutHint}},
    {TPM2_RC_RETRY, {Reason::Busy, Reaction::RetryLater, "the TPM was not ready", ""}},
    {TPM2_RC_NV_UNAVAILABLE, {Reason::Busy, Reaction::RetryLater, "the TPM's memory is not available now", ""}},
};

RcMeaning classifyTpm(uint32_t code) {
  const bool format1 = (code & TPM2_RC_FMT1) != 0;
  const uint32_t significant = format1 ? code & 0x0bfu : code & 0xfffu;
  // One code per handle or session position; all say "not loaded".
  if (significant >= TPM2_RC_REFERENCE_H0 && significant <= TPM2_RC_REFERENCE_S6)
    return {Reason::IdentityUnavailable, Reaction::ReloadObjects, "an object is no longer loaded", ""};
  for (const Row& row : kTpmRows)
    if (row.code == significant) return row.means;
  return {Reason::IdentityUnavailable, Reaction::Report, "the TPM refused the command", ""};
}

RcMeaning classifyTransport(uint32_t base) {
  switch (base) {
    case TSS2_BASE_RC_NO_CONNECTION:
    case TSS2_BASE_RC_IO_ERROR:
      return {Reason::Unavailable, Reaction::Reopen, "the connection to the TPM is gone",
              "check that the TPM (or the software TPM's process) is there"};
    case TSS2_BASE_RC_TRY_AGAIN: return {Reason::Busy, Reaction::RetryLater, "the TPM is busy", ""};
    case TSS2_BASE_RC_MALFORMED_RESPONSE:
    case TSS2_BASE_RC_INSUFFICIENT_RESPONSE:
      return {Reason::Unavailable, Reaction::Reopen, "the TPM's answer is malformed", kFirmwareHint};
    case TSS2_BASE_RC_NOT_PERMITTED:
      return {Reason::KeyPermission, Reaction::Report, "access to the TPM is denied",
              "let the service's user into the group tss"};
    case TSS2_BASE_RC_BAD_VALUE:
    case TSS2_BASE_RC_NOT_SUPPORTED:
    case TSS2_BASE_RC_NOT_IMPLEMENTED:
      return {Reason::Unsupported, Reaction::Report, "the way to the TPM is not supported",
              "check the TCTI in the configuration, for example device:/dev/tpmrm0"};
    case TSS2_BASE_RC_MEMORY: return {Reason::Busy, Reaction::Report, "out of memory", ""};
    default: return {Reason::Unavailable, Reaction::Reopen, "the way to the TPM failed", ""};
  }
}

// ESAPI, SYS and MU fail by themselves only when they are misused or when an answer does not parse.
RcMeaning classifyLibrary(uint32_t base) {
  switch (base) {
    case TSS2_BASE_RC_IO_ERROR:
    case TSS2_BASE_RC_NO_CONNECTION:
    case TSS2_BASE_RC_MALFORMED_RESPONSE:
    case TSS2_BASE_RC_INSUFFICIENT_RESPONSE:
    case TSS2_BASE_RC_RSP_AUTH_FAILED:
      return {Reason::Unavailable, Reaction::Reopen, "the TPM's answer cannot be used", kFirmwareHint};
    case TSS2_BASE_RC_BAD_SEQUENCE:
      return {Reason::Unavailable, Reaction::Reopen, "the connection to the TPM broke in the command before", ""};
    case TSS2_BASE_RC_TRY_AGAIN: return {Reason::Busy, Reaction::RetryLater, "the TPM is busy", ""};
    case TSS2_BASE_RC_MEMORY: return {Reason::Busy, Reaction::Report, "out of memory", ""};
    case TSS2_BASE_RC_BAD_TR:
      return {Reason::IdentityUnavailable, Reaction::ReloadObjects, "an object is no longer known", ""};
    default: return {Reason::Internal, Reaction::Report, "the TPM library refused the call", kReportHint};
  }
}

}  // namespace

RcMeaning classify(TSS2_RC code) {
  if (code == TSS2_RC_SUCCESS) return {Reason::Ok, Reaction::Report, "success", ""};
  const uint32_t base = code & 0xffffu;
  switch (code & TSS2_RC_LAYER_MASK) {
    case TSS2_TPM_RC_LAYER:
    case TSS2_RESMGR_TPM_RC_LAYER: return classifyTpm(base);
    case TSS2_TCTI_RC_LAYER:
    case TSS2_RESMGR_RC_LAYER: return classifyTransport(base);
    default: return classifyLibrary(base);
  }
}

TpmFailure tssFailure(TSS2_RC code, std::string_view what) {
  const RcMeaning means = classify(code);
  return {Error{means.reason, fmt::format("{}: {} (0x{:x}, {})", what, means.meaning, code, Tss2_RC_Decode(code)),
                std::string(means.hint)},
          means.reaction};
}

}  // namespace wayleave::keys::tpm
