#include "observe/flow_record.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/log.h"

namespace wayleave::observe {

std::string_view text(Carriage carriage) {
  switch (carriage) {
    case Carriage::Tunnel: return "tunnel";
    case Carriage::Direct: return "direct";
    case Carriage::Refuse: return "refuse";
  }
  return "corrupted";
}

std::string toJson(const FlowRecord& record) {
  nlohmann::ordered_json json{
      {"id", record.id},
      {"started", rfc3339(record.started)},
      {"ended", rfc3339(record.started + std::chrono::duration_cast<Wall::duration>(record.duration))},
      {"durationMs", std::chrono::duration_cast<std::chrono::milliseconds>(record.duration).count()},
      {"decision", text(record.carriage)},
      {"outcome", text(record.outcome)},
      {"source", record.source},
      {"destination", record.destination},
      {"host", record.host},
      {"configuration", record.configuration},
      {"bytesUp", record.bytesUp},
      {"bytesDown", record.bytesDown},
      {"error", record.error},
  };
  if (record.user) json["user"] = *record.user;
  // A host name is the client's text: bytes that are not UTF-8 must not throw here.
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

void writeToLog(const FlowRecord& record) {
  const bool orderly = record.outcome == Reason::Completed || record.outcome == Reason::Drained ||
                       record.outcome == Reason::ClientReset || record.outcome == Reason::TargetReset;
  log::write(orderly ? log::Level::Info : log::Level::Warning, "flow ended",
             {{"decision", std::string(text(record.carriage))},
              {"outcome", std::string(text(record.outcome))},
              {"destination", record.destination},
              {"host", record.host},
              {"source", record.source},
              {"user", record.user ? std::to_string(*record.user) : std::string("-")},
              {"configuration", record.configuration},
              {"up", std::to_string(record.bytesUp)},
              {"down", std::to_string(record.bytesDown)},
              {"ms", fmt::format("{:.1f}", std::chrono::duration<double, std::milli>(record.duration).count())},
              {"error", record.error}});
}

}  // namespace wayleave::observe
