#include "keychain/dispatch/not_available.h"

namespace wayleave::keychain::dispatch {

const std::vector<CauseInfo>& causesOfNotAvailable() {
  static const std::vector<CauseInfo> causes = {
      {Cause::ServiceUnreachable, 'a',
       "the XPC connection to secd failed: no such service in this launchd domain, or the sandbox denies the mach "
       "lookup",
       "OSX/sec/Security/SecItem.m osstatus_for_xpc_error; OSX/sec/ipc/com.apple.secd.plist",
       "every data protection call of the process gives -25291, even one with a foreign access group (a reached server "
       "says "
       "-34018) and one that mixes kSecClass identity with a `cert` reference (a reached server says -25306); the log "
       "shows "
       "`deny mach-lookup` when it is the sandbox"},
      {Cause::DatabaseUnusable, 'b',
       "the database cannot be opened or used (SQLite PERM, AUTH, CANTOPEN, FULL, EMPTY, ERROR and every unlisted "
       "code)",
       "SecDb.c, SecItemServer.c kc_acquire_dbt, osstatus_for_s3e",
       "a foreign access group gives -34018, and any reference, also one that exists nowhere, gives -25291 or -25316; "
       "the log "
       "of secd shows the SQLite code, on writes `failed to get a db handle`"},
      {Cause::ClassKeyMissing, 'c',
       "a row was found and the keystore has no key for its class, or fails in an unlisted way",
       "keychain/securityd/SecKeybagSupport.c, SecItemDb.c s3dl_query_row",
       "a reference that exists nowhere gives -25300, this one -25291; the log of secd shows `No key available for "
       "class`"},
      {Cause::CallerDenied, 'd', "the caller has the entitlement com.apple.private.keychain.deny",
       "OSX/sec/ipc/server.c EntitlementAbsentOrFalse", "`codesign -d --entitlements -` of the program shows it"},
      {Cause::KernelError, 'e', "an unlisted kernel or IOKit error (AppleKeyStore, Secure Enclave)",
       "osstatus_for_kern_return", "a foreign access group gives -34018; the log of secd shows the kernel's code"},
  };
  return causes;
}

std::vector<Verdict> weigh(const Observations& o) {
  std::vector<Verdict> out;
  for (const CauseInfo& info : causesOfNotAvailable()) {
    Verdict verdict{info.cause, true, {}};
    const auto exclude = [&](const char* why) {
      if (!verdict.possible) return;
      verdict.possible = false;
      verdict.why = why;
    };
    switch (info.cause) {
      case Cause::ServiceUnreachable:
        if (o.foreignGroupGaveMissingEntitlement == true) exclude("-34018 is made only inside secd: it was reached");
        if (o.unknownReferenceGaveNotFound == true) exclude("-25300 came from a server: it was reached");
        break;
      case Cause::DatabaseUnusable:
        if (o.foreignGroupGaveMissingEntitlement == false)
          exclude("the group check comes before the database: it would have said -34018");
        if (o.queryMixedIdentityWithCertReference == true)
          exclude("a reached server says -25306 before it opens the database");
        if (o.unknownReferenceGaveNotFound == true) exclude("the database answered");
        break;
      case Cause::ClassKeyMissing:
        if (o.foreignGroupGaveMissingEntitlement == false)
          exclude("the group check comes before any row: it would have said -34018");
        if (o.queryMixedIdentityWithCertReference == true)
          exclude("a reached server says -25306 before it reads a row");
        if (o.unknownReferenceGaveNotFound == false) exclude("a reference without a row has nothing to decrypt");
        break;
      case Cause::CallerDenied:
        if (o.hasDenyEntitlement == false) exclude("the program does not have the entitlement");
        if (o.foreignGroupGaveMissingEntitlement == true) exclude("the denial comes before the group check");
        if (o.unknownReferenceGaveNotFound == true) exclude("the denial comes before any search");
        break;
      case Cause::KernelError:
        if (o.foreignGroupGaveMissingEntitlement == false)
          exclude("the group check comes before the keystore: it would have said -34018");
        if (o.queryMixedIdentityWithCertReference == true)
          exclude("a reached server says -25306 before it asks the keystore");
        break;
    }
    out.push_back(std::move(verdict));
  }
  return out;
}

}  // namespace wayleave::keychain::dispatch
