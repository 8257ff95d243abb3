#pragma once

// The module between C_Initialize and C_Finalize: slots, sessions, searches, signatures. One object per process; the C
// functions of entry_points.cc only check their pointers and call it. Thread-safe.

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>

#include "base/clock.h"
#include "localapi/identity_client.h"
#include "pkcs11/catalogue.h"
#include "pkcs11/signing.h"

namespace wayleave::pkcs11 {

class Module {
 public:
  explicit Module(std::unique_ptr<localapi::IdentityAgent> agent);

  std::vector<CK_SLOT_ID> slots(bool withToken);
  CK_RV slotInfo(CK_SLOT_ID slot, CK_SLOT_INFO& out);
  CK_RV tokenInfo(CK_SLOT_ID slot, CK_TOKEN_INFO& out);

  CK_RV openSession(CK_SLOT_ID slot, CK_FLAGS flags, CK_SESSION_HANDLE& out);
  CK_RV closeSession(CK_SESSION_HANDLE session);
  CK_RV closeAllSessions(CK_SLOT_ID slot);
  CK_RV sessionInfo(CK_SESSION_HANDLE session, CK_SESSION_INFO& out);
  CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user);
  CK_RV logout(CK_SESSION_HANDLE session);

  CK_RV objectSize(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ULONG& out);
  CK_RV attributes(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, std::span<CK_ATTRIBUTE> wanted);
  CK_RV findInit(CK_SESSION_HANDLE session, std::span<const CK_ATTRIBUTE> wanted);
  CK_RV find(CK_SESSION_HANDLE session, std::span<CK_OBJECT_HANDLE> out, CK_ULONG& count);
  CK_RV findFinal(CK_SESSION_HANDLE session);

  CK_RV signInit(CK_SESSION_HANDLE session, const CK_MECHANISM& mechanism, CK_OBJECT_HANDLE key);
  CK_RV signUpdate(CK_SESSION_HANDLE session, ByteView part);
  // `data`: the one part of C_Sign, none for C_SignFinal. `signature` may be null: then only `length` is told.
  CK_RV sign(CK_SESSION_HANDLE session, std::optional<ByteView> data, CK_BYTE* signature, CK_ULONG& length);

 private:
  struct Session {
    CK_SLOT_ID slot = kFileSlot;
    CK_FLAGS flags = 0;
    std::mutex mutex;  // of what follows; held while identityd signs, so that one session does one thing
    std::optional<std::vector<CK_OBJECT_HANDLE>> found;
    size_t given = 0;
    std::optional<SigningOperation> signing;
    bool inParts = false;
  };
  std::shared_ptr<Session> session(CK_SESSION_HANDLE handle) const;
  std::shared_ptr<const Object> object(const Session& session, CK_OBJECT_HANDLE handle) const;
  void forgetLogin(CK_SLOT_ID slot);

  const SystemClock clock_;
  const std::unique_ptr<localapi::IdentityAgent> agent_;
  Catalogue catalogue_;
  Signer signer_;
  mutable std::mutex mutex_;
  std::map<CK_SESSION_HANDLE, std::shared_ptr<Session>> sessions_;
  CK_SESSION_HANDLE nextSession_ = 1;
  std::array<bool, kSlots> loggedIn_{};
};

// How a module comes to its agent: identityd's socket in WAYLEAVE_RUNTIME_DIR or /run/wayleave. Tests and the fuzzer put
// another maker here before C_Initialize.
using AgentMaker = std::function<std::unique_ptr<localapi::IdentityAgent>()>;
AgentMaker& agentMaker();

}  // namespace wayleave::pkcs11
