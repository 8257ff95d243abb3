#include "management/installer.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "base/log.h"
#include "management/installer_plan.h"
#include "management/profile_expiry.h"

namespace wayleave::management {
namespace {

using localapi::IdentityInfo;

// identityd may be restarting; it is back within a second.
constexpr std::chrono::milliseconds kFirstRetry{100};
constexpr std::chrono::milliseconds kLastRetry{2'000};

// The other side did not answer, as opposed to answering no.
bool isAbsence(const Error& error) {
  return error.reason == Reason::Unavailable || error.reason == Reason::DeadlineExceeded || error.reason == Reason::Io ||
         error.reason == Reason::Busy;
}

bool stoppedWithin(std::chrono::milliseconds time, const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any never;
  std::unique_lock lock(mutex);
  never.wait_for(lock, stop, time, [] { return false; });
  return stop.stop_requested();
}

}  // namespace

// One installation on its way.
struct Installer::Job {
  std::string installation;
  InstallPlan plan;
  std::vector<const Payload*> payloads;  // those still to be staged, in order
  std::vector<std::string> trustAnchors;
  std::string summary;
  std::vector<InstalledIdentity> staged;
  bool replaces = false;
};

Installer::Installer(Parts parts, Progress progress, Changed changed)
    : parts_(parts), progress_(std::move(progress)), changed_(std::move(changed)) {}

Result<InstallOutcome> Installer::install(ByteView file, std::stop_token stop, const Permit& permit) {
  ImportOptions options;
  options.now = parts_.clock.wallNow();
  options.signerTrust.useSystemStore = true;
  const ImportResult imported = importProfile(file, options);
  if (!imported.profile) return propagate(toError(imported.findings));
  const Profile& profile = *imported.profile;
  if (permit)
    if (Status permitted = permit(profile); !permitted) return propagate(permitted.error());
  if (profile.removalDate && *profile.removalDate <= options.now)
    return fail(Reason::BadInput, "RemovalDate: " + rfc3339(*profile.removalDate) + " has passed: the profile would be removed at once",
                "get a newer profile, or set this machine's clock");

  Job job;
  job.installation = randomUuid();
  job.plan = planFor(profile);
  job.trustAnchors = trustAnchorsOf(profile);
  job.summary = summaryFor(imported);
  for (const std::string& uuid : job.plan.identityPayloads) {
    const Payload* payload = profile.findPayload(uuid);
    if (payload == nullptr) return fail(Reason::Internal, "payload " + uuid + " is not in its profile");
    if (payload->as<Pkcs12Payload>() == nullptr && parts_.enroller == nullptr)
      return fail(Reason::Unsupported, payload->header.label() + ": this daemon was started without enrolment",
                  "profiles with PKCS#12 identities can be installed");
    job.payloads.push_back(payload);
  }

  const Result<ProfileRecord> before = parts_.store.profile(profile.identifier);
  if (!before && before.error().reason != Reason::NotFound) return propagate(before.error());
  job.replaces = before.has_value();

  ProfileRecord record;
  record.installation = job.installation;
  record.identifier = profile.identifier;
  record.uuid = profile.uuid;
  record.displayName = profile.displayName;
  record.enrolment = enrolmentFor(profile, job.plan);
  record.summary = job.summary;
  record.removal = removalOf(profile, options.now);
  Result<Bytes> declarations = declarationsFor(profile);
  if (!declarations) return propagate(declarations.error());
  record.declarations = std::move(*declarations);
  return begin(job, std::move(record), std::move(stop));
}

Result<InstallOutcome> Installer::begin(Job& job, ProfileRecord record, std::stop_token stop) {
  if (Status begun = parts_.store.begin(record); !begun) return propagate(begun.error());
  log::info("installing profile", {{"identifier", job.plan.identifier}, {"installation", job.installation}});
  if (Status begun = parts_.agent.beginInstallation(job.installation); !begun) {
    abort(job.installation);
    return withContext(begun.error(), "begin the installation at wayleave-identityd");
  }
  return prepareAndCommit(job, std::move(stop));
}

Result<InstallOutcome> Installer::reinstall(const std::string& identifier, std::stop_token stop) {
  const Result<ProfileRecord> installed = parts_.store.profile(identifier);
  if (!installed) return propagate(installed.error());
  const Result<EnrolmentRecord> kept = readEnrolment(installed->enrolment, parts_.clock.wallNow());
  if (!kept) return withContext(kept.error(), identifier);
  Job job;
  job.installation = randomUuid();
  job.plan = kept->plan;
  job.trustAnchors = trustAnchorsOf(kept->profile);
  job.summary = installed->summary;
  job.replaces = true;
  for (const std::string& uuid : job.plan.identityPayloads) {
    const Payload* payload = kept->profile.findPayload(uuid);
    if (payload == nullptr || parts_.enroller == nullptr)
      return fail(Reason::Unsupported, identifier + " also brings identities that cannot be enrolled again",
                  "install the profile once more");
    job.payloads.push_back(payload);
  }
  ProfileRecord record = *installed;
  record.installation = job.installation;
  record.identities.clear();
  record.configurations.clear();
  return begin(job, std::move(record), std::move(stop));
}

Result<InstallOutcome> Installer::prepareAndCommit(Job& job, std::stop_token stop) {
  Status ready = stageAll(job, stop);
  if (!ready && ready.error().reason == Reason::Cancelled && stop.stop_requested())
    return propagate(ready.error());  // stays `preparing`: the next start takes it up or aborts it
  if (!ready && ready.error().reason == Reason::Pending)
    return propagate(ready.error());  // so does an enrolment that a person has to approve at the CA: recover() asks again
  if (ready) {
    const auto configurations = withReferences(job.plan, job.staged);
    ready = configurations ? parts_.store.decide(job.installation, job.summary, *configurations)
                           : Status(propagate(configurations.error()));
  }
  if (!ready) {
    abort(job.installation);
    log::failure("profile not installed", ready.error(), {{"identifier", job.plan.identifier}});
    return propagate(ready.error());
  }

  Result<uint64_t> sequence = commit(job.installation, job.plan.identifier, job.replaces, parts_.commitPatience, stop);
  if (!sequence) return propagate(sequence.error());
  Result<ProfileRecord> installed = parts_.store.profile(job.plan.identifier);
  if (!installed) return propagate(installed.error());
  return InstallOutcome{std::move(*installed), job.replaces, *sequence};
}

Status Installer::stageAll(Job& job, std::stop_token stop) {
  for (const Payload* payload : job.payloads) {
    if (stop.stop_requested()) return fail(Reason::Cancelled, "wayleave-managementd is stopping");
    if (Status staged = stage(job, *payload, stop); !staged)
      return staged.error().message.starts_with(payload->header.label())
                 ? staged
                 : Status(withContext(staged.error(), payload->header.label()));
  }
  return {};
}

Status Installer::stage(Job& job, const Payload& payload, std::stop_token stop) {
  Result<IdentityInfo> identity = [&]() -> Result<IdentityInfo> {
    if (payload.as<Pkcs12Payload>() != nullptr) return importPkcs12(job, payload);
    const EnrolmentRequest request{job.installation, job.plan.identifier, job.plan.accessGroups.at(payload.header.uuid),
                                   payload, job.trustAnchors};
    return parts_.enroller->enroll(
        request, [&](std::string_view sentence) { progress_(job.plan.identifier, sentence); }, stop);
  }();
  if (!identity) return propagate(identity.error());
  if (Status valid = checkValidity(*identity); !valid) return valid;
  const InstalledIdentity staged{payload.header.uuid, identity->id, identity->reference};
  if (Status noted = parts_.store.noteIdentity(job.installation, staged); !noted) return noted;
  job.staged.push_back(staged);
  return {};
}

Result<IdentityInfo> Installer::importPkcs12(const Job& job, const Payload& payload) {
  const Pkcs12Payload& pkcs12 = *payload.as<Pkcs12Payload>();
  progress_(job.plan.identifier, "importing " + payload.header.displayName);
  localapi::ImportRequest request;
  request.installation = job.installation;
  request.profileIdentifier = job.plan.identifier;
  request.payloadIdentifier = payload.header.identifier;
  request.payloadUuid = payload.header.uuid;
  request.label = payload.header.displayName;
  request.accessGroup = job.plan.accessGroups.at(payload.header.uuid);
  request.pkcs12 = toBytes(pkcs12.content.view());
  request.hasPassword = pkcs12.password.has_value();
  if (pkcs12.password) request.password = pkcs12.password->clone();
  return parts_.agent.importPkcs12(std::move(request));
}

Status Installer::checkValidity(const IdentityInfo& identity) {
  // RFC 3339 in UTC with seconds sorts as text.
  const std::string now = rfc3339(parts_.clock.wallNow());
  if (!identity.notAfter.empty() && identity.notAfter < now)
    return fail(Reason::IdentityExpired, "the certificate of " + identity.subject + " expired on " + identity.notAfter,
                "get a new one from its CA, or set this machine's clock");
  return {};
}

Result<uint64_t> Installer::commit(const std::string& installation, const std::string& identifier, bool replaces,
                                   std::chrono::milliseconds patience, std::stop_token stop) {
  const std::vector<std::string> replaced = replaces ? std::vector{identifier} : std::vector<std::string>{};
  const Steady deadline = parts_.clock.now() + patience;
  std::chrono::milliseconds pause = kFirstRetry;
  for (;;) {
    const Status committed = parts_.agent.commitInstallation(installation, replaced);
    if (committed) break;
    if (!isAbsence(committed.error())) {
      // identityd has lost what was staged: there is nothing left to install.
      log::failure("identityd refuses the commit", committed.error(), {{"installation", installation}});
      abort(installation);
      return withContext(committed.error(), "commit at wayleave-identityd");
    }
    if (parts_.clock.now() >= deadline || stoppedWithin(pause, stop))
      return fail(Reason::Pending, "the profile is decided, but wayleave-identityd did not confirm: " + committed.error().message,
                  "it is finished as soon as wayleave-identityd answers; `wayleave profile list` shows it then");
    pause = std::min(pause * 2, kLastRetry);
  }
  Result<uint64_t> sequence = parts_.store.finish(installation);
  if (!sequence) return sequence;
  if (parts_.enroller != nullptr) parts_.enroller->settled(installation, true);
  if (replaces) forgetUnused();
  log::info("profile installed", {{"identifier", identifier}, {"installation", installation}});
  changed_(*sequence, "profile-installed", identifier);
  return sequence;
}

void Installer::abort(const std::string& installation) {
  // When identityd is away now, it is told at the next recover(): it holds an installation that we do not know.
  if (const Status aborted = parts_.agent.abortInstallation(installation); !aborted)
    log::warn("identityd was not told of the abort",
              {{"installation", installation}, {"error", describe(aborted.error())}});
  if (const Status forgotten = parts_.store.forget(installation); !forgotten)
    log::failure("cannot forget an installation", forgotten.error(), {{"installation", installation}});
  if (parts_.enroller != nullptr) parts_.enroller->settled(installation, false);
  // Nothing that enrolment keeps is forgotten: who failed for the moment tries again, with the same account at the CA.
}

// What enrolment keeps for profiles that are gone.
void Installer::forgetUnused() {
  if (parts_.enroller == nullptr) return;
  const Result<std::vector<ProfileRecord>> installed = parts_.store.profiles();
  const Result<std::vector<ProfileRecord>> unfinished = parts_.store.unfinished();
  if (!installed || !unfinished) return;
  std::vector<EnrolmentRecord> kept;
  for (const auto* records : {&*installed, &*unfinished})
    for (const ProfileRecord& record : *records) {
      if (record.enrolment.empty() || record.state == InstallState::Removing) continue;
      Result<EnrolmentRecord> read = readEnrolment(record.enrolment, parts_.clock.wallNow());
      if (!read) return;  // what it needs cannot be told: everything stays
      kept.push_back(std::move(*read));
    }
  std::vector<const Payload*> payloads;
  for (const EnrolmentRecord& record : kept)
    for (const Payload& payload : record.profile.payloads) payloads.push_back(&payload);
  parts_.enroller->forgetAllBut(payloads);
}

Status Installer::remove(const std::string& identifier, std::stop_token stop) {
  Result<uint64_t> sequence = parts_.store.beginRemoval(identifier);
  if (!sequence) return propagate(sequence.error());
  // Configurations go first: nobody may use an identity that is about to vanish.
  changed_(*sequence, "profile-removed", identifier);
  const Steady deadline = parts_.clock.now() + parts_.commitPatience;
  std::chrono::milliseconds pause = kFirstRetry;
  for (;;) {
    const Status removed = parts_.agent.removeProfileIdentities(identifier);
    if (removed || removed.error().reason == Reason::NotFound) break;
    if (!isAbsence(removed.error())) return withContext(removed.error(), "remove the identities at wayleave-identityd");
    if (parts_.clock.now() >= deadline || stoppedWithin(pause, stop))
      return fail(Reason::Pending, "its configurations are gone, but wayleave-identityd did not answer: " + removed.error().message,
                  "its identities go as soon as wayleave-identityd answers");
    pause = std::min(pause * 2, kLastRetry);
  }
  log::info("profile removed", {{"identifier", identifier}});
  const Status finished = parts_.store.finishRemoval(identifier);
  forgetUnused();
  return finished;
}

bool Installer::recover(std::stop_token stop) {
  const Result<std::vector<ProfileRecord>> records = parts_.store.unfinished();
  if (!records) {
    log::failure("cannot read unfinished installations", records.error());
    return false;
  }
  bool all = true;
  for (const ProfileRecord& record : *records) {
    if (stop.stop_requested()) return false;
    all = recoverOne(record, stop) && all;
  }
  return abortStrangers() && all;
}

bool Installer::recoverOne(const ProfileRecord& record, std::stop_token stop) {
  switch (record.state) {
    case InstallState::Installed: return true;
    case InstallState::Preparing: return resume(record, stop);
    case InstallState::Committing: {
      const Result<ProfileRecord> before = parts_.store.profile(record.identifier);
      const Result<uint64_t> done =
          commit(record.installation, record.identifier, before.has_value(), std::chrono::milliseconds{0}, stop);
      return done || done.error().reason != Reason::Pending;
    }
    case InstallState::Removing: {
      const Status removed = parts_.agent.removeProfileIdentities(record.identifier);
      if (!removed && removed.error().reason != Reason::NotFound) {
        log::failure("cannot finish a removal yet", removed.error(), {{"identifier", record.identifier}});
        return false;
      }
      log::info("profile removed", {{"identifier", record.identifier}});
      const bool finished = parts_.store.finishRemoval(record.identifier).has_value();
      forgetUnused();
      return finished;
    }
  }
  return true;
}

// An enrolment that a crash or a stop interrupted goes on; anything else that was only being prepared is taken back: the
// caller who waited for it is gone.
bool Installer::resume(const ProfileRecord& record, std::stop_token stop) {
  const auto giveUp = [&](std::string_view why) {
    log::warn("installation taken back", {{"identifier", record.identifier}, {"because", std::string(why)}});
    abort(record.installation);
    return true;
  };
  if (record.enrolment.empty() || parts_.enroller == nullptr) return giveUp("it was interrupted");
  const Result<EnrolmentRecord> kept = readEnrolment(record.enrolment, parts_.clock.wallNow());
  if (!kept) return giveUp(describe(kept.error()));

  Job job;
  job.installation = record.installation;
  job.plan = kept->plan;
  job.trustAnchors = trustAnchorsOf(kept->profile);
  job.summary = record.summary;
  job.staged = record.identities;
  const Result<ProfileRecord> before = parts_.store.profile(record.identifier);
  job.replaces = before.has_value();
  for (const std::string& uuid : job.plan.identityPayloads) {
    if (std::ranges::find(job.staged, uuid, &InstalledIdentity::payloadUuid) != job.staged.end()) continue;
    const Payload* payload = kept->profile.findPayload(uuid);
    if (payload == nullptr) return giveUp("it was interrupted before its other identities were staged");
    job.payloads.push_back(payload);
  }
  if (const Status begun = parts_.agent.beginInstallation(record.installation); !begun) {
    if (isAbsence(begun.error())) return false;
    return giveUp(describe(begun.error()));
  }
  if (takenUp_.insert(record.installation).second)
    log::info("installation taken up again", {{"identifier", record.identifier}, {"installation", record.installation}});
  const Result<InstallOutcome> outcome = prepareAndCommit(job, stop);
  return outcome || (outcome.error().reason != Reason::Pending && outcome.error().reason != Reason::Cancelled);
}

bool Installer::abortStrangers() {
  const Result<std::vector<std::string>> pending = parts_.agent.pendingInstallations();
  const Result<std::vector<ProfileRecord>> known = parts_.store.unfinished();
  if (!pending || !known) {
    // Once, not every few seconds while identityd is away.
    if (!std::exchange(complained_, true))
      log::failure("cannot compare installations with identityd yet", pending ? known.error() : pending.error());
    return false;
  }
  complained_ = false;
  bool all = true;
  for (const std::string& installation : *pending) {
    if (std::ranges::find(*known, installation, &ProfileRecord::installation) != known->end()) continue;
    log::warn("identityd holds an installation that is not ours; aborted", {{"installation", installation}});
    all = parts_.agent.abortInstallation(installation).has_value() && all;
  }
  return all;
}

}  // namespace wayleave::management
