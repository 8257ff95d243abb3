// What an enrolment profile says, as a state to begin with.

#include <algorithm>

#include "enrolment/mdm/client.h"
#include "management/installer_plan.h"

namespace wayleave::enrolment::mdm {
namespace {

std::vector<std::string> pinned(const management::Profile& profile, const std::vector<std::string>& uuids) {
  std::vector<std::string> out;
  for (const std::string& uuid : uuids) {
    const management::Payload* payload = profile.findPayload(uuid);
    const auto* certificates = payload == nullptr ? nullptr : payload->as<management::CertificatePayload>();
    if (certificates == nullptr) continue;  // the importer has seen to it
    for (const management::CertificateInfo& certificate : certificates->certificates) out.push_back(management::toPem(certificate.der));
  }
  return out;
}

}  // namespace

Result<State> stateFor(const management::Profile& profile) {
  const management::MdmPayload* mdm = nullptr;
  for (const management::Payload& payload : profile.payloads) {
    const auto* found = payload.as<management::MdmPayload>();
    if (found != nullptr && mdm != nullptr) return fail(Reason::BadInput, "the profile has more than one com.apple.mdm payload");
    if (found != nullptr) mdm = found;
  }
  if (mdm == nullptr)
    return fail(Reason::BadInput, "the profile has no com.apple.mdm payload", "`wayleave profile install` installs it without an enrolment");
  if (mdm->enrollmentMode == "BYOD" || !mdm->managedAppleId.empty())
    return fail(Reason::Unsupported, "user enrolment (EnrollmentMode BYOD, ManagedAppleID) is not supported", "enrol the device instead");
  if (mdm->pinningRevocationCheckRequired)
    return fail(Reason::Unsupported, "PinningRevocationCheckRequired: this version cannot check revocation", "leave the key out");
  for (const management::Payload& payload : profile.payloads)
    if (const auto* vpn = payload.as<management::VpnPayload>())
      if (vpn->identityPayloadUuid() == mdm->identityPayloadUuid)
        return fail(Reason::BadInput, payload.header.label() + " uses the identity of com.apple.mdm, which serves for nothing else",
                    "give it an identity payload of its own");

  State state;
  state.profile = profile.identifier;
  state.identityPayloads = {mdm->identityPayloadUuid};
  state.topic = mdm->topic;
  state.serverUrl = mdm->serverUrl;
  state.checkInUrl = mdm->checkInUrl;
  state.signMessage = mdm->signMessage;
  state.checkOutWhenRemoved = mdm->checkOutWhenRemoved;
  state.accessRights = mdm->accessRights;
  state.anchors = management::trustAnchorsOf(profile);
  state.serverPins = pinned(profile, mdm->serverPinningPayloadUuids);
  state.checkInPins = pinned(profile, mdm->checkInPinningPayloadUuids);
  return state;
}

}  // namespace wayleave::enrolment::mdm
