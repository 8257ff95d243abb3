// The C functions of PKCS #11 v2.40. Each checks its pointers and calls the Module; no exception leaves. The functions that would
// change the token, or do what needs no private key, answer CKR_FUNCTION_NOT_SUPPORTED.
//
// Fork (v2.40, 6.6.1): a child has no module until it calls C_Initialize itself. What the parent had cannot be freed in the
// child: another thread of the parent may have been in the middle of it. It is put aside, once per fork.

#include <pthread.h>
#include <unistd.h>

#include <cstdlib>
#include <cxxabi.h>
#include <new>

#include "pkcs11/module.h"

namespace wayleave::pkcs11 {
namespace {

// The gate guards two words only and is held across fork(), so that the child finds it free.
struct Gate {
  std::mutex mutex;
  std::shared_ptr<Module> module;
  pid_t owner = 0;
  std::vector<std::shared_ptr<Module>> putAside;
};

// Never destroyed: a program's other threads may call us while it exits.
Gate& gate() {
  static Gate* const only = [] {
    Gate* const made = new Gate;
    pthread_atfork([] { gate().mutex.lock(); }, [] { gate().mutex.unlock(); }, [] { gate().mutex.unlock(); });
    return made;
  }();
  return *only;
}

std::shared_ptr<Module> current() {
  Gate& g = gate();
  const std::lock_guard lock(g.mutex);
  return g.owner == getpid() ? g.module : nullptr;
}

// Runs `call` so that nothing but a code comes out.
template <typename Call>
CK_RV fenced(Call&& call) {
  try {
    return call();
  } catch (const abi::__forced_unwind&) {
    throw;  // pthread_cancel: not ours to stop
  } catch (const std::bad_alloc&) {
    return CKR_HOST_MEMORY;
  } catch (...) {
    return CKR_GENERAL_ERROR;
  }
}

template <typename Call>
CK_RV withModule(Call&& call) {
  return fenced([&]() -> CK_RV {
    const std::shared_ptr<Module> module = current();
    return module ? call(*module) : CKR_CRYPTOKI_NOT_INITIALIZED;
  });
}

template <typename T>
bool isArray(const T* first, CK_ULONG count) {
  return first != nullptr || count == 0;
}

// The convention of every list and buffer (v2.40, 5.2).
template <typename List>
CK_RV copyList(const List& list, auto* out, CK_ULONG* count) {
  const CK_ULONG room = std::exchange(*count, list.size());
  if (out == nullptr) return CKR_OK;
  if (room < list.size()) return CKR_BUFFER_TOO_SMALL;
  std::ranges::copy(list, out);
  return CKR_OK;
}

CK_RV initialize(void* arguments) {
  return fenced([&]() -> CK_RV {
    if (arguments != nullptr) {
      const auto& given = *static_cast<const CK_C_INITIALIZE_ARGS*>(arguments);
      if (given.pReserved != nullptr) return CKR_ARGUMENTS_BAD;
      const int functions = (given.CreateMutex != nullptr) + (given.DestroyMutex != nullptr) + (given.LockMutex != nullptr) +
                            (given.UnlockMutex != nullptr);
      if (functions != 0 && functions != 4) return CKR_ARGUMENTS_BAD;
      // We lock with the operating system's means and no others.
      if (functions == 4 && (given.flags & CKF_OS_LOCKING_OK) == 0) return CKR_CANT_LOCK;
    }
    auto made = std::make_shared<Module>(agentMaker()());
    Gate& g = gate();
    const std::lock_guard lock(g.mutex);
    if (g.module && g.owner == getpid()) return CKR_CRYPTOKI_ALREADY_INITIALIZED;
    if (g.module) g.putAside.push_back(std::move(g.module));
    g.module = std::move(made);
    g.owner = getpid();
    return CKR_OK;
  });
}

CK_RV finalize(void* reserved) {
  if (reserved != nullptr) return CKR_ARGUMENTS_BAD;
  return fenced([]() -> CK_RV {
    std::shared_ptr<Module> gone;  // destroyed outside the lock, or by the last thread that is still inside
    Gate& g = gate();
    const std::lock_guard lock(g.mutex);
    if (!g.module || g.owner != getpid()) return CKR_CRYPTOKI_NOT_INITIALIZED;
    gone = std::move(g.module);
    return CKR_OK;
  });
}

CK_RV getInfo(CK_INFO* info) {
  if (info == nullptr) return CKR_ARGUMENTS_BAD;
  return withModule([&](Module&) -> CK_RV {
    *info = {};
    info->cryptokiVersion = {CRYPTOKI_VERSION_MAJOR, CRYPTOKI_VERSION_MINOR};
    const auto pad = [](auto& field, std::string_view text) {
      std::fill(std::begin(field), std::end(field), ' ');
      std::copy(text.begin(), text.end(), field);
    };
    pad(info->manufacturerID, "Wayleave");
    pad(info->libraryDescription, "Device identities of this machine");
    info->libraryVersion = {0, 1};
    return CKR_OK;
  });
}

CK_RV getSlotList(CK_BBOOL tokenPresent, CK_SLOT_ID* list, CK_ULONG* count) {
  if (count == nullptr) return CKR_ARGUMENTS_BAD;
  return withModule([&](Module& module) { return copyList(module.slots(tokenPresent != CK_FALSE), list, count); });
}

CK_RV getSlotInfo(CK_SLOT_ID slot, CK_SLOT_INFO* info) {
  if (info == nullptr) return CKR_ARGUMENTS_BAD;
  return withModule([&](Module& module) { return module.slotInfo(slot, *info); });
}

CK_RV getTokenInfo(CK_SLOT_ID slot, CK_TOKEN_INFO* info) {
  if (info == nullptr) return CKR_ARGUMENTS_BAD;
  return withModule([&](Module& module) { return module.tokenInfo(slot, *info); });
}

CK_RV waitForSlotEvent(CK_FLAGS flags, CK_SLOT_ID* slot, void* reserved) {
  if (slot == nullptr || reserved != nullptr) return CKR_ARGUMENTS_BAD;
  return withModule([&](Module&) -> CK_RV { return (flags & CKF_DONT_BLOCK) != 0 ? CKR_NO_EVENT : CKR_FUNCTION_NOT_SUPPORTED; });
}

CK_RV getMechanismList(CK_SLOT_ID slot, CK_MECHANISM_TYPE* list, CK_ULONG* count) {
  if (count == nullptr) return CKR_ARGUMENTS_BAD;
  return withModule([&](Module&) -> CK_RV { return slot < kSlots ? copyList(mechanisms(), list, count) : CKR_SLOT_ID_INVALID; });
}

CK_RV getMechanismInfo(CK_SLOT_ID slot, CK_MECHANISM_TYPE type, CK_MECHANISM_INFO* info) {
  if (info == nullptr) return CKR_ARGUMENTS_BAD;
  return withModule([&](Module&) -> CK_RV {
    if (slot >= kSlots) return CKR_SLOT_ID_INVALID;
    const Answer<CK_MECHANISM_INFO> answer = mechanismInfo(type);
    if (!answer) return answer.error();
    *info = *answer;
    return CKR_OK;
  });
}

CK_RV openSession(CK_SLOT_ID slot, CK_FLAGS flags, void*, CK_NOTIFY, CK_SESSION_HANDLE* session) {
  if (session == nullptr) return CKR_ARGUMENTS_BAD;
  return withModule([&](Module& module) { return module.openSession(slot, flags, *session); });
}

CK_RV closeSession(CK_SESSION_HANDLE session) {
  return withModule([&](Module& module) { return module.closeSession(session); });
}

CK_RV closeAllSessions(CK_SLOT_ID slot) {
  return withModule([&](Module& module) { return module.closeAllSessions(slot); });
}

CK_RV getSessionInfo(CK_SESSION_HANDLE session, CK_SESSION_INFO* info) {
  if (info == nullptr) return CKR_ARGUMENTS_BAD;
  return withModule([&](Module& module) { return module.sessionInfo(session, *info); });
}

CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR*, CK_ULONG) {
  return withModule([&](Module& module) { return module.login(session, user); });
}

CK_RV logout(CK_SESSION_HANDLE session) {
  return withModule([&](Module& module) { return module.logout(session); });
}

CK_RV getObjectSize(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ULONG* size) {
  if (size == nullptr) return CKR_ARGUMENTS_BAD;
  return withModule([&](Module& module) { return module.objectSize(session, object, *size); });
}

CK_RV getAttributeValue(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE* wanted, CK_ULONG count) {
  if (!isArray(wanted, count)) return CKR_ARGUMENTS_BAD;
  return withModule([&](Module& module) { return module.attributes(session, object, {wanted, count}); });
}

CK_RV findObjectsInit(CK_SESSION_HANDLE session, CK_ATTRIBUTE* wanted, CK_ULONG count) {
  if (!isArray(wanted, count)) return CKR_ARGUMENTS_BAD;
  return withModule([&](Module& module) { return module.findInit(session, {wanted, count}); });
}

CK_RV findObjects(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE* objects, CK_ULONG room, CK_ULONG* count) {
  if (count == nullptr || !isArray(objects, room)) return CKR_ARGUMENTS_BAD;
  return withModule([&](Module& module) { return module.find(session, {objects, room}, *count); });
}

CK_RV findObjectsFinal(CK_SESSION_HANDLE session) {
  return withModule([&](Module& module) { return module.findFinal(session); });
}

CK_RV signInit(CK_SESSION_HANDLE session, CK_MECHANISM* mechanism, CK_OBJECT_HANDLE key) {
  if (mechanism == nullptr || !isArray(static_cast<const CK_BYTE*>(mechanism->pParameter), mechanism->ulParameterLen))
    return CKR_ARGUMENTS_BAD;
  return withModule([&](Module& module) { return module.signInit(session, *mechanism, key); });
}

CK_RV sign(CK_SESSION_HANDLE session, CK_BYTE* data, CK_ULONG size, CK_BYTE* signature, CK_ULONG* length) {
  if (length == nullptr || !isArray(data, size)) return CKR_ARGUMENTS_BAD;
  return withModule([&](Module& module) { return module.sign(session, ByteView(data, size), signature, *length); });
}

CK_RV signUpdate(CK_SESSION_HANDLE session, CK_BYTE* part, CK_ULONG size) {
  if (!isArray(part, size)) return CKR_ARGUMENTS_BAD;
  return withModule([&](Module& module) { return module.signUpdate(session, {part, size}); });
}

CK_RV signFinal(CK_SESSION_HANDLE session, CK_BYTE* signature, CK_ULONG* length) {
  if (length == nullptr) return CKR_ARGUMENTS_BAD;
  return withModule([&](Module& module) { return module.sign(session, std::nullopt, signature, *length); });
}

CK_RV notParallel(CK_SESSION_HANDLE) { return CKR_FUNCTION_NOT_PARALLEL; }

// The token says that it has no generator (no CKF_RNG); this is how the functions say it.
template <typename... Arguments>
CK_RV noGenerator(Arguments...) {
  return CKR_RANDOM_NO_RNG;
}

template <typename... Arguments>
CK_RV notSupported(Arguments...) {
  return CKR_FUNCTION_NOT_SUPPORTED;
}

CK_RV getFunctionList(CK_FUNCTION_LIST** list);

CK_FUNCTION_LIST makeList() {
  CK_FUNCTION_LIST f{};
  f.version = {CRYPTOKI_VERSION_MAJOR, CRYPTOKI_VERSION_MINOR};
  f.C_Initialize = initialize;
  f.C_Finalize = finalize;
  f.C_GetInfo = getInfo;
  f.C_GetFunctionList = getFunctionList;
  f.C_GetSlotList = getSlotList;
  f.C_GetSlotInfo = getSlotInfo;
  f.C_GetTokenInfo = getTokenInfo;
  f.C_WaitForSlotEvent = waitForSlotEvent;
  f.C_GetMechanismList = getMechanismList;
  f.C_GetMechanismInfo = getMechanismInfo;
  f.C_InitToken = notSupported;
  f.C_InitPIN = notSupported;
  f.C_SetPIN = notSupported;
  f.C_OpenSession = openSession;
  f.C_CloseSession = closeSession;
  f.C_CloseAllSessions = closeAllSessions;
  f.C_GetSessionInfo = getSessionInfo;
  f.C_GetOperationState = notSupported;
  f.C_SetOperationState = notSupported;
  f.C_Login = login;
  f.C_Logout = logout;
  f.C_CreateObject = notSupported;
  f.C_CopyObject = notSupported;
  f.C_DestroyObject = notSupported;
  f.C_GetObjectSize = getObjectSize;
  f.C_GetAttributeValue = getAttributeValue;
  f.C_SetAttributeValue = notSupported;
  f.C_FindObjectsInit = findObjectsInit;
  f.C_FindObjects = findObjects;
  f.C_FindObjectsFinal = findObjectsFinal;
  f.C_EncryptInit = notSupported;
  f.C_Encrypt = notSupported;
  f.C_EncryptUpdate = notSupported;
  f.C_EncryptFinal = notSupported;
  f.C_DecryptInit = notSupported;
  f.C_Decrypt = notSupported;
  f.C_DecryptUpdate = notSupported;
  f.C_DecryptFinal = notSupported;
  f.C_DigestInit = notSupported;
  f.C_Digest = notSupported;
  f.C_DigestUpdate = notSupported;
  f.C_DigestKey = notSupported;
  f.C_DigestFinal = notSupported;
  f.C_SignInit = signInit;
  f.C_Sign = sign;
  f.C_SignUpdate = signUpdate;
  f.C_SignFinal = signFinal;
  f.C_SignRecoverInit = notSupported;
  f.C_SignRecover = notSupported;
  f.C_VerifyInit = notSupported;
  f.C_Verify = notSupported;
  f.C_VerifyUpdate = notSupported;
  f.C_VerifyFinal = notSupported;
  f.C_VerifyRecoverInit = notSupported;
  f.C_VerifyRecover = notSupported;
  f.C_DigestEncryptUpdate = notSupported;
  f.C_DecryptDigestUpdate = notSupported;
  f.C_SignEncryptUpdate = notSupported;
  f.C_DecryptVerifyUpdate = notSupported;
  f.C_GenerateKey = notSupported;
  f.C_GenerateKeyPair = notSupported;
  f.C_WrapKey = notSupported;
  f.C_UnwrapKey = notSupported;
  f.C_DeriveKey = notSupported;
  f.C_SeedRandom = noGenerator;
  f.C_GenerateRandom = noGenerator;
  f.C_GetFunctionStatus = notParallel;
  f.C_CancelFunction = notParallel;
  return f;
}

CK_RV getFunctionList(CK_FUNCTION_LIST** list) {
  if (list == nullptr) return CKR_ARGUMENTS_BAD;
  static CK_FUNCTION_LIST functions = makeList();
  *list = &functions;
  return CKR_OK;
}

}  // namespace

AgentMaker& agentMaker() {
  static AgentMaker maker = [] {
    // In a set-user-ID program the environment belongs to somebody else.
    const char* folder = secure_getenv("WAYLEAVE_RUNTIME_DIR");
    return localapi::makeIdentityClient(std::string(folder != nullptr && *folder != '\0' ? folder : "/run/wayleave") + "/identity.sock");
  };
  return maker;
}

}  // namespace wayleave::pkcs11

extern "C" __attribute__((visibility("default"))) CK_RV C_GetFunctionList(CK_FUNCTION_LIST** list) {
  return wayleave::pkcs11::getFunctionList(list);
}
