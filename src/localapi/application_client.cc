#include "localapi/application_client.h"

#include <algorithm>

#include "base/log.h"
#include "localapi/client.h"
#include "localapi/identity_json.h"
#include "localapi/json_reader.h"
#include "localapi/pause.h"
#include "localapi/url.h"

namespace wayleave::localapi {
namespace {

constexpr std::chrono::milliseconds kFirstRetry{100};
constexpr std::chrono::milliseconds kLastRetry{5'000};

Result<ApplicationIdentities> identitiesFromLine(std::string_view line) {
  const Result<nlohmann::json> document = parseJson(line);
  if (!document) return propagate(document.error());
  ApplicationIdentities out;
  ObjectReader reader(*document, "line");
  reader.texts("identifiers", out.identifiers);
  reader.texts("changed", out.changed, ObjectReader::Need::Optional);
  if (Status read = reader.finish(ObjectReader::Unknown::Ignore); !read) return propagate(read.error());
  return out;
}

}  // namespace

std::string_view text(ManagedAppError error) {
  switch (error) {
    case ManagedAppError::InvalidIdentifier: return "invalidIdentifier";
    case ManagedAppError::InternalError: return "internalError";
    case ManagedAppError::ServerError: return "serverError";
  }
  return "corrupted";
}

ManagedAppError managedAppError(const Error& error) {
  if (error.reason == Reason::NotFound) return ManagedAppError::InvalidIdentifier;
  if (error.reason == Reason::ServerError) return ManagedAppError::ServerError;
  return ManagedAppError::InternalError;
}

Result<IdentityInfo> applicationIdentity(const std::string& socketPath, std::string_view identifier,
                                         std::chrono::milliseconds timeout) {
  const Client client(socketPath, timeout);
  const Result<std::string> answer =
      client.callJson("GET", "/v1/application/identities/" + percentEncode(identifier));
  if (!answer) return propagate(answer.error());
  const Result<nlohmann::json> document = parseJson(*answer);
  Result<IdentityInfo> identity = document ? identityInfoFromJson(*document) : propagate(document.error());
  if (!identity) return fail(Reason::Internal, "answer of wayleave-identityd: " + identity.error().message);
  return identity;
}

void followApplicationIdentities(const std::string& socketPath, std::stop_token stop,
                                 const std::function<bool(const ApplicationIdentities&)>& onList,
                                 const std::function<bool(const Error&)>& onTrouble) {
  const Client client(socketPath);
  std::chrono::milliseconds pause = kFirstRetry;
  bool wanted = true;
  while (wanted && !stop.stop_requested()) {
    const Status ended = client.follow(
        "/v1/application/identities",
        [&](std::string_view line) {
          const Result<ApplicationIdentities> list = identitiesFromLine(line);
          if (!list) {
            log::failure("application identities: line skipped", list.error());
            return true;
          }
          pause = kFirstRetry;
          wanted = onList(*list);
          return wanted;
        },
        stop);
    if (!wanted || stop.stop_requested()) return;
    if (!ended && onTrouble && !onTrouble(ended.error())) return;
    if (stoppedWithin(pause, stop)) return;
    pause = std::min(pause * 2, kLastRetry);
  }
}

}  // namespace wayleave::localapi
