#pragma once

// One open connection to the TPM: an ESYS context and the objects loaded through it.
//
// Everything here runs on the owner thread of a TpmDevice and nowhere else (an ESYS_CONTEXT is not thread-safe, and
// answers of interleaved commands would be taken for each other's).
//
// Object slots. Every TPM has at least three, and the kernel's resource manager grants a client no more than three. A
// persistent parent occupies one while a command uses it. So at most three objects are ours at any moment: the least
// recently used one is saved (TPM2_ContextSave) and flushed when room is needed, and comes back by TPM2_ContextLoad,
// which needs neither the parent nor its slot. A context that no longer loads (the TPM was reset) is dropped and the
// key loaded from its blob; only when *that* fails is the key lost.

#include <tss2/tss2_esys.h>

#include <functional>
#include <memory>
#include <vector>

#include "keys/private_key.h"
#include "keys/tpm/tpm_types.h"
#include "keys/tpm/transport.h"
#include "keys/tpm/tss_error.h"
#include "keys/tpm/wire.h"

namespace wayleave::keys::tpm {

template <typename T>
using EsysPtr = Handle<T, Esys_Free>;

struct SessionOptions {
  TransportOptions transport;
  bool persistStorageRoot = false;
  bool rsaAttestationKey = false;  // of new attestation keys
  std::optional<EkKind> endorsementKey;  // unset: the one with a certificate, RSA first
  // Waits out a delay; false when the owner thread must end. Injected, so that stopping interrupts it.
  std::function<bool(std::chrono::milliseconds)> pause;
};

class TpmSession {
 public:
  // Errors: those of openTransport, and those of the first commands.
  static TpmResult<std::unique_ptr<TpmSession>> open(const SessionOptions& options);
  TpmSession(const TpmSession&) = delete;
  ~TpmSession();

  TpmResult<TpmFacts> facts();
  TpmResult<StorageRoot> storageRoot();
  TpmResult<EndorsementKey> endorsementKey();

  TpmResult<KeyBlob> createKey(KeyType type, int bits);
  TpmResult<AttestationKey> createAttestationKey();
  TpmResult<Bytes> sign(const KeyBlob& key, SignatureScheme scheme, ByteView digest);
  TpmResult<Certification> certify(const KeyBlob& key, const KeyBlob& attestationKey, ByteView qualifyingData);
  TpmResult<Bytes> activateCredential(const KeyBlob& attestationKey, ByteView credential, ByteView secret);

  bool timedOut() const { return transport_->timedOut(); }

 private:
  // An object we loaded or may load again: a key under its parent, or a primary.
  struct Object {
    Bytes name;
    ESYS_TR handle = ESYS_TR_NONE;  // ESYS_TR_NONE: not loaded now
    std::unique_ptr<TPMS_CONTEXT> saved;
    uint64_t lastUse = 0;
    int pins = 0;  // in use by the operation under way: must stay loaded
  };
  // Keeps an object loaded for the length of an operation.
  class Use {
   public:
    explicit Use(Object& object) : object_(&object) { ++object.pins; }
    Use(Use&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
    Use& operator=(Use&&) = delete;
    ~Use() {
      if (object_) --object_->pins;
    }
    ESYS_TR handle() const { return object_->handle; }
    const Bytes& name() const { return object_->name; }

   private:
    Object* object_;
  };
  // A transient primary or a persistent key.
  struct Parent {
    ESYS_TR handle = ESYS_TR_NONE;
    std::optional<Use> transient;
  };
  struct Created {
    KeyBlob blob;
    TPM2B_CREATION_DATA creationData{};
    TPM2B_DIGEST creationHash{};
    TPMT_TK_CREATION ticket{};
  };

  TpmSession(std::unique_ptr<Transport> transport, SessionOptions options)
      : transport_(std::move(transport)), options_(std::move(options)) {}

  struct Attempts {
    int retries = 0;
    bool freed = false, reloaded = false, restarted = false;
  };
  // Does what a failure asks for: waits, makes room, forgets stale objects. False: report it.
  bool recover(const TpmFailure& failure, Attempts& attempts);
  // Runs `command` until it succeeds or nothing can be done about its failure. It must take its objects by use()
  // itself.
  template <typename T, typename Command>
  TpmResult<T> persevere(const Command& command) {
    Attempts attempts;
    while (true) {
      TpmResult<T> result = command();
      if (result || !recover(result.error(), attempts)) return result;
    }
  }

  TpmStatus start();
  TpmStatus flushLeftovers(TPM2_HANDLE first);
  TpmResult<TPMU_CAPABILITIES> capability(TPM2_CAP which, uint32_t property, uint32_t count);

  TpmResult<Use> use(const KeyBlob& key);
  TpmResult<Use> usePrimary(ESYS_TR hierarchy, const TPM2B_PUBLIC& shape, std::string_view what);
  TpmResult<Parent> parentFor(uint32_t handle);
  // Room for `count` more objects. Flushes only what nobody uses now.
  void makeRoom(size_t count);
  void evict(Object& object);
  void evictAll();
  void forgetLoaded();
  Object* find(ByteView name);
  Object& remember(Bytes name, ESYS_TR handle);
  bool loadSaved(Object& object);

  TpmResult<ESYS_TR> persistent(uint32_t handle, std::string_view what);
  TpmResult<Created> create(const TPM2B_PUBLIC& shape, std::string_view what);
  TpmResult<Bytes> readNv(uint32_t index);

  struct FoundEk {
    ESYS_TR persistent = ESYS_TR_NONE;  // ours to close; none: a primary to be made from `kind`
    std::optional<EkKind> primary;
    TPM2B_PUBLIC area{};
  };
  TpmResult<FoundEk> findEk();
  TpmResult<FoundEk> ekOfKind(EkKind kind);
  TpmResult<ESYS_TR> policySessionFor(const TPMT_PUBLIC& ek);

  std::unique_ptr<Transport> transport_;
  const SessionOptions options_;
  ESYS_CONTEXT* esys_ = nullptr;
  size_t slots_ = 3;
  uint64_t uses_ = 0;
  std::vector<std::unique_ptr<Object>> objects_;
  Bytes ownerPrimary_, endorsementPrimary_;  // Names, once made
};

}  // namespace wayleave::keys::tpm
