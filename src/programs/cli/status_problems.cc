// What is wrong, in the order in which it should be repaired: a daemon that is down explains much of what follows.

#include <fmt/format.h>

#include "context.h"
#include "relative_time.h"
#include "status_screen.h"

namespace wayleave::cli {
namespace {

using nlohmann::json;

// Profiles with a fresh certificate take people days to make.
constexpr std::chrono::days kExpirySoon{14};
// A renewal that is due is tried within a minute and again with growing pauses; a day later something is in the way.
constexpr std::chrono::hours kRenewalLate{24};

const json& member(const json& object, const char* name) {
  static const json kNothing = json::object();
  const auto found = object.is_object() ? object.find(name) : object.end();
  return object.is_object() && found != object.end() ? *found : kNothing;
}

bool isDown(const json& all, const char* daemon) { return textOf(member(member(all, daemon), "error"), "reason") == text(Reason::Unavailable); }

void daemons(const json& all, std::vector<Problem>& out) {
  if (isDown(all, "identity") && isDown(all, "management") && isDown(all, "proxy")) {
    out.push_back({true, "none of the three daemons answers",
                   "systemctl start wayleave-identityd wayleave-managementd wayleave-proxyd, or wayleave run; were they started with another --runtime-dir?"});
    return;
  }
  for (const char* daemon : {"identity", "management", "proxy"}) {
    const json& error = member(member(all, daemon), "error");
    if (error.empty()) continue;
    if (isDown(all, daemon))
      out.push_back({true, fmt::format("wayleave-{}d does not answer", daemon), fmt::format("systemctl start wayleave-{}d; journalctl -u wayleave-{}d says why it ended", daemon, daemon)});
    else
      out.push_back({true, fmt::format("wayleave-{}d: {}: {}", daemon, textOf(error, "reason"), textOf(error, "message")), textOf(error, "hint")});
  }
}

void enrolment(const json& management, std::vector<Problem>& out) {
  const json& enrolment = member(management, "enrolment");
  if (const std::string error = textOf(enrolment, "lastError"); !error.empty())
    out.push_back({true, fmt::format("the MDM server {}: {}", textOf(enrolment, "server"), error), "it is tried again by itself; wayleave status says when"});
  for (const json& declaration : arrayOf(management, "declarations")) {
    const std::string valid = textOf(declaration, "valid");
    if (valid != "invalid" && valid != "no") continue;
    std::string reasons;
    for (const json& reason : arrayOf(declaration, "reasons")) {
      const std::string code = reason.is_string() ? printable(reason.get<std::string>()) : textOf(reason, "code");
      const std::string description = textOf(reason, "description");
      reasons += (reasons.empty() ? "" : "; ") + code + (description.empty() ? "" : ": " + description);
    }
    out.push_back({true, fmt::format("declaration {}: {}", textOf(declaration, "identifier"), reasons.empty() ? "invalid" : reasons), "correct it on the server; wayleave lint finds most mistakes before"});
  }
  for (const json& profile : arrayOf(management, "unfinished"))
    out.push_back({false, fmt::format("profile {} is {}", textOf(profile, "identifier"), textOf(profile, "state")),
                   textOf(profile, "state") == "preparing" ? "its enrolment is under way; journalctl -u wayleave-managementd shows it" : "it is finished when wayleave-identityd answers"});
}

void identities(const json& all, Wall now, std::vector<Problem>& out) {
  if (const json& error = member(member(all, "identities"), "error"); !error.empty() && !member(all, "identity").contains("error"))
    out.push_back({false, "this program may not see the identities: " + textOf(error, "message"), textOf(error, "hint")});
  for (const json& identity : arrayOf(member(all, "identities"), "identities")) {
    const std::string name = textOf(identity, "subject");
    const std::string source = textOf(identity, "source");
    const bool renews = !textOf(identity, "renewAfter").empty();
    if (textOf(identity, "state") == "lost") {
      out.push_back({true, fmt::format("the key of {} can no longer be used: {}", name, textOf(identity, "stateDetail")),
                     renews ? "wayleave renew enrols anew and says what is in the way" : "install its profile again"});
      continue;
    }
    const auto ends = parseTime(textOf(identity, "notAfter"));
    const auto due = parseTime(textOf(identity, "renewAfter"));
    if (ends && *ends <= now)
      out.push_back({true, fmt::format("{} expired {}", name, relative(*ends, now)), renews ? "wayleave renew says what is in the way" : "install a profile with a fresh certificate"});
    else if (renews && due && now - *due > kRenewalLate)
      out.push_back({false, fmt::format("{} should have been renewed {} and expires {}", name, relative(*due, now), ends ? relative(*ends, now) : "later"), "wayleave renew says what is in the way"});
    else if (!renews && ends && *ends - now < kExpirySoon)
      out.push_back({false, fmt::format("{} expires {} and cannot renew itself ({})", name, relative(*ends, now), source), "install a profile with a fresh certificate"});
  }
  const json& service = member(all, "identity");
  if (textOf(member(service, "tpm"), "state") == "lockout")
    out.push_back({true, "the TPM is locked after wrong authorizations", "wayleave doctor says for how long"});
  for (const json& name : arrayOf(member(service, "applications"), "unmatched"))
    if (name.is_string())
      out.push_back({false, "application " + printable(name.get<std::string>()) + " is declared, and no program here is it",
                     "write an [[application]] entry into grants.d: wayleave caller check PID"});
  for (const json& problem : arrayOf(member(service, "grants"), "problems"))
    out.push_back({false, "grants: " + (problem.is_string() ? printable(problem.get<std::string>()) : printable(problem.dump())), "correct the file, then wayleave grants reload"});
}

void proxies(const json& all, std::vector<Problem>& out) {
  const json& proxy = member(all, "proxy");
  if (proxy.empty() || proxy.contains("error")) return;
  if (textOf(proxy, "management") == "unreachable" && !member(all, "management").contains("error"))
    out.push_back({true, "wayleave-proxyd cannot reach wayleave-managementd and works with what it knew", "compare the sockets that both were started with"});
  const json& capture = member(proxy, "capture");
  if (const std::string error = textOf(capture, "error"); !error.empty())
    out.push_back({true, "no traffic is captured: " + error, "wayleave-proxyd needs CAP_NET_ADMIN and nftables with TPROXY"});
  for (const json& configuration : arrayOf(proxy, "configurations")) {
    const json& identity = member(configuration, "identity");
    if (textOf(identity, "state") != "ready")
      out.push_back({true, fmt::format("\"{}\" has no usable identity: {}", textOf(configuration, "name"), textOf(identity, "error")),
                     textOf(configuration, "failurePolicy") == "direct" ? "its flows go direct meanwhile" : "its flows are blocked meanwhile"});
  }
  if (const size_t loaded = arrayOf(proxy, "configurations").size(), wanted = arrayOf(member(all, "management"), "configurations").size();
      !member(all, "management").contains("error") && loaded < wanted)
    out.push_back({false, fmt::format("{} of {} proxy configurations are loaded", loaded, wanted), "it takes a second; if it stays so, journalctl -u wayleave-proxyd"});
}

}  // namespace

std::vector<Problem> problemsOf(const json& all, Wall now) {
  std::vector<Problem> out;
  daemons(all, out);
  enrolment(member(all, "management"), out);
  identities(all, now, out);
  proxies(all, out);
  std::ranges::stable_sort(out, {}, [](const Problem& problem) { return !problem.grave; });
  return out;
}

}  // namespace wayleave::cli
