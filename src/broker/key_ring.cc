#include "broker/key_ring.h"

#include <fmt/format.h>

#include <chrono>

#include "keys/software_key.h"
#include "keys/tpm/tpm_key.h"

namespace wayleave::broker {
namespace {

// Opened keys kept at hand; a machine has a few identities. Beyond this the ring starts anew.
constexpr size_t kMostOpen = 256;

}  // namespace

Result<std::shared_ptr<keys::PrivateKey>> MachineKeys::open(const keychain::KeyRecord& record) {
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = open_.find(record.id); found != open_.end()) return found->second;
  }
  std::shared_ptr<keys::PrivateKey> key;
  switch (record.kind) {
    case keys::KeyKind::Software: {
      if (!sealer_) return withContext(sealer_.error(), "the sealed key cannot be opened");
      Result<Secret> clear = sealer_->unseal(record.blob, record.id);
      if (!clear) return propagate(clear.error());
      Result<std::unique_ptr<keys::SoftwareKey>> opened = keys::SoftwareKey::fromPkcs8(*clear);
      if (!opened) return propagate(opened.error());
      key = std::move(*opened);
      break;
    }
    case keys::KeyKind::Tpm: {
      if (!tpm_)
        return fail(Reason::IdentityUnavailable, "the key lives in a TPM, and this daemon was started without one",
                    "start wayleave-identityd with --tcti");
      Result<std::unique_ptr<keys::tpm::TpmKey>> opened = keys::tpm::TpmKey::fromPem(tpm_, asText(record.blob));
      if (!opened) return propagate(opened.error());
      key = std::move(*opened);
      break;
    }
  }
  const std::lock_guard lock(mutex_);
  if (open_.size() >= kMostOpen) open_.clear();
  return open_.try_emplace(record.id, std::move(key)).first->second;
}

void MachineKeys::forget(std::string_view keyId) {
  const std::lock_guard lock(mutex_);
  if (const auto found = open_.find(keyId); found != open_.end()) open_.erase(found);
}

Result<MadeKey> MachineKeys::import(std::string_view keyId, const Secret& pkcs8) {
  if (!sealer_) return withContext(sealer_.error(), "the key cannot be sealed");
  const Result<std::unique_ptr<keys::SoftwareKey>> key = keys::SoftwareKey::fromPkcs8(pkcs8);
  if (!key) return propagate(key.error());
  Result<Bytes> blob = sealer_->seal(pkcs8, keyId);
  if (!blob) return propagate(blob.error());
  return MadeKey{keys::KeyKind::Software, (*key)->publicKey().spki, std::move(*blob)};
}

Result<MadeKey> MachineKeys::create(std::string_view keyId, keys::KeyType type, int bits, bool hardwareBound) {
  if (hardwareBound) {
    const Result<keys::tpm::TpmDevice*> tpm = device();
    if (!tpm) return withContext(tpm.error(), "a hardware-bound key cannot be made");
    // A key under another storage root than the recorded one would confuse "lost" with "new".
    if (Status known = recordStorageRoot(); !known) return propagate(known.error());
    // A TPM may need most of a minute for an RSA key.
    Result<std::unique_ptr<keys::tpm::TpmKey>> key =
        keys::tpm::TpmKey::create(tpm_, type, bits, clock_.now() + std::chrono::minutes{2});
    note(key ? Status{} : propagate(key.error()));
    if (!key) return withContext(key.error(), "a hardware-bound key cannot be made");
    const Result<std::string> pem = (*key)->pem();
    if (!pem) return propagate(pem.error());
    return MadeKey{keys::KeyKind::Tpm, (*key)->publicKey().spki, toBytes(*pem)};
  }
  if (!sealer_) return withContext(sealer_.error(), "the key cannot be sealed");
  const Result<std::unique_ptr<keys::SoftwareKey>> key = keys::SoftwareKey::generate(type, bits);
  if (!key) return propagate(key.error());
  const Result<Secret> pkcs8 = (*key)->toPkcs8();
  if (!pkcs8) return propagate(pkcs8.error());
  return import(keyId, *pkcs8);
}

}  // namespace wayleave::broker
