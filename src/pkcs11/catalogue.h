#pragma once

// The objects of both tokens: what identityd lets this program see, made into PKCS #11 objects.
//
// A look at identityd is good for a second: programs ask for the slot list, the token and the objects in one breath, and a
// renewed certificate must show up soon in a process that runs for weeks. Handles stay what they were for as long as their
// object exists; a renewed certificate is a new object, its key is not.

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/clock.h"
#include "localapi/identity_client.h"
#include "pkcs11/attributes.h"
#include "pkcs11/mechanism.h"

namespace wayleave::pkcs11 {

inline constexpr CK_SLOT_ID kFileSlot = 0;
inline constexpr CK_SLOT_ID kDataProtectionSlot = 1;
inline constexpr CK_ULONG kSlots = 2;

struct Object {
  CK_SLOT_ID slot = kFileSlot;
  Attributes attributes;
  std::optional<SigningKey> key;  // of a private key object
};

struct Snapshot {
  // identityd answered. A caller without a grant is an answer, too: its tokens are there and empty.
  bool present = false;
  std::map<CK_OBJECT_HANDLE, std::shared_ptr<const Object>> objects;
};

class Catalogue {
 public:
  // Both outlive it. Thread-safe.
  Catalogue(localapi::IdentityAgent& agent, const Clock& clock) : agent_(agent), clock_(clock) {}

  // What there is now, or was less than a second ago.
  std::shared_ptr<const Snapshot> look();
  // What the last look saw: handles a program has got refer to it.
  std::shared_ptr<const Snapshot> last() const;

 private:
  using Objects = std::map<std::string, std::shared_ptr<const Object>>;  // by a name that says what the object is
  Result<Snapshot> ask();
  void addIdentity(const localapi::IdentityInfo& identity, Objects& out);

  localapi::IdentityAgent& agent_;
  const Clock& clock_;
  std::mutex asking_;  // one thread asks, the others wait for its answer
  std::optional<Steady> lookedAt_;
  std::map<std::string, localapi::IdentityInfo> known_;  // whole identities, by what the list says of them
  std::map<std::string, CK_OBJECT_HANDLE> handles_;
  CK_OBJECT_HANDLE nextHandle_ = 1;
  mutable std::mutex mutex_;
  std::shared_ptr<const Snapshot> last_ = std::make_shared<const Snapshot>();
};

}  // namespace wayleave::pkcs11
