#pragma once

// An identityd in memory, an enroller that does as it is told, and profiles made from the project's examples.

#include <algorithm>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "base/file.h"
#include "management/enroller.h"
#include "management/installer.h"
#include "plist/plist.h"

namespace wayleave::management {

// Keeps the contract of identity_client.h as far as installing needs it. `failNext` lets one call fail.
class FakeAgent final : public localapi::IdentityAgent {
 public:
  struct Held {
    localapi::IdentityInfo info;
    std::string installation;  // empty: active
  };

  Status beginInstallation(std::string_view installation) override {
    if (auto error = failing("begin")) return propagate(*error);
    if (std::ranges::find(pending, installation) == pending.end()) pending.emplace_back(installation);
    return {};
  }
  Result<localapi::IdentityInfo> importPkcs12(localapi::ImportRequest request) override {
    if (auto error = failing("import")) return propagate(*error);
    lastPassword = std::string(request.password.viewText());
    localapi::IdentityInfo info;
    info.subject = "CN=imported";
    info.accessGroup = request.accessGroup;
    info.profileIdentifier = request.profileIdentifier;
    info.payloadUuid = request.payloadUuid;
    return hold(std::move(info), request.installation);
  }
  Status commitInstallation(std::string_view installation, const std::vector<std::string>& replaced) override {
    if (auto error = failing("commit")) return propagate(*error);
    if (std::ranges::find(committed, installation) != committed.end()) return {};
    if (std::erase(pending, installation) == 0) return fail(Reason::Conflict, "unknown installation");
    committed.emplace_back(installation);
    std::erase_if(held, [&](const Held& entry) {
      return entry.installation.empty() && std::ranges::find(replaced, entry.info.profileIdentifier) != replaced.end();
    });
    for (Held& entry : held)
      if (entry.installation == installation) entry.installation.clear();
    return {};
  }
  Status abortInstallation(std::string_view installation) override {
    if (auto error = failing("abort")) return propagate(*error);
    std::erase(pending, installation);
    std::erase_if(held, [&](const Held& entry) { return entry.installation == installation; });
    return {};
  }
  Status removeProfileIdentities(std::string_view profile) override {
    if (auto error = failing("remove")) return propagate(*error);
    std::erase_if(held, [&](const Held& entry) {
      return entry.installation.empty() && entry.info.profileIdentifier == profile;
    });
    return {};
  }
  Result<std::vector<std::string>> pendingInstallations() override {
    if (auto error = failing("pending")) return propagate(*error);
    return pending;
  }

  localapi::IdentityInfo hold(localapi::IdentityInfo info, const std::string& installation) {
    info.id = "identity-" + std::to_string(++count_);
    info.reference = toBytes("ref-" + std::to_string(count_));
    info.notAfter = notAfter;
    held.push_back({info, installation});
    return info;
  }
  std::vector<std::string> active() const {
    std::vector<std::string> out;
    for (const Held& entry : held)
      if (entry.installation.empty()) out.push_back(entry.info.id);
    return out;
  }

  Status declareApplications(const std::vector<localapi::DeclaredApplication>& all) override {
    if (auto error = failing("applications")) return propagate(*error);
    applications = all;
    return {};
  }
  std::vector<localapi::DeclaredApplication> applications;

  // call → how often it still fails, and how.
  void failNext(const std::string& call, Reason reason, int times = 1) { failures_[call] = {reason, times}; }

  std::vector<std::string> pending, committed;
  std::vector<Held> held;
  std::string notAfter = "2099-01-01T00:00:00Z";
  std::string lastPassword;

  // Not part of installing.
  Result<std::vector<localapi::IdentityInfo>> list() override { return unused(); }
  Result<localapi::IdentityInfo> show(std::string_view) override { return unused(); }
  Result<localapi::IdentityInfo> resolve(ByteView) override { return unused(); }
  Result<Bytes> signTls(const localapi::TlsSignRequest&, Steady) override { return unused(); }
  Result<Bytes> signMessage(ByteView, std::string_view, ByteView, Steady) override { return unused(); }
  Result<localapi::KeyInfo> createKey(const localapi::KeyRequest&) override { return unused(); }
  Result<localapi::KeyAttestation> attestKey(std::string_view, ByteView) override { return unused(); }
  Result<Bytes> signCertificationRequest(std::string_view, std::string_view, ByteView) override { return unused(); }
  Result<localapi::IdentityInfo> bindCertificate(const localapi::BindRequest&) override { return unused(); }
  Result<localapi::IdentityInfo> renewCertificate(std::string_view, const std::vector<Bytes>&) override {
    return unused();
  }
  Result<localapi::AkEnrolment> beginAkEnrolment() override { return unused(); }
  Result<Bytes> activateCredential(ByteView, ByteView) override { return unused(); }
  Status storeAkChain(const std::vector<Bytes>&) override { return unused(); }

 private:
  struct Failure {
    Reason reason;
    int times;
  };
  static std::unexpected<Error> unused() { return fail(Reason::Unsupported, "not in this test"); }
  std::optional<Error> failing(const std::string& call) {
    const auto found = failures_.find(call);
    if (found == failures_.end() || found->second.times-- <= 0) return std::nullopt;
    return Error{found->second.reason, "injected into " + call, {}, 0};
  }

  std::map<std::string, Failure> failures_;
  int count_ = 0;
};

class FakeEnroller final : public Enroller {
 public:
  explicit FakeEnroller(FakeAgent& agent) : agent_(agent) {}
  Result<localapi::IdentityInfo> enroll(const EnrolmentRequest& request, const EnrolmentProgress& progress,
                                        std::stop_token) override {
    enrolled.push_back(request.payload.header.uuid);
    installations.push_back(request.installation);
    progress("asking the CA");
    if (failure) return propagate(*failure);
    localapi::IdentityInfo info;
    info.accessGroup = request.accessGroup;
    info.profileIdentifier = request.profileIdentifier;
    return agent_.hold(std::move(info), request.installation);
  }
  void settled(std::string_view installation, bool committed) override {
    outcomes.emplace_back(std::string(installation), committed);
  }
  void forgetAllBut(const std::vector<const Payload*>&) override { ++sweeps; }

  std::optional<Error> failure;
  std::vector<std::string> enrolled, installations;
  std::vector<std::pair<std::string, bool>> outcomes;
  int sweeps = 0;

 private:
  FakeAgent& agent_;
};

inline plist::Value example(const std::string& name) {
  const Result<Bytes> file = readFile(std::string(WAYLEAVE_SOURCE_DIR) + "/examples/" + name, 1 << 20);
  return plist::parse(file.value()).value().root;
}
inline plist::Dictionary* payloadOf(plist::Value& profile, std::string_view type) {
  for (plist::Value& payload : *profile.dictionary()->find("PayloadContent")->array())
    if (*payload.dictionary()->find("PayloadType")->string() == type) return payload.dictionary();
  return nullptr;
}
inline Bytes bytesOf(const plist::Value& profile) { return plist::toBinary(profile).value(); }

// The PKCS#12 example with the ACME example's payload beside it.
inline plist::Value mixedProfile() {
  plist::Value profile = example("pkcs12.mobileconfig");
  plist::Value acme = example("acme.mobileconfig");
  profile.dictionary()->find("PayloadContent")->array()->insert(
      profile.dictionary()->find("PayloadContent")->array()->begin(),
      plist::Value(*payloadOf(acme, "com.apple.security.acme")));
  return profile;
}

}  // namespace wayleave::management
