#pragma once

// Who follows GET /v1/watch, and what each may hear.

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "broker/grants.h"
#include "keychain/store.h"
#include "localapi/identity_client.h"
#include "localapi/server.h"

namespace wayleave::broker {

class Watchers {
 public:
  // Streams in all and per user; a program needs one.
  static constexpr size_t kMost = 256;
  static constexpr size_t kMostPerUser = 16;

  // Sends what happened after `since`, as far as it is remembered, then everything that happens. Errors: Busy.
  Status add(std::shared_ptr<localapi::EventStream> stream, Entitlements entitled, uid_t uid, uint64_t since);
  // For callers that may see the identity.
  void announce(std::string kind, const keychain::IdentityRecord& identity);
  // What is declared for applications is another set now.
  void redeclare(const Declared& declared);
  void closeAll();
  size_t count();
  // Is there room for another stream of this user?
  bool hasRoom(uid_t uid);

 private:
  struct Event {
    localapi::IdentityEvent event;
    std::string accessGroup;
  };
  struct Watcher {
    std::shared_ptr<localapi::EventStream> stream;
    Entitlements entitled;
    uid_t uid;
  };
  static bool send(const Watcher& watcher, const Event& event);
  void prune();

  std::mutex mutex_;
  uint64_t sequence_ = 0;
  std::deque<Event> recent_;
  std::vector<Watcher> watchers_;
};

}  // namespace wayleave::broker
