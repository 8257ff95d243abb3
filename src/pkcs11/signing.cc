#include "pkcs11/signing.h"

#include "pkcs11/explain.h"

namespace wayleave::pkcs11 {
namespace {

// identityd takes messages up to this size; of longer ones it gets the digest.
constexpr size_t kMostMessageBytes = 1024 * 1024;
// A DigestInfo with SHA-512 is 83 octets; whatever is longer is no digest.
constexpr size_t kMostRawBytes = 128;
// A busy TPM signs in seconds. A handshake whose key needs longer than this has failed at the other end already.
constexpr std::chrono::seconds kDeadline{30};

bool isRefusal(const Result<Bytes>& result) { return !result && result.error().reason == Reason::NotEntitled; }

}  // namespace

Answer<SigningOperation> SigningOperation::begin(const CK_MECHANISM& mechanism, std::shared_ptr<const Object> object) {
  if (!object->key) return failWith(CKR_KEY_HANDLE_INVALID);
  const Answer<SigningPlan> plan = planSignature(mechanism, *object->key);
  if (!plan) return failWith(plan.error());
  std::optional<Hash> hash;
  if (plan->messageHash) {
    Answer<Hash> begun = Hash::begin(*plan->messageHash);
    if (!begun) return failWith(begun.error());
    hash = std::move(*begun);
  }
  return SigningOperation(std::move(object), *plan, std::move(hash));
}

CK_RV SigningOperation::add(ByteView part) {
  if (!hash_) {
    if (part.size() > kMostRawBytes - data_.size()) return CKR_DATA_LEN_RANGE;
    append(data_, part);
    return CKR_OK;
  }
  if (!hash_->update(part)) return CKR_GENERAL_ERROR;
  if (whole_ && part.size() > kMostMessageBytes - data_.size()) {
    whole_ = false;
    data_ = {};
  }
  if (whole_) append(data_, part);
  return CKR_OK;
}

Answer<Bytes> Signer::sign(SigningOperation operation) {
  const std::string_view scheme = operation.whole_ ? messageScheme(operation.plan_, operation.key()) : std::string_view{};
  Answer<DigestRequest> digest = failWith(CKR_GENERAL_ERROR);
  if (operation.hash_) {
    const Answer<Bytes> hashed = operation.hash_->finish();
    if (!hashed) return failWith(hashed.error());
    digest = digestRequest(operation.plan_, operation.key(), *hashed);
  } else {
    digest = digestRequest(operation.plan_, operation.key(), operation.data_);
  }
  if (!digest) return failWith(digest.error());
  const Result<Bytes> signature = ask(operation, scheme, digest, clock_.now() + kDeadline);
  if (!signature) {
    explain("nothing was signed", signature.error());
    return failWith(codeOf(signature.error()));
  }
  return fromWire(operation.key(), *signature);
}

Result<Bytes> Signer::ask(const SigningOperation& operation, std::string_view scheme, const Answer<DigestRequest>& digest, Steady deadline) {
  const Bytes& reference = operation.key().reference;
  if (!scheme.empty() && isClientCertificateVerify(scheme, operation.data_)) {
    Result<Bytes> proved = agent_.signTls({reference, std::string(scheme), true, operation.data_}, deadline);
    if (!isRefusal(proved)) return proved;
  }
  const auto asMessage = [&] { return agent_.signMessage(reference, scheme, operation.data_, deadline); };
  // A ready digest is what TLS 1.2 signs: identityd has one door for both, behind the usage `digest`.
  const auto asDigest = [&] { return agent_.signTls({reference, std::string(digest->scheme), false, digest->digest}, deadline); };
  if (scheme.empty()) return asDigest();
  const bool digestFirst = digestFirst_.load(std::memory_order_relaxed);
  Result<Bytes> first = digestFirst ? asDigest() : asMessage();
  if (!isRefusal(first)) return first;
  Result<Bytes> second = digestFirst ? asMessage() : asDigest();
  if (second) digestFirst_.store(!digestFirst, std::memory_order_relaxed);
  return second;
}

}  // namespace wayleave::pkcs11
