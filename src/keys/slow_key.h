#pragma once

// A key that takes its time, like one in a TPM, and that can be told to fail. For tests and benchmarks: a software key
// behind it shows what 5, 80, 200 or 600 ms per signature do to handshakes.

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>

#include "keys/private_key.h"

namespace wayleave::keys {

// Signs one at a time, as hardware does: eight callers at 200 ms wait up to 1.6 s. Deadlines hold while waiting.
class SlowKey final : public PrivateKey {
 public:
  // Called with the number of the signature, from 0, one call at a time; an error is returned instead of a signature.
  using Fault = std::function<Status(uint64_t number)>;

  SlowKey(std::shared_ptr<PrivateKey> inner, std::chrono::milliseconds delay, Fault fault = {})
      : inner_(std::move(inner)), delay_(delay), fault_(std::move(fault)) {}

  const PublicKey& publicKey() const override { return inner_->publicKey(); }
  KeyKind kind() const override { return inner_->kind(); }
  std::vector<SignatureScheme> supportedSchemes() const override { return inner_->supportedSchemes(); }
  // Errors: the inner key's, the fault's, DeadlineExceeded.
  Result<Bytes> signDigest(SignatureScheme scheme, ByteView digest, Steady deadline) override;

 private:
  Result<Bytes> signAlone(SignatureScheme scheme, ByteView digest, Steady deadline);

  const std::shared_ptr<PrivateKey> inner_;
  const std::chrono::milliseconds delay_;
  const Fault fault_;
  std::mutex mutex_;
  std::condition_variable freed_;
  bool busy_ = false;
  uint64_t signatures_ = 0;  // touched only by who is at work
};

}  // namespace wayleave::keys
