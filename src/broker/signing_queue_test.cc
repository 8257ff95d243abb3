#include "broker/signing_queue.h"

#include <gtest/gtest.h>

#include <atomic>

#include <future>
#include <mutex>
#include <semaphore>

#include "broker/token_bucket.h"

namespace wayleave::broker {
namespace {

using namespace std::chrono_literals;

Steady in(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }

struct Answer {
  std::promise<Result<Bytes>> promise;
  std::future<Result<Bytes>> future = promise.get_future();
};

SigningRequest request(std::string key, uint64_t caller, Steady deadline, std::function<Result<Bytes>()> work,
                       const std::shared_ptr<Answer>& answer) {
  return {.key = std::move(key),
          .caller = caller,
          .deadline = deadline,
          .abandoned = {},
          .work = std::move(work),
          .done = [answer](Result<Bytes> result) { answer->promise.set_value(std::move(result)); }};
}

// A key that signs only when it is let.
class Gate {
 public:
  Result<Bytes> pass() {
    entered_.release();
    open_.acquire();
    return Bytes{1};
  }
  void awaitEntered() { entered_.acquire(); }
  void open(int times) { open_.release(times); }

 private:
  std::counting_semaphore<> entered_{0}, open_{0};
};

TEST(SigningQueue, AnswersWithWhatTheKeySaid) {
  SigningQueue queue;
  auto good = std::make_shared<Answer>();
  auto bad = std::make_shared<Answer>();
  queue.submit(request("k", 1, in(10s), [] { return Bytes{7}; }, good));
  queue.submit(request("k", 1, in(10s), []() -> Result<Bytes> { return fail(Reason::KeyLockout, "locked"); }, bad));
  EXPECT_EQ(Bytes{7}, good->future.get().value());
  EXPECT_EQ(Reason::KeyLockout, bad->future.get().error().reason);
}

TEST(SigningQueue, CallersTakeTurns) {
  Gate gate;
  std::mutex mutex;
  std::vector<uint64_t> order;
  SigningQueue queue;
  std::vector<std::shared_ptr<Answer>> answers;
  const auto ask = [&](uint64_t caller) {
    answers.push_back(std::make_shared<Answer>());
    queue.submit(request(
        "k", caller, in(30s),
        [&, caller] {
          const std::lock_guard lock(mutex);
          order.push_back(caller);
          return Bytes{};
        },
        answers.back()));
  };
  auto first = std::make_shared<Answer>();
  queue.submit(request("k", 9, in(30s), [&] { return gate.pass(); }, first));
  gate.awaitEntered();
  for (int index = 0; index < 5; ++index) ask(1);
  ask(2);
  gate.open(1);
  for (auto& answer : answers) answer->future.wait();
  EXPECT_EQ((std::vector<uint64_t>{1, 2, 1, 1, 1, 1}), order);
}

TEST(SigningQueue, BoundsTheQueueAndEachCallersShare) {
  Gate gate;
  SigningQueue queue({.perKey = 4, .perCaller = 3});
  std::vector<std::shared_ptr<Answer>> answers;
  const auto ask = [&](uint64_t caller) {
    answers.push_back(std::make_shared<Answer>());
    queue.submit(request("k", caller, in(30s), [&] { return gate.pass(); }, answers.back()));
    return answers.back();
  };
  ask(1);
  gate.awaitEntered();
  for (int index = 0; index < 3; ++index) ask(1);
  EXPECT_EQ(Reason::Busy, ask(1)->future.get().error().reason);
  ask(2);
  EXPECT_EQ(Reason::Busy, ask(3)->future.get().error().reason);
  EXPECT_EQ(2u, queue.statistics().refused);
  gate.open(100);
}

TEST(SigningQueue, GivesAKeyThatSignsSeveralAtOnceAsManyThreadsAndNoMore) {
  Gate gate;
  SigningQueue queue;
  std::vector<std::shared_ptr<Answer>> answers;
  for (int index = 0; index < 5; ++index) {
    answers.push_back(std::make_shared<Answer>());
    SigningRequest made = request("k", 1, in(30s), [&] { return gate.pass(); }, answers.back());
    made.threads = 2;
    queue.submit(std::move(made));
  }
  gate.awaitEntered();
  gate.awaitEntered();
  EXPECT_EQ(2u, queue.statistics().running);
  EXPECT_EQ(3u, queue.statistics().queued);
  gate.open(5);
  for (auto& answer : answers) EXPECT_TRUE(answer->future.get());
}

TEST(SigningQueue, AnswersAtTheDeadlineWhateverTheKeyDoes) {
  Gate gate;
  SigningQueue queue;
  auto hung = std::make_shared<Answer>();
  auto behind = std::make_shared<Answer>();
  auto other = std::make_shared<Answer>();
  queue.submit(request("hung", 1, in(50ms), [&] { return gate.pass(); }, hung));
  gate.awaitEntered();
  queue.submit(request("hung", 1, in(60ms), [&] { return gate.pass(); }, behind));
  queue.submit(request("fine", 1, in(10s), [] { return Bytes{1}; }, other));
  EXPECT_TRUE(other->future.get());
  EXPECT_EQ(Reason::DeadlineExceeded, hung->future.get().error().reason);
  const Result<Bytes> waited = behind->future.get();
  EXPECT_EQ(Reason::DeadlineExceeded, waited.error().reason);
  EXPECT_NE(std::string::npos, waited.error().message.find("waited behind"));
  EXPECT_EQ(2u, queue.statistics().expired);
  gate.open(2);
}

TEST(SigningQueue, SkipsCallersThatHaveGone) {
  SigningQueue queue;
  auto answer = std::make_shared<Answer>();
  bool signedAnyway = false;
  SigningRequest gone = request(
      "k", 1, in(10s),
      [&] {
        signedAnyway = true;
        return Bytes{};
      },
      answer);
  gone.abandoned = [] { return true; };
  queue.submit(std::move(gone));
  EXPECT_EQ(Reason::Cancelled, answer->future.get().error().reason);
  EXPECT_FALSE(signedAnyway);
}

TEST(SigningQueue, CallersThatHangUpDoNotFillIt) {
  Gate gate;
  SigningQueue queue({.perKey = 4, .perCaller = 3});
  auto running = std::make_shared<Answer>();
  queue.submit(request("k", 1, in(30s), [&] { return gate.pass(); }, running));
  gate.awaitEntered();
  std::atomic<bool> gone = false;
  std::vector<std::shared_ptr<Answer>> ghosts;
  std::atomic<int> worked = 0;
  const auto ask = [&](uint64_t caller) {
    auto answer = std::make_shared<Answer>();
    SigningRequest made = request("k", caller, in(30s), [&] { return ++worked, Bytes{1}; }, answer);
    made.abandoned = [&gone, caller] { return gone && caller == 1; };
    queue.submit(std::move(made));
    return answer;
  };
  for (int index = 0; index < 3; ++index) ghosts.push_back(ask(1));
  const auto waits = ask(2);
  gone = true;
  const auto fresh = ask(3);
  for (const auto& ghost : ghosts) EXPECT_EQ(Reason::Cancelled, ghost->future.get().error().reason);
  EXPECT_EQ(3u, queue.statistics().abandoned);
  EXPECT_EQ(2u, queue.statistics().queued);
  gate.open(1);
  EXPECT_TRUE(running->future.get());
  EXPECT_TRUE(waits->future.get());
  EXPECT_TRUE(fresh->future.get());
  EXPECT_EQ(2, worked);
}

TEST(SigningQueue, EndsWithAnswersForEveryone) {
  auto running = std::make_shared<Answer>();
  auto queued = std::make_shared<Answer>();
  auto gate = std::make_shared<Gate>();
  {
    SigningQueue queue;
    queue.submit(request("k", 1, in(30s), [gate] { return gate->pass(); }, running));
    gate->awaitEntered();
    queue.submit(request("k", 1, in(30s), [gate] { return gate->pass(); }, queued));
    gate->open(2);
  }
  EXPECT_TRUE(running->future.wait_for(0s) == std::future_status::ready);
  EXPECT_TRUE(queued->future.wait_for(0s) == std::future_status::ready);
}

TEST(SigningQueue, SurvivesAKeyThatThrows) {
  SigningQueue queue;
  auto answer = std::make_shared<Answer>();
  queue.submit(request("k", 1, in(10s), []() -> Result<Bytes> { throw std::runtime_error("broken"); }, answer));
  EXPECT_EQ(Reason::Internal, answer->future.get().error().reason);
}

TEST(SigningQueue, RefusesADeadlineInThePast) {
  SigningQueue queue;
  auto answer = std::make_shared<Answer>();
  queue.submit(request("k", 1, in(-1ms), [] { return Bytes{}; }, answer));
  EXPECT_EQ(Reason::DeadlineExceeded, answer->future.get().error().reason);
}

TEST(TokenBucket, GivesABurstAndThenARate) {
  ManualClock clock;
  TokenBucket bucket(3, 2, clock.now());
  for (int index = 0; index < 3; ++index) EXPECT_TRUE(bucket.take(1, clock.now()));
  EXPECT_FALSE(bucket.take(1, clock.now()));
  EXPECT_EQ(500ms, bucket.waitFor(1, clock.now()));
  clock.advance(499ms);
  EXPECT_FALSE(bucket.take(1, clock.now()));
  clock.advance(1ms);
  EXPECT_TRUE(bucket.take(1, clock.now()));
  EXPECT_FALSE(bucket.full(clock.now()));
  clock.advance(1h);
  EXPECT_TRUE(bucket.full(clock.now()));
  EXPECT_FALSE(bucket.take(4, clock.now()));
}

TEST(TokenBucket, IgnoresAWallClockThatJumps) {
  ManualClock clock;
  TokenBucket bucket(1, 1, clock.now());
  EXPECT_TRUE(bucket.take(1, clock.now()));
  clock.jumpWall(24h);
  EXPECT_FALSE(bucket.take(1, clock.now()));
}

}  // namespace
}  // namespace wayleave::broker
