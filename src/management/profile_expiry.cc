#include "management/profile_expiry.h"

#include <time.h>

#include <algorithm>

#include "base/file.h"
#include "base/log.h"
#include "localapi/json_reader.h"

namespace wayleave::management {
namespace {

using nlohmann::json;
using std::chrono::duration_cast;
using std::chrono::milliseconds;
using std::chrono::seconds;

// The wall clock may be set at any moment: a date is looked at so often at least.
constexpr milliseconds kLongestPause = std::chrono::minutes{1};
constexpr milliseconds kShortestPause{50};
// What was counted is written down so often: a power cut forgets no more.
constexpr seconds kNoteEvery{30};

struct Removal {
  std::optional<Wall> date;
  std::optional<seconds> duration;
  // Of the duration: what had passed when it was last written down, at which moment.
  seconds passed{0};
  std::string boot;  // empty: it has not begun
  seconds uptime{0};
  Wall wall{};
};

int64_t secondsOf(Wall time) { return duration_cast<seconds>(time.time_since_epoch()).count(); }

std::string write(const Removal& removal) {
  json out = json::object();
  if (removal.date) out["date"] = secondsOf(*removal.date);
  if (removal.duration) out["duration"] = removal.duration->count();
  if (removal.duration)
    out["counted"] = {{"passed", removal.passed.count()}, {"boot", removal.boot}, {"uptime", removal.uptime.count()}, {"wall", secondsOf(removal.wall)}};
  return out.empty() ? std::string() : localapi::dump(out);
}

std::optional<Removal> read(const std::string& text) {
  if (text.empty()) return std::nullopt;
  const Result<json> document = localapi::parseJson(text);
  if (!document || !document->is_object()) return std::nullopt;
  const auto number = [](const json& object, const char* name) -> std::optional<int64_t> {
    const auto found = object.find(name);
    return found != object.end() && found->is_number_integer() ? std::optional(found->get<int64_t>()) : std::nullopt;
  };
  Removal out;
  if (const auto date = number(*document, "date")) out.date = Wall{seconds{*date}};
  if (const auto duration = number(*document, "duration")) out.duration = seconds{*duration};
  if (const auto counted = document->find("counted"); counted != document->end() && counted->is_object()) {
    out.passed = seconds{number(*counted, "passed").value_or(0)};
    out.boot = counted->value("boot", json()).is_string() ? counted->at("boot").get<std::string>() : std::string();
    out.uptime = seconds{number(*counted, "uptime").value_or(0)};
    out.wall = Wall{seconds{number(*counted, "wall").value_or(0)}};
  }
  return out;
}

}  // namespace

std::string removalOf(const Profile& profile, Wall now) {
  Removal removal;
  removal.wall = now;
  removal.date = profile.removalDate;
  removal.duration = profile.durationUntilRemoval;
  return write(removal);
}

std::string expectedRemoval(const ProfileRecord& profile) {
  const std::optional<Removal> removal = read(profile.removal);
  if (!removal) return {};
  std::optional<Wall> when = removal->date;
  if (removal->duration) {
    const Wall end = removal->wall + (*removal->duration - removal->passed);
    when = when ? std::min(*when, end) : end;
  }
  return when ? rfc3339(*when) : std::string();
}

milliseconds ProfileExpiry::uptime() {
  timespec time{};
  ::clock_gettime(CLOCK_BOOTTIME, &time);
  return duration_cast<milliseconds>(seconds{time.tv_sec} + std::chrono::nanoseconds{time.tv_nsec});
}

std::string ProfileExpiry::boot() {
  const Result<Bytes> id = readFile("/proc/sys/kernel/random/boot_id", 128);
  std::string text = id ? std::string(asText(*id)) : std::string();
  while (text.ends_with('\n')) text.pop_back();
  return text.empty() ? "unknown" : text;  // then restarts are told apart by nothing, and the wall clock is never asked
}

ProfileExpiry::ProfileExpiry(Parts parts) : parts_(std::move(parts)), started_(parts_.uptime()) {}

ProfileExpiry::Look ProfileExpiry::look() {
  Look out;
  const Result<std::vector<ProfileRecord>> installed = parts_.store.profiles();
  if (!installed) {
    log::failure("cannot look for profiles that are to be removed", installed.error());
    out.again = kLongestPause;
    return out;
  }
  const milliseconds now = parts_.uptime();
  const Wall wall = parts_.clock.wallNow();
  const bool settled = now - started_ >= parts_.settle;
  std::map<std::string, milliseconds> dueSince;
  for (const ProfileRecord& profile : *installed) {
    std::optional<Removal> removal = read(profile.removal);
    if (!removal) continue;
    milliseconds left = kLongestPause;
    bool due = false;
    if (removal->date) {
      due = wall >= *removal->date;
      if (!due) left = std::min(left, duration_cast<milliseconds>(*removal->date - wall) + milliseconds{1});
    }
    if (removal->duration) {
      const bool begins = removal->boot.empty();
      const bool sameBoot = removal->boot == parts_.boot;
      const milliseconds since = sameBoot ? now - removal->uptime : duration_cast<milliseconds>(wall - removal->wall);
      const milliseconds passed = begins ? milliseconds{0} : removal->passed + std::max(milliseconds{0}, since);
      due = due || passed >= *removal->duration;
      if (passed < *removal->duration) left = std::min(left, duration_cast<milliseconds>(*removal->duration - passed) + milliseconds{1});
      if (begins || (sameBoot ? now - removal->uptime >= kNoteEvery : settled)) {
        removal->passed = duration_cast<seconds>(passed);
        removal->boot = parts_.boot;
        removal->uptime = duration_cast<seconds>(now);
        removal->wall = wall;
        if (const Status noted = parts_.store.noteRemoval(profile.installation, write(*removal)); !noted) log::failure("cannot note when a profile goes", noted.error());
      }
    }
    if (due) {
      const auto before = dueSince_.find(profile.installation);
      const milliseconds since = before == dueSince_.end() ? now : before->second;
      dueSince.emplace(profile.installation, since);
      if (now - since >= parts_.settle)
        out.due.push_back(profile.identifier);
      else
        left = std::min(left, parts_.settle - (now - since));
    }
    out.again = std::max(kShortestPause, std::min(left, out.again.value_or(kLongestPause)));
  }
  dueSince_ = std::move(dueSince);
  return out;
}

}  // namespace wayleave::management
