#pragma once

// The enrolment as it survives a restart: one JSON file, mode 0600, replaced atomically. It is the decision record of
// enrolling and of leaving (client.h); no key material, no passwords.

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::enrolment::mdm {

enum class Stage : uint8_t {
  Installing,      // the profile is being installed; nobody else knows yet
  Authenticating,  // it is installed; the server has not accepted Authenticate
  Announcing,      // the server knows us; TokenUpdate is due
  Enrolled,
  Leaving,  // decided: everything goes
};
std::string_view text(Stage stage);  // "installing", …

struct State {
  Stage stage = Stage::Installing;
  std::string profile;  // PayloadIdentifier of the enrolment profile
  // PayloadUUID of its identity. While the profile is being replaced, the new one's too: whichever is installed counts.
  std::vector<std::string> identityPayloads;
  std::string topic, serverUrl, checkInUrl;
  bool signMessage = false, checkOutWhenRemoved = false;
  int64_t accessRights = 0;                                // 0: the profile did not say
  std::vector<std::string> anchors, serverPins, checkInPins;  // PEM
  Bytes token;
  std::string pushMagic;
  std::set<std::string> managed;  // identifiers of the profiles that the server installed, or is installing
  bool declarative = false;       // the server turned declarative management on
  bool synchronise = false;       // and something may have changed there
  bool checkOut = false;          // Leaving: the server is still to be told
  std::string leavingBecause;
  // An answer that the server may not have yet: a command is carried out once, even if its answer is lost.
  std::string unsent;
  std::string enrolledAt, lastContact;  // RFC 3339
};

class StateFile {
 public:
  explicit StateFile(std::string path) : path_(std::move(path)) {}
  // nullopt: not enrolled. Errors: Io, BadInput (a file that is not ours).
  Result<std::optional<State>> load() const;
  Status save(const State& state) const;
  Status remove() const;  // idempotent

 private:
  std::string path_;
};

}  // namespace wayleave::enrolment::mdm
