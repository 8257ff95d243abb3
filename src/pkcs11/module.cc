#include "pkcs11/module.h"

#include <algorithm>
#include <cstring>
#include <string_view>

namespace wayleave::pkcs11 {
namespace {

// Far more than any program opens; a program that leaks sessions learns it here and not from the out-of-memory killer.
constexpr size_t kMostSessions = 1024;

struct SlotText {
  std::string_view description;  // 64 characters
  std::string_view label;        // 32
  std::string_view serial;       // 16
};
constexpr std::array<SlotText, kSlots> kTexts{{
    {"Wayleave identities, file keychain", "Wayleave file keychain", "file"},
    {"Wayleave identities, data protection keychain", "Wayleave data protection", "data-protection"},
}};

template <size_t N>
void pad(unsigned char (&field)[N], std::string_view text) {
  std::memset(field, ' ', N);
  std::memcpy(field, text.data(), std::min(N, text.size()));
}

}  // namespace

Module::Module(std::unique_ptr<localapi::IdentityAgent> agent)
    : agent_(std::move(agent)), catalogue_(*agent_, clock_), signer_(*agent_, clock_) {}

std::vector<CK_SLOT_ID> Module::slots(bool withToken) {
  if (withToken && !catalogue_.look()->present) return {};
  return {kFileSlot, kDataProtectionSlot};
}

CK_RV Module::slotInfo(CK_SLOT_ID slot, CK_SLOT_INFO& out) {
  if (slot >= kSlots) return CKR_SLOT_ID_INVALID;
  out = {};
  pad(out.slotDescription, kTexts[slot].description);
  pad(out.manufacturerID, "Wayleave");
  // The token comes and goes with identityd.
  out.flags = CKF_REMOVABLE_DEVICE | (catalogue_.look()->present ? CKF_TOKEN_PRESENT : 0);
  return CKR_OK;
}

CK_RV Module::tokenInfo(CK_SLOT_ID slot, CK_TOKEN_INFO& out) {
  if (slot >= kSlots) return CKR_SLOT_ID_INVALID;
  if (!catalogue_.look()->present) return CKR_TOKEN_NOT_PRESENT;
  out = {};
  pad(out.label, kTexts[slot].label);
  pad(out.manufacturerID, "Wayleave");
  pad(out.model, "keychain");
  pad(out.serialNumber, kTexts[slot].serial);
  out.flags = CKF_TOKEN_INITIALIZED | CKF_WRITE_PROTECTED;
  const std::lock_guard lock(mutex_);
  const auto open = [&](bool writable) {
    return static_cast<CK_ULONG>(std::ranges::count_if(sessions_, [&](const auto& entry) {
      return entry.second->slot == slot && (!writable || (entry.second->flags & CKF_RW_SESSION) != 0);
    }));
  };
  out.ulMaxSessionCount = out.ulMaxRwSessionCount = kMostSessions;
  out.ulSessionCount = open(false);
  out.ulRwSessionCount = open(true);
  out.ulTotalPublicMemory = out.ulFreePublicMemory = CK_UNAVAILABLE_INFORMATION;
  out.ulTotalPrivateMemory = out.ulFreePrivateMemory = CK_UNAVAILABLE_INFORMATION;
  pad(out.utcTime, "");
  return CKR_OK;
}

// A read/write session is opened, too, though nothing can be written: OpenSSH asks for one and never writes, and
// CKR_TOKEN_WRITE_PROTECTED would only keep it out.
CK_RV Module::openSession(CK_SLOT_ID slot, CK_FLAGS flags, CK_SESSION_HANDLE& out) {
  if (slot >= kSlots) return CKR_SLOT_ID_INVALID;
  if ((flags & CKF_SERIAL_SESSION) == 0) return CKR_SESSION_PARALLEL_NOT_SUPPORTED;
  if (!catalogue_.look()->present) return CKR_TOKEN_NOT_PRESENT;
  auto made = std::make_shared<Session>();
  made->slot = slot;
  made->flags = flags & (CKF_SERIAL_SESSION | CKF_RW_SESSION);
  const std::lock_guard lock(mutex_);
  if (sessions_.size() >= kMostSessions) return CKR_SESSION_COUNT;
  out = nextSession_++;
  sessions_.emplace(out, std::move(made));
  return CKR_OK;
}

std::shared_ptr<Module::Session> Module::session(CK_SESSION_HANDLE handle) const {
  const std::lock_guard lock(mutex_);
  const auto found = sessions_.find(handle);
  return found == sessions_.end() ? nullptr : found->second;
}

// With mutex_ held: a user is logged in for as long as a session is open.
void Module::forgetLogin(CK_SLOT_ID slot) {
  const bool used = std::ranges::any_of(sessions_, [&](const auto& entry) { return entry.second->slot == slot; });
  if (!used) loggedIn_[slot] = false;
}

CK_RV Module::closeSession(CK_SESSION_HANDLE handle) {
  const std::lock_guard lock(mutex_);
  const auto found = sessions_.find(handle);
  if (found == sessions_.end()) return CKR_SESSION_HANDLE_INVALID;
  const CK_SLOT_ID slot = found->second->slot;
  sessions_.erase(found);
  forgetLogin(slot);
  return CKR_OK;
}

CK_RV Module::closeAllSessions(CK_SLOT_ID slot) {
  if (slot >= kSlots) return CKR_SLOT_ID_INVALID;
  const std::lock_guard lock(mutex_);
  std::erase_if(sessions_, [&](const auto& entry) { return entry.second->slot == slot; });
  forgetLogin(slot);
  return CKR_OK;
}

CK_RV Module::sessionInfo(CK_SESSION_HANDLE handle, CK_SESSION_INFO& out) {
  const std::shared_ptr<Session> opened = session(handle);
  if (!opened) return CKR_SESSION_HANDLE_INVALID;
  const bool writable = (opened->flags & CKF_RW_SESSION) != 0;
  const std::lock_guard lock(mutex_);
  const bool user = loggedIn_[opened->slot];
  out = {};
  out.slotID = opened->slot;
  out.flags = opened->flags;
  out.state = writable ? (user ? CKS_RW_USER_FUNCTIONS : CKS_RW_PUBLIC_SESSION) : (user ? CKS_RO_USER_FUNCTIONS : CKS_RO_PUBLIC_SESSION);
  return CKR_OK;
}

// There is nothing to log in to: identityd knows the program, and a PIN would prove nothing more. Programs that insist on it
// get their way with any PIN; it changes what C_GetSessionInfo says and nothing else.
CK_RV Module::login(CK_SESSION_HANDLE handle, CK_USER_TYPE user) {
  const std::shared_ptr<Session> opened = session(handle);
  if (!opened) return CKR_SESSION_HANDLE_INVALID;
  if (user != CKU_USER) return CKR_USER_TYPE_INVALID;
  const std::lock_guard lock(mutex_);
  return std::exchange(loggedIn_[opened->slot], true) ? CKR_USER_ALREADY_LOGGED_IN : CKR_OK;
}

CK_RV Module::logout(CK_SESSION_HANDLE handle) {
  const std::shared_ptr<Session> opened = session(handle);
  if (!opened) return CKR_SESSION_HANDLE_INVALID;
  const std::lock_guard lock(mutex_);
  return std::exchange(loggedIn_[opened->slot], false) ? CKR_OK : CKR_USER_NOT_LOGGED_IN;
}

std::shared_ptr<const Object> Module::object(const Session& opened, CK_OBJECT_HANDLE handle) const {
  const std::shared_ptr<const Snapshot> snapshot = catalogue_.last();
  const auto found = snapshot->objects.find(handle);
  return found == snapshot->objects.end() || found->second->slot != opened.slot ? nullptr : found->second;
}

CK_RV Module::objectSize(CK_SESSION_HANDLE handle, CK_OBJECT_HANDLE which, CK_ULONG& out) {
  const std::shared_ptr<Session> opened = session(handle);
  if (!opened) return CKR_SESSION_HANDLE_INVALID;
  const std::shared_ptr<const Object> found = object(*opened, which);
  if (!found) return CKR_OBJECT_HANDLE_INVALID;
  out = found->attributes.size();
  return CKR_OK;
}

CK_RV Module::attributes(CK_SESSION_HANDLE handle, CK_OBJECT_HANDLE which, std::span<CK_ATTRIBUTE> wanted) {
  const std::shared_ptr<Session> opened = session(handle);
  if (!opened) return CKR_SESSION_HANDLE_INVALID;
  const std::shared_ptr<const Object> found = object(*opened, which);
  if (!found) return CKR_OBJECT_HANDLE_INVALID;
  return found->attributes.read(wanted);
}

CK_RV Module::findInit(CK_SESSION_HANDLE handle, std::span<const CK_ATTRIBUTE> wanted) {
  const std::shared_ptr<Session> opened = session(handle);
  if (!opened) return CKR_SESSION_HANDLE_INVALID;
  const std::lock_guard lock(opened->mutex);
  if (opened->found) return CKR_OPERATION_ACTIVE;
  const std::shared_ptr<const Snapshot> snapshot = catalogue_.look();
  if (!snapshot->present) return CKR_DEVICE_REMOVED;
  std::vector<CK_OBJECT_HANDLE> found;
  for (const auto& [id, candidate] : snapshot->objects)
    if (candidate->slot == opened->slot && candidate->attributes.matches(wanted)) found.push_back(id);
  opened->found = std::move(found);
  opened->given = 0;
  return CKR_OK;
}

CK_RV Module::find(CK_SESSION_HANDLE handle, std::span<CK_OBJECT_HANDLE> out, CK_ULONG& count) {
  const std::shared_ptr<Session> opened = session(handle);
  if (!opened) return CKR_SESSION_HANDLE_INVALID;
  const std::lock_guard lock(opened->mutex);
  if (!opened->found) return CKR_OPERATION_NOT_INITIALIZED;
  const size_t now = std::min(out.size(), opened->found->size() - opened->given);
  std::copy_n(opened->found->begin() + static_cast<ptrdiff_t>(opened->given), now, out.begin());
  opened->given += now;
  count = now;
  return CKR_OK;
}

CK_RV Module::findFinal(CK_SESSION_HANDLE handle) {
  const std::shared_ptr<Session> opened = session(handle);
  if (!opened) return CKR_SESSION_HANDLE_INVALID;
  const std::lock_guard lock(opened->mutex);
  if (!opened->found) return CKR_OPERATION_NOT_INITIALIZED;
  opened->found.reset();
  return CKR_OK;
}

CK_RV Module::signInit(CK_SESSION_HANDLE handle, const CK_MECHANISM& mechanism, CK_OBJECT_HANDLE which) {
  const std::shared_ptr<Session> opened = session(handle);
  if (!opened) return CKR_SESSION_HANDLE_INVALID;
  const std::lock_guard lock(opened->mutex);
  if (opened->signing) return CKR_OPERATION_ACTIVE;
  std::shared_ptr<const Object> key = object(*opened, which);
  if (!key) return CKR_KEY_HANDLE_INVALID;
  Answer<SigningOperation> begun = SigningOperation::begin(mechanism, std::move(key));
  if (!begun) return begun.error();
  opened->signing = std::move(*begun);
  opened->inParts = false;
  return CKR_OK;
}

CK_RV Module::signUpdate(CK_SESSION_HANDLE handle, ByteView part) {
  const std::shared_ptr<Session> opened = session(handle);
  if (!opened) return CKR_SESSION_HANDLE_INVALID;
  const std::lock_guard lock(opened->mutex);
  if (!opened->signing) return CKR_OPERATION_NOT_INITIALIZED;
  const CK_RV code = opened->signing->add(part);
  opened->inParts = true;
  if (code != CKR_OK) opened->signing.reset();
  return code;
}

CK_RV Module::sign(CK_SESSION_HANDLE handle, std::optional<ByteView> data, CK_BYTE* signature, CK_ULONG& length) {
  const std::shared_ptr<Session> opened = session(handle);
  if (!opened) return CKR_SESSION_HANDLE_INVALID;
  const std::lock_guard lock(opened->mutex);
  if (!opened->signing) return CKR_OPERATION_NOT_INITIALIZED;
  if (data && opened->inParts) {  // C_Sign cannot end what C_SignUpdate began
    opened->signing.reset();
    return CKR_OPERATION_ACTIVE;
  }
  // Neither question ends the operation, and neither costs a signature.
  const size_t needed = opened->signing->signatureBytes();
  const CK_ULONG room = std::exchange(length, needed);
  if (signature == nullptr) return CKR_OK;
  if (room < needed) return CKR_BUFFER_TOO_SMALL;

  SigningOperation operation = std::move(*opened->signing);
  opened->signing.reset();
  if (data)
    if (const CK_RV code = operation.add(*data); code != CKR_OK) return code;
  const Answer<Bytes> made = signer_.sign(std::move(operation));
  if (!made) return made.error();
  std::ranges::copy(*made, signature);
  length = made->size();
  return CKR_OK;
}

}  // namespace wayleave::pkcs11
