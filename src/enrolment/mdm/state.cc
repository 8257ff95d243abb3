#include "enrolment/mdm/state.h"

#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/file.h"
#include "localapi/json_reader.h"

namespace wayleave::enrolment::mdm {
namespace {

using localapi::ObjectReader;
using nlohmann::json;

constexpr size_t kMostBytes = 8 * 1024 * 1024;
constexpr std::array kStages{Stage::Installing, Stage::Authenticating, Stage::Announcing, Stage::Enrolled, Stage::Leaving};

}  // namespace

std::string_view text(Stage stage) {
  switch (stage) {
    case Stage::Installing: return "installing";
    case Stage::Authenticating: return "authenticating";
    case Stage::Announcing: return "announcing";
    case Stage::Enrolled: return "enrolled";
    case Stage::Leaving: return "leaving";
  }
  return "?";
}

Result<std::optional<State>> StateFile::load() const {
  const Result<Bytes> file = readFile(path_, kMostBytes);
  if (!file && file.error().reason == Reason::NotFound) return std::nullopt;
  if (!file) return propagate(file.error());
  const Result<json> document = localapi::parseJson(asText(*file));
  if (!document) return withContext(document.error(), path_);

  State state;
  std::string stage;
  std::vector<std::string> managed;
  int version = 0;
  ObjectReader reader(*document, "enrolment");
  reader.integer("version", version, 1, 1);
  reader.text("stage", stage);
  reader.text("profile", state.profile);
  reader.texts("identityPayloads", state.identityPayloads);
  reader.text("topic", state.topic);
  reader.text("serverUrl", state.serverUrl);
  reader.text("checkInUrl", state.checkInUrl);
  reader.boolean("signMessage", state.signMessage);
  reader.boolean("checkOutWhenRemoved", state.checkOutWhenRemoved);
  reader.integer("accessRights", state.accessRights, 0, INT32_MAX);
  reader.texts("anchors", state.anchors);
  reader.texts("serverPins", state.serverPins);
  reader.texts("checkInPins", state.checkInPins);
  reader.bytes("token", state.token);
  reader.text("pushMagic", state.pushMagic);
  reader.texts("managed", managed);
  reader.boolean("declarative", state.declarative);
  reader.boolean("synchronise", state.synchronise);
  reader.boolean("checkOut", state.checkOut);
  reader.text("leavingBecause", state.leavingBecause);
  reader.text("unsent", state.unsent);
  reader.text("enrolledAt", state.enrolledAt);
  reader.text("lastContact", state.lastContact);
  if (Status read = reader.finish(); !read) return withContext(read.error(), path_);
  const auto found = std::ranges::find_if(kStages, [&](Stage known) { return text(known) == stage; });
  if (found == kStages.end()) return fail(Reason::BadInput, path_ + ": unknown stage " + stage);
  state.stage = *found;
  state.managed = {managed.begin(), managed.end()};
  return state;
}

Status StateFile::save(const State& state) const {
  const json document{{"version", 1},
                      {"stage", text(state.stage)},
                      {"profile", state.profile},
                      {"identityPayloads", state.identityPayloads},
                      {"topic", state.topic},
                      {"serverUrl", state.serverUrl},
                      {"checkInUrl", state.checkInUrl},
                      {"signMessage", state.signMessage},
                      {"checkOutWhenRemoved", state.checkOutWhenRemoved},
                      {"accessRights", state.accessRights},
                      {"anchors", state.anchors},
                      {"serverPins", state.serverPins},
                      {"checkInPins", state.checkInPins},
                      {"token", toBase64(state.token)},
                      {"pushMagic", state.pushMagic},
                      {"managed", state.managed},
                      {"declarative", state.declarative},
                      {"synchronise", state.synchronise},
                      {"checkOut", state.checkOut},
                      {"leavingBecause", state.leavingBecause},
                      {"unsent", state.unsent},
                      {"enrolledAt", state.enrolledAt},
                      {"lastContact", state.lastContact}};
  return writeFileAtomically(path_, asBytes(localapi::dump(document)), 0600);
}

Status StateFile::remove() const {
  if (::unlink(path_.c_str()) == 0 || errno == ENOENT) return {};
  return propagate(errnoError(errno, "remove " + path_));
}

}  // namespace wayleave::enrolment::mdm
