#include "broker/application_streams.h"

#include <algorithm>

#include "localapi/json_reader.h"

namespace wayleave::broker {

ApplicationStreams::Values ApplicationStreams::valuesOf(const Entitlements& entitled) const {
  Values values;
  for (const localapi::DeclaredApplication::Item& item : entitled.provisions()) {
    if (!item.problem.empty()) {
      values.emplace(item.identifier, "problem: " + item.problem);  // it is provisioned; asking for it says what failed
    } else if (!item.identity.empty()) {
      if (std::optional<std::string> version = version_(item.identity))
        values.emplace(item.identifier, item.identity + " " + *version);
    }
  }
  return values;
}

bool ApplicationStreams::yield(Stream& stream, Values now) {
  nlohmann::json identifiers = nlohmann::json::array();
  nlohmann::json changed = nlohmann::json::array();
  for (const auto& [name, version] : now) {
    identifiers.push_back(name);
    const auto before = stream.last.find(name);
    if (before == stream.last.end() || before->second != version) changed.push_back(name);
  }
  stream.last = std::move(now);
  return stream.stream->send(
      localapi::dump({{"identifiers", std::move(identifiers)}, {"changed", std::move(changed)}}));
}

Status ApplicationStreams::add(const std::function<std::shared_ptr<localapi::EventStream>()>& open,
                               Entitlements entitled, uid_t uid) {
  const std::lock_guard lock(mutex_);
  std::erase_if(streams_, [](const Stream& stream) { return !stream.stream->isOpen(); });
  const auto own = std::ranges::count_if(streams_, [&](const Stream& stream) { return stream.uid == uid; });
  if (streams_.size() >= kMost || static_cast<size_t>(own) >= kMostPerUser)
    return fail(Reason::Busy, "too many programs of this user follow their identities",
                "one stream per program is enough");
  Stream stream{open(), std::move(entitled), uid, {}};
  Values now = valuesOf(stream.entitled);
  if (yield(stream, std::move(now))) streams_.push_back(std::move(stream));
  return {};
}

void ApplicationStreams::refresh(const Declared& declared) {
  const std::lock_guard lock(mutex_);
  std::erase_if(streams_, [&](Stream& stream) {
    if (declared) stream.entitled.redeclare(declared);
    Values now = valuesOf(stream.entitled);
    return now == stream.last ? !stream.stream->isOpen() : !yield(stream, std::move(now));
  });
}

void ApplicationStreams::closeAll() {
  const std::lock_guard lock(mutex_);
  streams_.clear();
}

size_t ApplicationStreams::count() {
  const std::lock_guard lock(mutex_);
  std::erase_if(streams_, [](const Stream& stream) { return !stream.stream->isOpen(); });
  return streams_.size();
}

}  // namespace wayleave::broker
