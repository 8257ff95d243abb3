#include "keys/tpm/tpm_device.h"

#include <fmt/format.h>
#include <sys/eventfd.h>

#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

#include "base/log.h"
#include "keys/tpm/tpm_session.h"

namespace wayleave::keys::tpm {
namespace {

using SteadyClock = std::chrono::steady_clock;

// Work for the owner thread. `attempt` may run twice; then exactly one of `finish` and `refuse` ends it.
struct Request {
  explicit Request(Steady due) : deadline(due) {}
  virtual ~Request() = default;
  // nullopt: the connection is fine. Otherwise the failure that asks for a reopening.
  virtual std::optional<TpmFailure> attempt(TpmSession& session) = 0;
  virtual bool finish() = 0;  // false: it ended in an error
  virtual void refuse(Error error) = 0;
  const Steady deadline;
};

template <typename T>
struct RequestFor final : Request {
  RequestFor(Steady due, std::function<TpmResult<T>(TpmSession&)> what) : Request(due), work(std::move(what)) {}

  std::optional<TpmFailure> attempt(TpmSession& session) override {
    TpmResult<T> outcome = work(session);
    if (outcome) {
      result = std::move(*outcome);
      return std::nullopt;
    }
    result = propagate(outcome.error().error);
    if (outcome.error().reaction != Reaction::Reopen) return std::nullopt;
    return outcome.error();
  }
  bool finish() override {
    const bool good = result.has_value();
    promise.set_value(std::move(result));
    return good;
  }
  void refuse(Error error) override { promise.set_value(propagate(std::move(error))); }

  std::function<TpmResult<T>(TpmSession&)> work;
  Result<T> result = fail(Reason::Internal, "a TPM request was never run");
  std::promise<Result<T>> promise;
};

// The TSS logs to stderr whatever fails, also what we expect to fail; our own errors say more.
void silenceTss() {
  static std::once_flag once;
  std::call_once(once, [] { ::setenv("TSS2_LOG", "all+none", 0); });
}

std::optional<EkKind> kindOf(EkChoice choice) {
  switch (choice) {
    case EkChoice::Automatic: return std::nullopt;
    case EkChoice::Rsa: return EkKind::Rsa2048;
    case EkChoice::EcP256: return EkKind::EcP256;
    case EkChoice::EcP384: return EkKind::EcP384;
  }
  return std::nullopt;
}

Error deadlineError(std::string_view where) {
  return Error{Reason::DeadlineExceeded, fmt::format("the TPM did not answer in time ({})", where),
               "a TPM signs a few times per second; if this persists, wayleave doctor times one signature"};
}

}  // namespace

class TpmDevice::Impl final : public CommandObserver {
 public:
  explicit Impl(TpmOptions options) : options_(std::move(options)) {
    silenceTss();
    wake_ = Fd::adopt(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    metrics_.queueLimit = options_.queueLimit;
    owner_ = std::thread([this] { run(); });
  }
  Impl(const Impl&) = delete;
  ~Impl() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    const uint64_t one = 1;
    (void)!::write(wake_.borrow(), &one, sizeof one);  // an eventfd takes this unless it is already readable
    owner_.join();
  }

  const TpmOptions& options() const { return options_; }

  template <typename T>
  Result<T> ask(Steady deadline, std::function<TpmResult<T>(TpmSession&)> work) {
    auto request = std::make_shared<RequestFor<T>>(deadline, std::move(work));
    std::future<Result<T>> answer = request->promise.get_future();
    if (auto queued = enqueue(std::move(request)); !queued) return propagate(queued.error());
    if (answer.wait_until(deadline) == std::future_status::ready) return answer.get();
    {
      const std::lock_guard lock(mutex_);
      ++metrics_.abandoned;
    }
    return propagate(deadlineError("its queue, or the command under way, took longer than the caller could wait"));
  }

  Status disconnect(Steady deadline) {
    // Not through a session: there need not be one.
    {
      const std::lock_guard lock(mutex_);
      disconnectAsked_ = true;
    }
    changed_.notify_all();
    std::unique_lock lock(mutex_);
    if (!changed_.wait_until(lock, deadline, [this] { return !disconnectAsked_; }))
      return propagate(deadlineError("it is at work"));
    return {};
  }

