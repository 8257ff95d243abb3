#pragma once

// Session tickets of one ClientContext. A resumed handshake needs no signature, which a TPM makes in 200 to 600 ms, one
// at a time: tickets are what makes reconnecting cheap.
//
// RFC 8446 appendix C.4 asks clients not to use a ticket twice, so that observers cannot link connections. A gateway that
// knows every device by its certificate learns nothing from it, but others on the path may: so tickets are used once while
// there are several, and the last one is kept and used again rather than paying a signature. Not persisted: they fall
// with the identity and the process.

#include <openssl/ssl.h>

#include <atomic>
#include <deque>
#include <mutex>

#include "base/owned.h"

namespace wayleave::tls {

using SessionPtr = Handle<SSL_SESSION, SSL_SESSION_free>;

// Thread-safe: workers share a context. Only handshakes and new tickets come here, never data.
class SessionStore {
 public:
  bool empty() const { return usable_.load(std::memory_order_relaxed) == 0; }
  void add(SessionPtr session);
  SessionPtr take();
  // The gateway did not accept this one.
  void drop(const SSL_SESSION* refused);
  void clear();
  // Handshakes with a ticket that broke, and that worked: see ClientContext::resumptionFailed.
  void countFailure();
  void countSuccess() { failures_.store(0, std::memory_order_relaxed); }

 private:
  static constexpr size_t kMaxTickets = 16;  // bounded: a server may send tickets without end

  static constexpr int kMaxFailures = 2;

  void removeExpired();

  std::mutex mutex_;
  std::deque<SessionPtr> sessions_;  // oldest first
  std::atomic<size_t> usable_{0};
  std::atomic<int> failures_{0};  // in a row
};

}  // namespace wayleave::tls
