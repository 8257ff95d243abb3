#include "broker/watchers.h"

#include <algorithm>

#include "localapi/identity_json.h"
#include "localapi/json_reader.h"

namespace wayleave::broker {
namespace {

// A reader that was away for longer looks at everything again anyway.
constexpr size_t kRemembered = 256;

}  // namespace

bool Watchers::send(const Watcher& watcher, const Event& event) {
  if (!watcher.entitled.sees(event.accessGroup, event.event.identity)) return watcher.stream->isOpen();
  return watcher.stream->send(localapi::dump(localapi::toJson(event.event)));
}

void Watchers::prune() {
  std::erase_if(watchers_, [](const Watcher& watcher) { return !watcher.stream->isOpen(); });
}

bool Watchers::hasRoom(uid_t uid) {
  const std::lock_guard lock(mutex_);
  prune();
  const auto own = std::ranges::count_if(watchers_, [&](const Watcher& watcher) { return watcher.uid == uid; });
  return watchers_.size() < kMost && static_cast<size_t>(own) < kMostPerUser;
}

Status Watchers::add(std::shared_ptr<localapi::EventStream> stream, Entitlements entitled, uid_t uid, uint64_t since) {
  if (!hasRoom(uid)) return fail(Reason::Busy, "too many programs of this user follow the identities");
  const std::lock_guard lock(mutex_);
  Watcher watcher{std::move(stream), std::move(entitled), uid};
  for (const Event& event : recent_)
    if (since != 0 && event.event.sequence > since) send(watcher, event);
  watchers_.push_back(std::move(watcher));
  return {};
}

void Watchers::announce(std::string kind, const keychain::IdentityRecord& identity) {
  const std::lock_guard lock(mutex_);
  Event event{{++sequence_, std::move(kind), identity.id, identity.reference}, identity.accessGroup};
  std::erase_if(watchers_, [&](const Watcher& watcher) { return !send(watcher, event); });
  recent_.push_back(std::move(event));
  if (recent_.size() > kRemembered) recent_.pop_front();
}

void Watchers::redeclare(const Declared& declared) {
  const std::lock_guard lock(mutex_);
  for (Watcher& watcher : watchers_) watcher.entitled.redeclare(declared);
}

void Watchers::closeAll() {
  const std::lock_guard lock(mutex_);
  watchers_.clear();
}

size_t Watchers::count() {
  const std::lock_guard lock(mutex_);
  prune();
  return watchers_.size();
}

}  // namespace wayleave::broker