  TpmMetrics metrics() const {
    const std::lock_guard lock(mutex_);
    TpmMetrics copy = metrics_;
    copy.queueDepth = queue_.size() + (busy_ ? 1 : 0);
    return copy;
  }

  // Sleeps on the owner thread; false when it must end.
  bool pause(std::chrono::milliseconds delay) {
    std::unique_lock lock(mutex_);
    return !changed_.wait_for(lock, delay, [this] { return stopping_; });
  }

 private:
  Status enqueue(std::shared_ptr<Request> request) {
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return fail(Reason::Cancelled, "the TPM is being closed");
      if (queue_.size() >= options_.queueLimit) {
        ++metrics_.refusedFull;
        return fail(Reason::Busy, fmt::format("{} requests already wait for the TPM", queue_.size()),
                    "a TPM signs a few times per second: fewer new connections, or TLS resumption, help");
      }
      ++metrics_.requests;
      queue_.push_back(std::move(request));
    }
    changed_.notify_all();
    return {};
  }

  void run() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stopping_ || disconnectAsked_ || !queue_.empty(); });
      if (stopping_) break;
      if (disconnectAsked_) {
        session_.reset();
        disconnectAsked_ = false;
        changed_.notify_all();
        continue;
      }
      const std::shared_ptr<Request> request = std::move(queue_.front());
      queue_.pop_front();
      if (SteadyClock::now() >= request->deadline) {
        ++metrics_.expired;
        lock.unlock();
        request->refuse(deadlineError("other requests were before it"));
        lock.lock();
        continue;
      }
      busy_ = true;
      lock.unlock();
      const bool good = perform(*request);
      lock.lock();
      busy_ = false;
      if (!good) ++metrics_.failures;
    }
    std::deque<std::shared_ptr<Request>> left;
    left.swap(queue_);
    lock.unlock();
    for (const auto& request : left) request->refuse(Error{Reason::Cancelled, "the TPM is being closed", "", 0});
    session_.reset();
  }

  // No exception leaves the owner thread: out of memory fails one request, not the daemon.
  bool perform(Request& request) {
    try {
      for (int attempts = 0; attempts < 2; ++attempts) {
        if (auto opened = ensureOpen(); !opened) {
          request.refuse(opened.error());
          return false;
        }
        const std::optional<TpmFailure> broken = request.attempt(*session_);
        if (!broken) break;
        const bool timedOut = session_->timedOut();
        log::warn("TPM connection closed", {{"error", broken->error.message}, {"timedOut", timedOut ? "yes" : "no"}});
        session_.reset();
        if (timedOut) {
          request.refuse(deadlineError(fmt::format("one command took longer than {} ms; the connection was closed",
                                                   options_.commandTimeout.count())));
          return false;
        }
        if (SteadyClock::now() >= request.deadline || isStopping()) break;
      }
      return request.finish();
    } catch (const std::exception& exception) {
      session_.reset();
      request.refuse(Error{Reason::Internal, fmt::format("TPM request: {}", exception.what()), "", 0});
      return false;
    }
  }

  Status ensureOpen() {
    if (session_) return {};
    SessionOptions how;
    how.transport = {options_.tcti, options_.commandTimeout, wake_.borrow(), this};
    how.persistStorageRoot = options_.persistStorageRoot;
    how.rsaAttestationKey = options_.rsaAttestationKey;
    how.endorsementKey = kindOf(options_.endorsementKey);
    how.pause = [this](std::chrono::milliseconds delay) { return pause(delay); };
    auto opened = TpmSession::open(how);
    if (!opened) return propagate(opened.error().error);
    session_ = std::move(*opened);
    const std::lock_guard lock(mutex_);
    if (everOpened_) ++metrics_.reopened;
    everOpened_ = true;
    return {};
  }

  bool isStopping() {
    const std::lock_guard lock(mutex_);
    return stopping_;
  }

  void commandDone(std::chrono::nanoseconds took) override {
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(took).count();
    size_t bucket = 0;
    while (bucket < TpmMetrics::kBucketsMs.size() && ms >= TpmMetrics::kBucketsMs[bucket]) ++bucket;
    const std::lock_guard lock(mutex_);
    ++metrics_.commands;
    metrics_.commandTime += took;
    ++metrics_.commandBuckets[bucket];
  }

  const TpmOptions options_;
  Fd wake_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_:
  std::deque<std::shared_ptr<Request>> queue_;
  TpmMetrics metrics_;
  bool stopping_ = false, disconnectAsked_ = false, busy_ = false, everOpened_ = false;
  // The owner thread's alone:
  std::unique_ptr<TpmSession> session_;
  std::thread owner_;  // last: it uses all of the above
};

