#pragma once

// Keeps identities fresh in the background: renews the due ones with back-off, and has a lost one (a cleared TPM) enrolled anew.
// Runs on a thread of its own in managementd.

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "enrolment/payload_enroller.h"
#include "management/profile.h"

namespace wayleave::enrolment {

struct RenewalHooks {
  // The installed profile that brought an identity. Errors: NotFound.
  std::function<Result<management::Profile>(const std::string& profileIdentifier)> profile;
  // Installs the same profile again: a new key replaces the lost one, the old identity goes.
  std::function<Status(const std::string& profileIdentifier)> reinstall;
};

class RenewalService {
 public:
  RenewalService(localapi::IdentityAgent& agent, PayloadEnroller& enroller, RenewalHooks hooks, std::chrono::milliseconds interval);
  ~RenewalService();  // stops; an order under way is kept for the next start
  RenewalService(const RenewalService&) = delete;
  // Lets go of what is under way, in renewNow() too, without waiting for it.
  void requestStop() { thread_.request_stop(); }

  // Looks at everything now, due or not when `force`; returns what failed, by identity id.
  std::map<std::string, Error> renewNow(bool force);

 private:
  void run(std::stop_token stop);
  std::map<std::string, Error> pass(bool force, std::stop_token stop);
  Status treat(const localapi::IdentityInfo& identity, bool force, std::stop_token stop);

  struct Attempts {
    int failures = 0;
    Steady notBefore{};
  };
  localapi::IdentityAgent& agent_;
  PayloadEnroller& enroller_;
  RenewalHooks hooks_;
  std::chrono::milliseconds interval_;
  std::mutex pass_;  // one pass at a time: the background's or a forced one
  std::map<std::string, Attempts> attempts_;
  std::jthread thread_;
};

}  // namespace wayleave::enrolment
