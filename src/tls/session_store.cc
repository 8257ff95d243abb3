#include "tls/session_store.h"

#include <ctime>

#include "base/log.h"

namespace wayleave::tls {
namespace {

bool expired(const SSL_SESSION* session, time_t now) {
  const auto lifetime = static_cast<time_t>(SSL_SESSION_get_ticket_lifetime_hint(session));
  const auto made = static_cast<time_t>(SSL_SESSION_get_time(session));
  return SSL_SESSION_is_resumable(session) != 1 || now < made || (lifetime != 0 && now - made >= lifetime);
}

}  // namespace

void SessionStore::removeExpired() {
  const time_t now = ::time(nullptr);
  std::erase_if(sessions_, [now](const SessionPtr& session) { return expired(session.get(), now); });
  usable_.store(sessions_.size(), std::memory_order_relaxed);
}

void SessionStore::add(SessionPtr session) {
  if (failures_.load(std::memory_order_relaxed) >= kMaxFailures) return;
  const std::lock_guard lock(mutex_);
  if (sessions_.size() == kMaxTickets) sessions_.pop_front();
  sessions_.push_back(std::move(session));
  usable_.store(sessions_.size(), std::memory_order_relaxed);
}

SessionPtr SessionStore::take() {
  const std::lock_guard lock(mutex_);
  removeExpired();
  if (sessions_.empty()) return nullptr;
  if (sessions_.size() == 1) {
    // A copy: OpenSSL marks a session that it used as not resumable when its connection fails, and writes into it.
    return SessionPtr(SSL_SESSION_dup(sessions_.front().get()));
  }
  SessionPtr newest = std::move(sessions_.back());
  sessions_.pop_back();
  usable_.store(sessions_.size(), std::memory_order_relaxed);
  return newest;
}

void SessionStore::drop(const SSL_SESSION* refused) {
  unsigned int length = 0;
  const unsigned char* id = SSL_SESSION_get_id(refused, &length);
  const std::string_view wanted(reinterpret_cast<const char*>(id), length);
  const std::lock_guard lock(mutex_);
  std::erase_if(sessions_, [&](const SessionPtr& session) {
    unsigned int otherLength = 0;
    const unsigned char* other = SSL_SESSION_get_id(session.get(), &otherLength);
    return std::string_view(reinterpret_cast<const char*>(other), otherLength) == wanted;
  });
  usable_.store(sessions_.size(), std::memory_order_relaxed);
}

void SessionStore::countFailure() {
  if (failures_.fetch_add(1, std::memory_order_relaxed) + 1 == kMaxFailures) {
    log::warn("the gateway breaks TLS connections that resume a session: every tunnel needs a signature from now on",
              {{"hint", "give the gateway a session id context (Squid: sslcontext= on https_port)"}});
  }
  clear();
}

void SessionStore::clear() {
  const std::lock_guard lock(mutex_);
  sessions_.clear();
  usable_.store(0, std::memory_order_relaxed);
}

}  // namespace wayleave::tls
