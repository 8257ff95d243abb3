#pragma once

// From C_SignInit to a signature.

#include <atomic>
#include <memory>
#include <optional>

#include "base/clock.h"
#include "localapi/identity_client.h"
#include "pkcs11/catalogue.h"
#include "pkcs11/crypto.h"
#include "pkcs11/mechanism.h"

namespace wayleave::pkcs11 {

// One signing operation of a session. Not thread-safe: the session's lock covers it.
class SigningOperation {
 public:
  // `object` must be a private key; errors of planSignature().
  static Answer<SigningOperation> begin(const CK_MECHANISM& mechanism, std::shared_ptr<const Object> object);

  // CKR_DATA_LEN_RANGE: more than a raw mechanism can take. A hashing mechanism takes any length.
  CK_RV add(ByteView part);
  size_t signatureBytes() const { return key().signatureBytes(); }

 private:
  friend class Signer;
  SigningOperation(std::shared_ptr<const Object> object, SigningPlan plan, std::optional<Hash> hash)
      : object_(std::move(object)), plan_(plan), hash_(std::move(hash)) {}
  const SigningKey& key() const { return *object_->key; }

  std::shared_ptr<const Object> object_;
  SigningPlan plan_;
  std::optional<Hash> hash_;  // of a hashing mechanism
  Bytes data_;
  bool whole_ = true;  // false: the message was too long to keep, there is only its hash
};

// Asks identityd. Thread-safe.
class Signer {
 public:
  Signer(localapi::IdentityAgent& agent, const Clock& clock) : agent_(agent), clock_(clock) {}

  // Uses up the operation. CKR_FUNCTION_REJECTED (the grants do not allow it), CKR_DATA_*, CKR_DEVICE_*.
  Answer<Bytes> sign(SigningOperation operation);

 private:
  Result<Bytes> ask(const SigningOperation& operation, std::string_view scheme, const Answer<DigestRequest>& digest, Steady deadline);

  localapi::IdentityAgent& agent_;
  const Clock& clock_;
  // Which of two usages this program turned out to have: asking for the other first would put a refusal into the audit log
  // for every signature.
  std::atomic<bool> digestFirst_{false};
};

}  // namespace wayleave::pkcs11
