#include "enrolment/journal.h"

#include <unistd.h>

#include <cerrno>

#include <nlohmann/json.hpp>

#include "base/file.h"

namespace wayleave::enrolment {

Result<Journal> Journal::open(std::string path) {
  Journal journal(std::move(path));
  const Result<Bytes> bytes = readFile(journal.path_, 64 * 1024);
  if (!bytes && bytes.error().reason == Reason::NotFound) return journal;
  if (!bytes) return withContext(bytes.error(), "the enrolment's journal");
  const auto json = nlohmann::json::parse(bytes->begin(), bytes->end(), nullptr, false);
  const auto member = [&](const char* name) { return json.contains(name) && json[name].is_string(); };
  if (!json.is_object() || !member("key") || !member("directory") || !member("order") || !json.contains("answered") || !json["answered"].is_boolean())
    return fail(Reason::BadInput, journal.path_ + " is not an enrolment's journal", "move the file away to enrol anew");
  journal.entry_ = {json["key"], json["directory"], json["order"], json["answered"]};
  return journal;
}

Status Journal::record(JournalEntry entry) {
  const nlohmann::json json = {{"key", entry.key}, {"directory", entry.directory}, {"order", entry.order}, {"answered", entry.answered}};
  if (Status written = writeFileAtomically(path_, asBytes(json.dump()), 0600); !written) return withContext(written.error(), "the enrolment's journal");
  entry_ = std::move(entry);
  return {};
}

Status Journal::remove() {
  if (::unlink(path_.c_str()) != 0 && errno != ENOENT) return std::unexpected(errnoError(errno, "remove " + path_));
  entry_ = {};
  return {};
}

}  // namespace wayleave::enrolment
