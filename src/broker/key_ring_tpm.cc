// The TPM's half of the key ring: which TPM it is, and how its keys are attested.

#include <fmt/format.h>
#include <openssl/x509.h>

#include <algorithm>

#include "base/log.h"
#include "broker/certificate_view.h"
#include "broker/key_ring.h"
#include "keychain/store_names.h"
#include "keys/tpm/tpm_key.h"
#include "keys/tpm/wire.h"
#include "localapi/identity_json.h"
#include "localapi/json_reader.h"

namespace wayleave::broker {
namespace {

// Names of values in the store.
constexpr std::string_view kStorageRootName = "tpm.storage-root";
constexpr std::string_view kAttestationKey = "tpm.attestation-key";
constexpr std::string_view kAkChain = "tpm.attestation-key-chain";

// One command of a slow part takes 0.6 s; an enrolment step is a few.
constexpr std::chrono::seconds kPatience{30};
// The chain is renewed in the last 40 % of its life.
constexpr double kChainRestToRenew = 0.4;

}  // namespace

Result<keys::tpm::TpmDevice*> MachineKeys::device() const {
  if (tpm_) return tpm_.get();
  return fail(Reason::Unsupported, "this daemon was started without a TPM",
              "start wayleave-identityd with --tcti, or install a profile that does not ask for HardwareBound");
}

void MachineKeys::note(const Status& outcome) {
  const std::lock_guard lock(mutex_);
  if (outcome) {
    state_.state = "ready";
    return;
  }
  state_.state = std::string(text(outcome.error().reason));
  state_.detail = outcome.error().message;
}

Status MachineKeys::checkStorageRoot() {
  if (!tpm_) return {};
  const Result<std::optional<Bytes>> recorded = store_.value(kStorageRootName);
  if (!recorded) return propagate(recorded.error());
  const Result<keys::tpm::TpmFacts> facts = tpm_->facts(clock_.now() + kPatience);
  if (!facts) {
    note(propagate(facts.error()));
    return propagate(facts.error());
  }
  {
    const std::lock_guard lock(mutex_);
    state_.state = facts->inLockout ? "lockout" : "ready";
    state_.detail = fmt::format("{} {} firmware {}", facts->manufacturer, facts->model, facts->firmwareVersion);
  }
  if (!*recorded) return {};
  const Result<keys::tpm::StorageRoot> root = tpm_->storageRoot(clock_.now() + kPatience);
  Status known = root ? keys::tpm::compareStorageRoot(**recorded, *root) : propagate(root.error());
  if (!known) note(known);
  return known;
}

Status MachineKeys::recordStorageRoot() {
  const Result<std::optional<Bytes>> recorded = store_.value(kStorageRootName);
  if (!recorded) return propagate(recorded.error());
  const Result<keys::tpm::StorageRoot> root = tpm_->storageRoot(clock_.now() + kPatience);
  if (!root) {
    note(propagate(root.error()));
    return propagate(root.error());
  }
  if (*recorded && **recorded == root->name) return {};
  if (*recorded) {
    log::warn("the TPM has another storage root than before: keys made under the old one are lost");
    // The attestation key was one of them; without this, the next enrolment would take its chain for a good one.
    if (Status forgotten = store_.setValue(kAttestationKey, {}); !forgotten) return forgotten;
  }
  return store_.setValue(kStorageRootName, root->name);
}

KeyRing::TpmState MachineKeys::tpmState() {
  const std::lock_guard lock(mutex_);
  TpmState state = state_;
  state.configured = tpm_ != nullptr;
  if (state.state.empty()) state.state = state.configured ? "unknown" : "none";
  return state;
}

Result<keys::tpm::TpmDescription> MachineKeys::describeTpm() {
  const Result<keys::tpm::TpmDevice*> tpm = device();
  if (!tpm) return propagate(tpm.error());
  return (*tpm)->describe(clock_.now() + kPatience);
}

Result<keys::tpm::AttestationKey> MachineKeys::storedAk() {
  const Result<std::optional<Bytes>> stored = store_.value(kAttestationKey);
  if (!stored) return propagate(stored.error());
  if (!*stored || (*stored)->empty())
    return fail(Reason::Conflict, "this machine has no attestation key yet",
                "enrol it with an attestation CA first (AttestationURL of the profile's vendor keys)");
  return keys::tpm::AttestationKey::decode(**stored);
}

Result<std::vector<Bytes>> MachineKeys::storedAkChain() {
  const Result<std::optional<Bytes>> stored = store_.value(kAkChain);
  if (!stored) return propagate(stored.error());
  if (!*stored) return std::vector<Bytes>{};
  const Result<nlohmann::json> json = localapi::parseJson(asText(**stored));
  if (!json) return propagate(json.error());
  return localapi::bytesListFromJson(*json, "chain");
}

Result<localapi::KeyAttestation> MachineKeys::attest(const keychain::KeyRecord& record, ByteView qualifyingData) {
  if (record.kind != keys::KeyKind::Tpm)
    return fail(Reason::Unsupported, "only a key that lives in the TPM can be attested",
                "ask for the key with hardwareBound");
  if (const auto tpm = device(); !tpm) return propagate(tpm.error());
  const Result<keys::tpm::AttestationKey> ak = storedAk();
  if (!ak) return propagate(ak.error());
  Result<std::vector<Bytes>> chain = storedAkChain();
  if (!chain) return propagate(chain.error());
  if (chain->empty())
    return fail(Reason::Conflict, "no attestation CA has certified this machine's attestation key yet",
                "enrol the attestation key first");
  const auto key = keys::tpm::TpmKey::fromPem(tpm_, asText(record.blob));
  if (!key) return propagate(key.error());
  Result<keys::tpm::Certification> made = (*key)->certify(*ak, qualifyingData, clock_.now() + kPatience);
  note(made ? Status{} : propagate(made.error()));
  if (!made) return propagate(made.error());
  return localapi::KeyAttestation{.akChain = std::move(*chain),
                                  .signature = std::move(made->signature),
                                  .certifyInfo = std::move(made->certifyInfo),
                                  .publicArea = std::move(made->publicArea),
                                  .algorithm = made->algorithm};
}

Result<localapi::AkEnrolment> MachineKeys::beginAkEnrolment() {
  const Result<keys::tpm::TpmDevice*> tpm = device();
  if (!tpm) return propagate(tpm.error());
  const Status root = checkStorageRoot();
  if (!root && root.error().reason != Reason::IdentityLost) return propagate(root.error());

  Result<keys::tpm::AttestationKey> ak = storedAk();
  const bool missing = !ak && ak.error().reason == Reason::Conflict;
  // Lost is a finding, not a failed read: the TPM was asked, and is another one or was cleared.
  const bool lost = !root;
  if (!ak && !missing) return propagate(ak.error());
  if (ak && !lost) {
    const Result<std::vector<Bytes>> chain = storedAkChain();
    if (!chain) return propagate(chain.error());
    if (!chain->empty()) {
      const Result<CertificateView> leaf = viewCertificate(chain->front());
      if (leaf) {
        const auto rest = leaf->notAfter - clock_.wallNow();
        if (rest > (leaf->notAfter - leaf->notBefore) * kChainRestToRenew)
          return localapi::AkEnrolment{.chainValid = true};
      }
    }
  }
  if (missing || lost) {
    if (Status recorded = recordStorageRoot(); !recorded) return propagate(recorded.error());
    ak = (*tpm)->createAttestationKey(clock_.now() + kPatience);
    note(ak ? Status{} : propagate(ak.error()));
    if (!ak) return propagate(ak.error());
    if (Status stored = store_.setValue(kAttestationKey, ak->encode()); !stored) return propagate(stored.error());
    if (Status cleared = store_.setValue(kAkChain, asBytes(localapi::dump(localapi::bytesListJson("chain", {}))));
        !cleared)
      return propagate(cleared.error());
  }
  const Result<keys::tpm::TpmFacts> facts = (*tpm)->facts(clock_.now() + kPatience);
  if (!facts) return propagate(facts.error());
  Result<keys::tpm::EndorsementKey> ek = (*tpm)->endorsementKey(clock_.now() + kPatience);
  if (!ek) return propagate(ek.error());
  return localapi::AkEnrolment{.chainValid = false,
                               .manufacturer = facts->manufacturer,
                               .model = facts->model,
                               .firmwareVersion = facts->firmwareVersion,
                               .ek = std::move(ek->spki),
                               .ekCertificates = std::move(ek->certificates),
                               .akPublic = ak->key.publicArea,
                               .createData = ak->createData,
                               .createAttestation = ak->createAttestation,
                               .createSignature = ak->createSignature};
}

Result<Bytes> MachineKeys::activateCredential(ByteView credential, ByteView secret) {
  const Result<keys::tpm::TpmDevice*> tpm = device();
  if (!tpm) return propagate(tpm.error());
  const Result<keys::tpm::AttestationKey> ak = storedAk();
  if (!ak) return propagate(ak.error());
  Result<Bytes> activated = (*tpm)->activateCredential(*ak, credential, secret, clock_.now() + kPatience);
  note(activated ? Status{} : propagate(activated.error()));
  return activated;
}

Status MachineKeys::storeAkChain(const std::vector<Bytes>& chain) {
  constexpr size_t kMostCertificates = 16;
  if (chain.empty() || chain.size() > kMostCertificates)
    return fail(Reason::BadInput, fmt::format("the chain has {} certificates", chain.size()));
  const Result<keys::tpm::AttestationKey> ak = storedAk();
  if (!ak) return propagate(ak.error());
  const auto area = keys::tpm::parsePublicArea(ak->key.publicArea);
  if (!area) return propagate(area.error());
  const Result<Bytes> spki = keys::tpm::spkiOf(*area);
  if (!spki) return propagate(spki.error());
  if (Status fits = keychain::checkCertificateHasKey(chain.front(), *spki); !fits)
    return withContext(fits.error(), "the attestation CA's certificate");
  return store_.setValue(kAkChain, asBytes(localapi::dump(localapi::bytesListJson("chain", chain))));
}

}  // namespace wayleave::broker
