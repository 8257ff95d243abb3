#include "keys/tpm/tpm_session.h"

#include <fmt/format.h>

#include <algorithm>

namespace wayleave::keys::tpm {
namespace {

using namespace std::chrono_literals;

// The kernel's resource manager gives a client three (drivers/char/tpm: context_tbl[3]); more would not help one key at
// a time.
constexpr size_t kMostSlots = 3;
constexpr size_t kLeastSlots = 2;  // a parent and its child: nothing works with fewer
// Saved contexts kept for keys that are not loaded; about 2 KiB each.
constexpr size_t kMostObjects = 64;
constexpr int kMostRetries = 8;  // of a TPM that asks for patience: 20 + 40 + … + 160 ms

}  // namespace

TpmResult<std::unique_ptr<TpmSession>> TpmSession::open(const SessionOptions& options) {
  auto transport = openTransport(options.transport);
  if (!transport) return passOn(transport.error());
  std::unique_ptr<TpmSession> session(new TpmSession(std::move(*transport), options));
  if (const TSS2_RC code = Esys_Initialize(&session->esys_, session->transport_->context(), nullptr); code != 0)
    return failTss(code, "open the TPM");
  if (auto started = session->start(); !started) return passOn(started.error());
  return session;
}

TpmSession::~TpmSession() {
  // Nothing is flushed here: the kernel flushes a closed client's objects, and without it the next start does. A dead
  // TPM must not delay us.
  if (esys_) Esys_Finalize(&esys_);
}

TpmStatus TpmSession::start() {
  if (transport_->direct()) {
    // INITIALIZE means somebody has already started it: the usual case.
    const TSS2_RC code = Esys_Startup(esys_, TPM2_SU_CLEAR);
    if (code != TSS2_RC_SUCCESS && code != TPM2_RC_INITIALIZE) return failTss(code, "start the TPM");
    for (const TPM2_HANDLE first : {TPM2_TRANSIENT_FIRST, TPM2_LOADED_SESSION_FIRST})
      if (auto flushed = flushLeftovers(first); !flushed) return flushed;
  }
  auto available = capability(TPM2_CAP_TPM_PROPERTIES, TPM2_PT_HR_TRANSIENT_AVAIL, 1);
  if (!available) return passOn(available.error());
  if (available->tpmProperties.count == 1)
    slots_ = std::clamp<size_t>(available->tpmProperties.tpmProperty[0].value, kLeastSlots, kMostSlots);
  return {};
}

TpmStatus TpmSession::flushLeftovers(TPM2_HANDLE first) {
  auto handles = capability(TPM2_CAP_HANDLES, first, TPM2_MAX_CAP_HANDLES);
  if (!handles) return passOn(handles.error());
  for (uint32_t i = 0; i < handles->handles.count; ++i) {
    ESYS_TR object = ESYS_TR_NONE;
    const TPM2_HANDLE handle = handles->handles.handle[i];
    if (Esys_TR_FromTPMPublic(esys_, handle, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &object) != TSS2_RC_SUCCESS)
      continue;  // gone meanwhile
    if (Esys_FlushContext(esys_, object) != TSS2_RC_SUCCESS) Esys_TR_Close(esys_, &object);
  }
  return {};
}

TpmResult<TPMU_CAPABILITIES> TpmSession::capability(TPM2_CAP which, uint32_t property, uint32_t count) {
  TPMI_YES_NO more = 0;
  TPMS_CAPABILITY_DATA* raw = nullptr;
  const TSS2_RC code =
      Esys_GetCapability(esys_, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, which, property, count, &more, &raw);
  const EsysPtr<TPMS_CAPABILITY_DATA> data(raw);
  if (code != TSS2_RC_SUCCESS) return failTss(code, "ask the TPM what it can do");
  return data->data;
}

// ---- objects in slots ----

void TpmSession::evict(Object& object) {
  if (!object.saved) {
    TPMS_CONTEXT* raw = nullptr;
    if (Esys_ContextSave(esys_, object.handle, &raw) == TSS2_RC_SUCCESS) {
      const EsysPtr<TPMS_CONTEXT> context(raw);
      object.saved = std::make_unique<TPMS_CONTEXT>(*context);
    }
  }
  // A flush that fails leaves the handle to the resource manager or to FreeSlots; our record must go either way.
  if (Esys_FlushContext(esys_, object.handle) != TSS2_RC_SUCCESS) Esys_TR_Close(esys_, &object.handle);
  object.handle = ESYS_TR_NONE;
}

void TpmSession::makeRoom(size_t count) {
  while (true) {
    size_t loaded = 0;
    Object* oldest = nullptr;
    for (const auto& object : objects_) {
      if (object->handle == ESYS_TR_NONE) continue;
      ++loaded;
      if (object->pins == 0 && (!oldest || object->lastUse < oldest->lastUse)) oldest = object.get();
    }
    if (loaded + count <= slots_ || !oldest) return;
    evict(*oldest);
  }
}

void TpmSession::evictAll() {
  for (const auto& object : objects_)
    if (object->handle != ESYS_TR_NONE && object->pins == 0) evict(*object);
}

void TpmSession::forgetLoaded() {
  for (const auto& object : objects_) {
    if (object->handle == ESYS_TR_NONE || object->pins > 0) continue;
    Esys_TR_Close(esys_, &object->handle);
    object->handle = ESYS_TR_NONE;
  }
}

TpmSession::Object* TpmSession::find(ByteView name) {
  for (const auto& object : objects_)
    if (std::ranges::equal(object->name, name)) return object.get();
  return nullptr;
}

TpmSession::Object& TpmSession::remember(Bytes name, ESYS_TR handle) {
  if (Object* known = find(name)) {  // its saved context went stale
    known->handle = handle;
    known->lastUse = ++uses_;
    return *known;
  }
  if (objects_.size() >= kMostObjects) {
    const auto unloaded = [](const auto& object) { return object->handle == ESYS_TR_NONE && object->pins == 0; };
    auto oldest = objects_.end();
    for (auto it = objects_.begin(); it != objects_.end(); ++it)
      if (unloaded(*it) && (oldest == objects_.end() || (*it)->lastUse < (*oldest)->lastUse)) oldest = it;
    if (oldest != objects_.end()) objects_.erase(oldest);
  }
  auto object = std::make_unique<Object>();
  object->name = std::move(name);
  object->handle = handle;
  object->lastUse = ++uses_;
  objects_.push_back(std::move(object));
  return *objects_.back();
}

bool TpmSession::loadSaved(Object& object) {
  object.lastUse = ++uses_;
  if (object.handle != ESYS_TR_NONE) return true;
  if (!object.saved) return false;
  makeRoom(1);
  if (Esys_ContextLoad(esys_, object.saved.get(), &object.handle) == TSS2_RC_SUCCESS) return true;
  object.handle = ESYS_TR_NONE;
  object.saved.reset();  // the TPM was reset or cleared since; the blob decides
  return false;
}

TpmResult<TpmSession::Use> TpmSession::use(const KeyBlob& key) {
  auto name = nameOf(key.publicArea);
  if (!name) return passOn(name.error());
  if (Object* object = find(*name); object && loadSaved(*object)) return Use(*object);

  auto area = parsePublicArea(key.publicArea);
  if (!area) return passOn(area.error());
  TPM2B_PUBLIC publicHalf{};
  publicHalf.publicArea = *area;
  auto privateHalf = sizedBuffer<TPM2B_PRIVATE>(key.privateBlob, "a stored key's private half");
  if (!privateHalf) return passOn(privateHalf.error());

  auto parent = parentFor(key.parent);
  if (!parent) return passOn(parent.error());
  makeRoom(parent->transient ? 1 : 2);  // a persistent parent takes a slot while it is used
  ESYS_TR handle = ESYS_TR_NONE;
  const TSS2_RC code = Esys_Load(esys_, parent->handle, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &*privateHalf,
                                 &publicHalf, &handle);
  if (!parent->transient) Esys_TR_Close(esys_, &parent->handle);
  if (code != TSS2_RC_SUCCESS) return failTss(code, "load a key into the TPM");
  return Use(remember(std::move(*name), handle));
}

TpmResult<TpmSession::Use> TpmSession::usePrimary(ESYS_TR hierarchy, const TPM2B_PUBLIC& shape, std::string_view what) {
  Bytes& knownName = hierarchy == ESYS_TR_RH_OWNER ? ownerPrimary_ : endorsementPrimary_;
  if (Object* object = find(knownName); object && loadSaved(*object)) return Use(*object);

  makeRoom(1);
  const TPM2B_SENSITIVE_CREATE noSecret{};
  const TPM2B_DATA noData{};
  const TPML_PCR_SELECTION noPcrs{};
  ESYS_TR handle = ESYS_TR_NONE;
  TPM2B_PUBLIC* raw = nullptr;
  const TSS2_RC code = Esys_CreatePrimary(esys_, hierarchy, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &noSecret,
                                          &shape, &noData, &noPcrs, &handle, &raw, nullptr, nullptr, nullptr);
  const EsysPtr<TPM2B_PUBLIC> area(raw);
  if (code != TSS2_RC_SUCCESS) return failTss(code, what);
  auto name = nameOf(publicAreaBytes(area->publicArea));
  if (!name) return passOn(name.error());
  knownName = *name;
  return Use(remember(std::move(*name), handle));
}

TpmResult<ESYS_TR> TpmSession::persistent(uint32_t handle, std::string_view what) {
  ESYS_TR object = ESYS_TR_NONE;
  makeRoom(1);  // reading its public area loads it
  const TSS2_RC code = Esys_TR_FromTPMPublic(esys_, handle, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &object);
  if (code != TSS2_RC_SUCCESS) return failTss(code, what);
  return object;
}

TpmResult<TpmSession::Parent> TpmSession::parentFor(uint32_t handle) {
  if (handle == kOwnerHierarchy) {
    auto primary = usePrimary(ESYS_TR_RH_OWNER, storageRootTemplate(), "derive the TPM's storage root key");
    if (!primary) return passOn(primary.error());
    Parent parent;
    parent.handle = primary->handle();
    parent.transient.emplace(std::move(*primary));
    return parent;
  }
  auto object = persistent(handle, fmt::format("find the storage root key 0x{:x}", handle));
  if (!object) return passOn(object.error());
  Parent parent;
  parent.handle = *object;
  return parent;
}

// ---- running commands ----

bool TpmSession::recover(const TpmFailure& failure, Attempts& attempts) {
  switch (failure.reaction) {
    case Reaction::Report:
    case Reaction::Reopen: return false;
    case Reaction::RetryLater: return ++attempts.retries <= kMostRetries && options_.pause(20ms * attempts.retries);
    case Reaction::FreeSlots:
      if (std::exchange(attempts.freed, true)) return false;
      evictAll();
      // What is left is not ours: of a crashed run, or of another user of a TPM that has no resource manager.
      return !transport_->direct() || flushLeftovers(TPM2_TRANSIENT_FIRST).has_value();
    case Reaction::ReloadObjects:
      if (std::exchange(attempts.reloaded, true)) return false;
      forgetLoaded();
      return true;
    case Reaction::StartTpm:
      if (std::exchange(attempts.restarted, true) || !transport_->direct()) return false;
      forgetLoaded();
      return Esys_Startup(esys_, TPM2_SU_CLEAR) == TSS2_RC_SUCCESS;
  }
  return false;
}

// ---- storage root and keys ----

TpmResult<StorageRoot> TpmSession::storageRoot() {
  return persevere<StorageRoot>([&]() -> TpmResult<StorageRoot> {
    auto object = persistent(kPersistentSrk, "find the storage root key");
    if (!object && object.error().error.reason == Reason::IdentityLost && options_.persistStorageRoot) {
      auto primary = usePrimary(ESYS_TR_RH_OWNER, storageRootTemplate(), "create the TPM's storage root key");
      if (!primary) return passOn(primary.error());
      ESYS_TR made = ESYS_TR_NONE;
      const TSS2_RC code = Esys_EvictControl(esys_, ESYS_TR_RH_OWNER, primary->handle(), ESYS_TR_PASSWORD, ESYS_TR_NONE,
                                             ESYS_TR_NONE, kPersistentSrk, &made);
      if (code != TSS2_RC_SUCCESS) return failTss(code, "keep the storage root key in the TPM");
      object = made;
    }
    if (object) {
      TPM2B_NAME* raw = nullptr;
      const TSS2_RC code = Esys_TR_GetName(esys_, *object, &raw);
      const EsysPtr<TPM2B_NAME> name(raw);
      Esys_TR_Close(esys_, &*object);
      if (code != TSS2_RC_SUCCESS) return failTss(code, "name of the storage root key");
      return StorageRoot{kPersistentSrk, toBytes(ByteView(name->name, name->size))};
    }
    // Only "not there" leads on; a TPM that cannot answer must not end in a second root.
    if (object.error().error.reason != Reason::IdentityLost) return passOn(object.error());
    auto primary = usePrimary(ESYS_TR_RH_OWNER, storageRootTemplate(), "derive the TPM's storage root key");
    if (!primary) return passOn(primary.error());
    return StorageRoot{kOwnerHierarchy, primary->name()};
  });
}

TpmResult<TpmSession::Created> TpmSession::create(const TPM2B_PUBLIC& shape, std::string_view what) {
  auto root = storageRoot();
  if (!root) return passOn(root.error());
  auto parent = parentFor(root->handle);
  if (!parent) return passOn(parent.error());
  makeRoom(parent->transient ? 1 : 2);
  const TPM2B_SENSITIVE_CREATE noSecret{};
  const TPM2B_DATA noData{};
  const TPML_PCR_SELECTION noPcrs{};
  TPM2B_PRIVATE* rawPrivate = nullptr;
  TPM2B_PUBLIC* rawPublic = nullptr;
  TPM2B_CREATION_DATA* rawData = nullptr;
  TPM2B_DIGEST* rawHash = nullptr;
  TPMT_TK_CREATION* rawTicket = nullptr;
  const TSS2_RC code = Esys_Create(esys_, parent->handle, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &noSecret,
                                   &shape, &noData, &noPcrs, &rawPrivate, &rawPublic, &rawData, &rawHash, &rawTicket);
  if (!parent->transient) Esys_TR_Close(esys_, &parent->handle);
  const EsysPtr<TPM2B_PRIVATE> privateHalf(rawPrivate);
  const EsysPtr<TPM2B_PUBLIC> publicHalf(rawPublic);
  const EsysPtr<TPM2B_CREATION_DATA> data(rawData);
  const EsysPtr<TPM2B_DIGEST> hash(rawHash);
  const EsysPtr<TPMT_TK_CREATION> ticket(rawTicket);
  if (code != TSS2_RC_SUCCESS) return failTss(code, what);
  return Created{KeyBlob{root->handle, publicAreaBytes(publicHalf->publicArea), toBytes(viewOf(*privateHalf))}, *data,
                 *hash, *ticket};
}

TpmResult<KeyBlob> TpmSession::createKey(KeyType type, int bits) {
  auto shape = deviceKeyTemplate(type, bits);
  if (!shape) return passOn(shape.error());
  return persevere<KeyBlob>([&]() -> TpmResult<KeyBlob> {
    auto created = create(*shape, fmt::format("create a TPM key ({})", text(type)));
    if (!created) return passOn(created.error());
    return std::move(created->blob);
  });
}

TpmResult<AttestationKey> TpmSession::createAttestationKey() {
  return persevere<AttestationKey>([&]() -> TpmResult<AttestationKey> {
    auto created = create(attestationKeyTemplate(options_.rsaAttestationKey), "create the attestation key");
    if (!created) return passOn(created.error());
    auto key = use(created->blob);
    if (!key) return passOn(key.error());

    const TPM2B_DATA noData{};
    TPMT_SIG_SCHEME scheme{};
    scheme.scheme = TPM2_ALG_NULL;  // the key's own: a restricted key takes no other
    TPM2B_ATTEST* rawAttest = nullptr;
    TPMT_SIGNATURE* rawSignature = nullptr;
    const TSS2_RC code =
        Esys_CertifyCreation(esys_, key->handle(), key->handle(), ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &noData,
                             &created->creationHash, &scheme, &created->ticket, &rawAttest, &rawSignature);
    const EsysPtr<TPM2B_ATTEST> attest(rawAttest);
    const EsysPtr<TPMT_SIGNATURE> signature(rawSignature);
    if (code != TSS2_RC_SUCCESS) return failTss(code, "certify the creation of the attestation key");
    AttestationKey ak;
    ak.key = std::move(created->blob);
    ak.createData = marshal<Tss2_MU_TPMS_CREATION_DATA_Marshal>(created->creationData.creationData);
    ak.createAttestation = toBytes(ByteView(attest->attestationData, attest->size));
    ak.createSignature = marshal<Tss2_MU_TPMT_SIGNATURE_Marshal>(*signature);
    return ak;
  });
}

namespace {

// Which TPM scheme makes this signature.
TPMT_SIG_SCHEME tpmScheme(SignatureScheme scheme) {
  TPMT_SIG_SCHEME out{};
  const auto set = [&](TPMI_ALG_SIG_SCHEME algorithm, TPMI_ALG_HASH hash) {
    out.scheme = algorithm;
    out.details.any.hashAlg = hash;
  };
  switch (scheme) {
    case SignatureScheme::EcdsaSecp256r1Sha256:
    case SignatureScheme::EcdsaSha256: set(TPM2_ALG_ECDSA, TPM2_ALG_SHA256); break;
    case SignatureScheme::EcdsaSecp384r1Sha384: set(TPM2_ALG_ECDSA, TPM2_ALG_SHA384); break;
    case SignatureScheme::EcdsaSecp521r1Sha512: set(TPM2_ALG_ECDSA, TPM2_ALG_SHA512); break;
    case SignatureScheme::RsaPssRsaeSha256: set(TPM2_ALG_RSAPSS, TPM2_ALG_SHA256); break;
    case SignatureScheme::RsaPssRsaeSha384: set(TPM2_ALG_RSAPSS, TPM2_ALG_SHA384); break;
    case SignatureScheme::RsaPssRsaeSha512: set(TPM2_ALG_RSAPSS, TPM2_ALG_SHA512); break;
    case SignatureScheme::RsaPkcs1Sha256: set(TPM2_ALG_RSASSA, TPM2_ALG_SHA256); break;
    case SignatureScheme::RsaPkcs1Sha384: set(TPM2_ALG_RSASSA, TPM2_ALG_SHA384); break;
    case SignatureScheme::RsaPkcs1Sha512: set(TPM2_ALG_RSASSA, TPM2_ALG_SHA512); break;
  }
  return out;
}

}  // namespace

TpmResult<Bytes> TpmSession::sign(const KeyBlob& key, SignatureScheme scheme, ByteView digest) {
  auto area = parsePublicArea(key.publicArea);
  if (!area) return passOn(area.error());
  auto hash = sizedBuffer<TPM2B_DIGEST>(digest, "digest");
  if (!hash) return passOn(hash.error());
  return persevere<Bytes>([&]() -> TpmResult<Bytes> {
    auto loaded = use(key);
    if (!loaded) return passOn(loaded.error());
    const TPMT_SIG_SCHEME how = tpmScheme(scheme);
    // The digest was not made by this TPM: the empty ticket says so, which an unrestricted key accepts.
    TPMT_TK_HASHCHECK noTicket{};
    noTicket.tag = TPM2_ST_HASHCHECK;
    noTicket.hierarchy = TPM2_RH_NULL;
    TPMT_SIGNATURE* raw = nullptr;
    const TSS2_RC code =
        Esys_Sign(esys_, loaded->handle(), ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &*hash, &how, &noTicket, &raw);
    const EsysPtr<TPMT_SIGNATURE> signature(raw);
    if (code != TSS2_RC_SUCCESS) return failTss(code, fmt::format("sign ({})", text(scheme)));
    auto portable = portableSignature(*signature, area->unique.rsa.size);
    if (!portable) return passOn(portable.error());
    return std::move(*portable);
  });
}

}  // namespace wayleave::keys::tpm
