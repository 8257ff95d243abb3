#include "pkcs11/catalogue.h"

#include "pkcs11/explain.h"
#include "pkcs11/objects.h"

namespace wayleave::pkcs11 {
namespace {

// Long enough that one program's start costs one look, short enough that a renewal is seen before anyone wonders.
constexpr std::chrono::seconds kFreshness{1};
// A device has a handful of identities. Each unknown one costs a round trip.
constexpr size_t kMostIdentities = 256;
constexpr size_t kMostChain = 8;

// All that can change about an identity without its leaving the list.
std::string versionOf(const localapi::IdentityInfo& identity) {
  std::string out;
  for (const std::string* part : {&identity.id, &identity.sha256, &identity.state, &identity.label, &identity.keychain}) {
    out += *part;
    out += '\n';
  }
  return out;
}

// A lost key signs nothing and a staged one is not there yet. An expired certificate is shown: the server's refusal is
// easier to understand than an empty token.
bool isShown(const localapi::IdentityInfo& identity) { return identity.state == "active" || identity.state == "expired"; }

}  // namespace

std::shared_ptr<const Snapshot> Catalogue::last() const {
  const std::lock_guard lock(mutex_);
  return last_;
}

std::shared_ptr<const Snapshot> Catalogue::look() {
  const std::lock_guard asking(asking_);
  if (lookedAt_ && clock_.now() - *lookedAt_ < kFreshness) return last();
  Result<Snapshot> seen = ask();
  if (!seen) {
    explain("identities cannot be listed", seen.error());
    // No grant, no identity: the token of such a program is empty, which is not a failure of the token.
    const bool refused = seen.error().reason == Reason::NotEntitled || seen.error().reason == Reason::CallerUnverified;
    seen = Snapshot{refused, {}};
  }
  auto next = std::make_shared<const Snapshot>(std::move(*seen));
  lookedAt_ = clock_.now();
  const std::lock_guard lock(mutex_);
  last_ = next;
  return next;
}

Result<Snapshot> Catalogue::ask() {
  Result<std::vector<localapi::IdentityInfo>> listed = agent_.list();
  if (!listed) return propagate(listed.error());
  std::map<std::string, localapi::IdentityInfo> known;
  Objects objects;
  for (const localapi::IdentityInfo& entry : *listed) {
    if (!isShown(entry) || known.size() >= kMostIdentities) continue;
    const std::string version = versionOf(entry);
    auto before = known_.find(version);
    if (before == known_.end()) {
      Result<localapi::IdentityInfo> whole = agent_.show(entry.id);
      if (!whole && whole.error().reason == Reason::NotFound) continue;  // gone since it was listed
      if (!whole) return propagate(whole.error());
      before = known_.emplace(version, std::move(*whole)).first;
    }
    addIdentity(before->second, objects);
    known.insert_or_assign(version, before->second);
  }
  known_ = std::move(known);

  Snapshot out{true, {}};
  std::map<std::string, CK_OBJECT_HANDLE> handles;
  for (auto& [name, object] : objects) {
    const auto before = handles_.find(name);
    const CK_OBJECT_HANDLE handle = before != handles_.end() ? before->second : nextHandle_++;
    handles.emplace(name, handle);
    out.objects.emplace(handle, std::move(object));
  }
  handles_ = std::move(handles);
  return out;
}

void Catalogue::addIdentity(const localapi::IdentityInfo& identity, Objects& out) {
  const CK_SLOT_ID slot = identity.keychain == "data-protection" ? kDataProtectionSlot : kFileSlot;
  std::vector<Certificate> chain;
  for (const Bytes& der : identity.chain) {
    Answer<Certificate> certificate = Certificate::parse(der);
    if (!certificate || chain.size() >= kMostChain) break;
    chain.push_back(std::move(*certificate));
  }
  if (chain.empty()) return;
  const Certificate& leaf = chain.front();
  const auto put = [&](std::string name, Attributes attributes, std::optional<SigningKey> key = {}) {
    out.emplace(std::move(name), std::make_shared<const Object>(Object{slot, std::move(attributes), std::move(key)}));
  };
  const auto issuerOf = [&](size_t index) { return index + 1 < chain.size() ? &chain[index + 1] : nullptr; };
  const std::string label = !identity.label.empty() ? identity.label : leaf.commonName;
  const std::string owner = identity.id + "/";
  put(owner + "certificate/" + toHex(leaf.sha1), certificateAttributes(leaf, issuerOf(0), label));
  if (leaf.family != KeyFamily::Other) {
    const SigningKey key{identity.reference, leaf.family, leaf.bits, identity.schemes};
    const std::string which = toHex(leaf.keyHash);
    put(owner + "public/" + which, publicKeyAttributes(leaf, label, identity));
    put(owner + "private/" + which, privateKeyAttributes(leaf, label, identity, key), key);
  }
  // Identities of one authority share its certificates.
  for (size_t index = 1; index < chain.size(); ++index)
    put("authority/" + std::to_string(slot) + "/" + toHex(chain[index].sha1),
        certificateAttributes(chain[index], issuerOf(index), chain[index].commonName));
}

}  // namespace wayleave::pkcs11
