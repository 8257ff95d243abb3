#include "enrolment/renewal_service.h"

#include <condition_variable>
#include <ctime>

#include "base/log.h"
#include "enrolment/renewal.h"

namespace wayleave::enrolment {
namespace {

std::optional<Wall> parseRfc3339(const std::string& text) {
  std::tm parts{};
  const char* end = ::strptime(text.c_str(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  if (end == nullptr || *end != '\0') return std::nullopt;
  return std::chrono::system_clock::from_time_t(::timegm(&parts));
}

std::vector<std::string> anchorsOf(const management::Profile& profile) {
  std::vector<std::string> out;
  for (const management::Payload& payload : profile.payloads)
    if (const auto* certificates = payload.as<management::CertificatePayload>())
      for (const auto& certificate : certificates->certificates) out.push_back(management::toPem(certificate.der));
  return out;
}

}  // namespace

RenewalService::RenewalService(localapi::IdentityAgent& agent, PayloadEnroller& enroller, RenewalHooks hooks, std::chrono::milliseconds interval)
    : agent_(agent), enroller_(enroller), hooks_(std::move(hooks)), interval_(interval), thread_([this](std::stop_token stop) { run(stop); }) {}

RenewalService::~RenewalService() = default;  // jthread requests the stop and joins

void RenewalService::run(std::stop_token stop) {
  std::mutex mutex;
  std::condition_variable_any wake;
  while (!stop.stop_requested()) {
    {
      std::unique_lock lock(mutex);
      wake.wait_for(lock, stop, interval_, [&] { return stop.stop_requested(); });
    }
    if (!stop.stop_requested()) pass(false, stop);
  }
}

std::map<std::string, Error> RenewalService::renewNow(bool force) { return pass(force, thread_.get_stop_token()); }

std::map<std::string, Error> RenewalService::pass(bool force, std::stop_token stop) {
  const std::lock_guard lock(pass_);
  std::map<std::string, Error> failed;
  const auto identities = agent_.list();
  if (!identities) {
    log::failure("renewal: the identities cannot be listed", identities.error());
    failed.emplace("", identities.error());
    return failed;
  }
  enroller_.forgetIdentitiesBut([this] { return agent_.list(); });
  for (const localapi::IdentityInfo& identity : *identities) {
    if (stop.stop_requested()) break;
    Attempts& attempts = attempts_[identity.id];
    const Steady now = std::chrono::steady_clock::now();
    if (!force && now < attempts.notBefore) continue;
    const Status done = treat(identity, force, stop);
    if (done) {
      attempts = {};
      continue;
    }
    if (done.error().reason == Reason::Cancelled) break;
    if (done.error().reason == Reason::Pending) {  // no failure: the CA is asked again at the next look
      failed.emplace(identity.id, done.error());
      continue;
    }
    ++attempts.failures;
    attempts.notBefore = now + renewalBackoff(attempts.failures);
    log::failure("renewal failed", done.error(), {{"identity", identity.id}, {"subject", identity.subject},
                                                  {"next_attempt_in_s", std::to_string(renewalBackoff(attempts.failures).count())}});
    failed.emplace(identity.id, done.error());
  }
  return failed;
}

Status RenewalService::treat(const localapi::IdentityInfo& identity, bool force, std::stop_token stop) {
  if (identity.source != "acme" && identity.source != "scep") return {};
  if (identity.state == "lost") {
    log::warn("an identity is lost and will be enrolled anew", {{"identity", identity.id}, {"profile", identity.profileIdentifier}, {"why", identity.stateDetail}});
    return hooks_.reinstall(identity.profileIdentifier);
  }
  const auto notBefore = parseRfc3339(identity.notBefore), notAfter = parseRfc3339(identity.notAfter);
  if (!notBefore || !notAfter) return fail(Reason::Internal, "identity " + identity.id + " has no readable validity");
  if (!force && std::chrono::system_clock::now() < renewalTime(*notBefore, *notAfter, identity.id)) return {};

  const auto profile = hooks_.profile(identity.profileIdentifier);
  if (!profile) return withContext(profile.error(), "the profile of " + identity.label);
  const management::Payload* payload = profile->findPayload(identity.payloadUuid);
  if (payload == nullptr) return fail(Reason::NotFound, "profile " + identity.profileIdentifier + " has no payload " + identity.payloadUuid);
  const auto shown = agent_.show(identity.id);  // with its public key
  if (!shown) return propagate(shown.error());
  const auto renewed = enroller_.renew(*shown, *payload, anchorsOf(*profile), std::move(stop));
  if (!renewed) return propagate(renewed.error());
  log::info("identity renewed", {{"identity", identity.id}, {"subject", renewed->subject}, {"serial", renewed->serial}, {"not_after", renewed->notAfter}});
  return {};
}

}  // namespace wayleave::enrolment