TpmDevice::TpmDevice(TpmOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
TpmDevice::~TpmDevice() = default;

const TpmOptions& TpmDevice::options() const { return impl_->options(); }
TpmMetrics TpmDevice::metrics() const { return impl_->metrics(); }
Status TpmDevice::disconnect(Steady deadline) { return impl_->disconnect(deadline); }

// What a request needs is copied into it: the caller may be gone when it runs.

Result<TpmFacts> TpmDevice::facts(Steady deadline) {
  return impl_->ask<TpmFacts>(deadline, [](TpmSession& session) { return session.facts(); });
}

Result<StorageRoot> TpmDevice::storageRoot(Steady deadline) {
  return impl_->ask<StorageRoot>(deadline, [](TpmSession& session) { return session.storageRoot(); });
}

Result<EndorsementKey> TpmDevice::endorsementKey(Steady deadline) {
  return impl_->ask<EndorsementKey>(deadline, [](TpmSession& session) { return session.endorsementKey(); });
}

Result<KeyBlob> TpmDevice::createKey(KeyType type, int bits, Steady deadline) {
  return impl_->ask<KeyBlob>(deadline, [type, bits](TpmSession& session) { return session.createKey(type, bits); });
}

Result<AttestationKey> TpmDevice::createAttestationKey(Steady deadline) {
  return impl_->ask<AttestationKey>(deadline, [](TpmSession& session) { return session.createAttestationKey(); });
}

Result<Bytes> TpmDevice::sign(const KeyBlob& key, SignatureScheme scheme, ByteView digest, Steady deadline) {
  return impl_->ask<Bytes>(
      deadline, [impl = impl_.get(), key, scheme, digest = toBytes(digest)](TpmSession& session) -> TpmResult<Bytes> {
        if (impl->options().addedSignTime.count() > 0 && !impl->pause(impl->options().addedSignTime))
          return failTpm(Reason::Cancelled, "the TPM is being closed");
        return session.sign(key, scheme, digest);
      });
}

Result<Certification> TpmDevice::certify(const KeyBlob& key, const AttestationKey& attestationKey,
                                         ByteView qualifyingData, Steady deadline) {
  return impl_->ask<Certification>(deadline, [key, ak = attestationKey.key, qualifying = toBytes(qualifyingData)](
                                                 TpmSession& session) { return session.certify(key, ak, qualifying); });
}

Result<Bytes> TpmDevice::activateCredential(const AttestationKey& attestationKey, ByteView credential, ByteView secret,
                                            Steady deadline) {
  return impl_->ask<Bytes>(deadline,
                           [ak = attestationKey.key, credential = toBytes(credential), secret = toBytes(secret)](
                               TpmSession& session) { return session.activateCredential(ak, credential, secret); });
}

TpmDescription TpmDevice::describe(Steady deadline) {
  TpmDescription out;
  out.tcti = options().tcti;
  const auto keep = [&out](auto result, auto& place) {
    if (result)
      place = std::move(*result);
    else
      out.problems.push_back(result.error());
    return result.has_value();
  };
  // Without an answer to the first question the others would only repeat its error.
  if (!keep(facts(deadline), out.facts)) return out;
  keep(storageRoot(deadline), out.storageRoot);
  keep(endorsementKey(deadline), out.endorsementKey);
  auto key = createKey(KeyType::EcP256, 256, deadline);
  if (!key) {
    out.problems.push_back(key.error());
    return out;
  }
  const Bytes digest = sha256(asBytes("wayleave doctor"));
  // The first signature also loads the key.
  (void)sign(*key, SignatureScheme::EcdsaSecp256r1Sha256, digest, deadline);
  const auto begin = SteadyClock::now();
  if (auto signature = sign(*key, SignatureScheme::EcdsaSecp256r1Sha256, digest, deadline); !signature)
    out.problems.push_back(signature.error());
  else
    out.signatureTime = std::chrono::duration_cast<std::chrono::microseconds>(SteadyClock::now() - begin);
  return out;
}

}  // namespace wayleave::keys::tpm
