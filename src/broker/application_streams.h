#pragma once

// Who follows GET /v1/application/identities. Each stream yields the names of the identities provisioned for its caller:
// when it begins, when the list changes, and when a value behind an unchanged name changes (a renewal, another asset).
// That is the contract of ManagedAppIdentitiesProvider.identifiers
// (https://developer.apple.com/documentation/managedapp).

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "broker/grants.h"
#include "localapi/server.h"

namespace wayleave::broker {

class ApplicationStreams {
 public:
  static constexpr size_t kMost = 256;
  static constexpr size_t kMostPerUser = 16;

  // What stands behind an identity now, as a text that differs when anything of it differs; nullopt: it cannot be had
  // (removed, or staged still), so its name is not provisioned.
  using Version = std::function<std::optional<std::string>(const std::string& identity)>;
  explicit ApplicationStreams(Version version) : version_(std::move(version)) {}

  // Yields at once. `open` runs only when there is room. Errors: Busy.
  Status add(const std::function<std::shared_ptr<localapi::EventStream>()>& open, Entitlements entitled, uid_t uid);
  // Something changed: yields to every stream that it concerns. `declared`: the new set, when that is what changed.
  void refresh(const Declared& declared = {});
  // The grants changed: readers come back under the new ones.
  void closeAll();
  size_t count();

 private:
  using Values = std::map<std::string, std::string>;  // name → version
  struct Stream {
    std::shared_ptr<localapi::EventStream> stream;
    Entitlements entitled;
    uid_t uid;
    Values last;
  };
  Values valuesOf(const Entitlements& entitled) const;
  static bool yield(Stream& stream, Values now);

  const Version version_;
  std::mutex mutex_;
  std::vector<Stream> streams_;
};

}  // namespace wayleave::broker
