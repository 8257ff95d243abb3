#pragma once

// What is written down when a flow ends, once and in one vocabulary: the line in the log, the row of GET /v1/flows and the
// event of GET /v1/watch say the same.

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/result.h"

namespace wayleave::observe {

// What was done with a flow in the end (a tunnel that failed and went direct by policy is Direct).
enum class Carriage : uint8_t { Tunnel, Direct, Refuse };
inline constexpr size_t kCarriages = 3;
std::string_view text(Carriage carriage);  // "tunnel", "direct", "refuse"

struct FlowRecord {
  uint64_t id = 0;  // unique while the process lives
  Wall started{};
  std::chrono::nanoseconds duration{};
  Carriage carriage = Carriage::Tunnel;
  Reason outcome = Reason::Completed;
  std::string error;          // a sentence, when there is more to say than the outcome
  std::string source;         // "192.0.2.1:41234"
  std::string destination;    // "198.51.100.1:443"
  std::string host;           // from SNI or Host; empty when nobody asked or there was none
  std::string configuration;  // its id; empty when no configuration wanted the flow
  uint64_t bytesUp = 0;       // from the application
  uint64_t bytesDown = 0;     // to the application
  std::optional<uint32_t> user;
};

std::string toJson(const FlowRecord& record);
void writeToLog(const FlowRecord& record);

}  // namespace wayleave::observe
