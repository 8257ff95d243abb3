#include "keys/slow_key.h"

#include <gtest/gtest.h>

#include <thread>

namespace wayleave::keys {
namespace {

using namespace std::chrono_literals;

class CountingKey final : public PrivateKey {
 public:
  const PublicKey& publicKey() const override { return publicKey_; }
  KeyKind kind() const override { return KeyKind::Software; }
  std::vector<SignatureScheme> supportedSchemes() const override { return {SignatureScheme::EcdsaSha256}; }
  Result<Bytes> signDigest(SignatureScheme, ByteView digest, Steady) override {
    ++calls;
    return toBytes(digest);
  }
  std::atomic<int> calls = 0;

 private:
  PublicKey publicKey_;
};

Steady in(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }

TEST(SlowKey, TakesItsTimeAndThenSigns) {
  const auto inner = std::make_shared<CountingKey>();
  SlowKey key(inner, 20ms);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(key.signDigest(SignatureScheme::EcdsaSha256, Bytes{1, 2}, in(5s)).value(), (Bytes{1, 2}));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 20ms);
}

TEST(SlowKey, GivesUpAtTheDeadlineWithoutSigning) {
  const auto inner = std::make_shared<CountingKey>();
  SlowKey key(inner, 10s);
  EXPECT_EQ(key.signDigest(SignatureScheme::EcdsaSha256, Bytes{1}, in(5ms)).error().reason, Reason::DeadlineExceeded);
  EXPECT_EQ(inner->calls, 0);
}

TEST(SlowKey, SignsOneAtATimeLikeHardware) {
  const auto inner = std::make_shared<CountingKey>();
  SlowKey key(inner, 20ms);
  const auto begin = std::chrono::steady_clock::now();
  std::vector<std::jthread> callers;
  for (int i = 0; i < 4; ++i)
    callers.emplace_back([&] { EXPECT_TRUE(key.signDigest(SignatureScheme::EcdsaSha256, Bytes{1}, in(10s))); });
  callers.clear();
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 80ms);
}

TEST(SlowKey, FailsAsTold) {
  const auto inner = std::make_shared<CountingKey>();
  SlowKey key(inner, 0ms, [](uint64_t number) -> Status {
    if (number == 1) return fail(Reason::KeyLockout, "as told");
    return {};
  });
  EXPECT_TRUE(key.signDigest(SignatureScheme::EcdsaSha256, Bytes{1}, in(1s)).has_value());
  EXPECT_EQ(key.signDigest(SignatureScheme::EcdsaSha256, Bytes{1}, in(1s)).error().reason, Reason::KeyLockout);
  EXPECT_TRUE(key.signDigest(SignatureScheme::EcdsaSha256, Bytes{1}, in(1s)).has_value());
}

}  // namespace
}  // namespace wayleave::keys
