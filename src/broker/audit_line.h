#pragma once

// One line of the audit log: made, and taken apart.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "broker/audit.h"

namespace wayleave::broker {

// The `prev` of line 1.
std::string auditGenesis();
// Without the line feed.
std::string auditLine(const AuditEntry& entry, uint64_t sequence, std::string_view time, std::string_view previous);

struct AuditLine {
  uint64_t sequence = 0;
  std::string previous, hash;
  std::string event, detail;
};
// Checks the line's own hash. Errors: BadInput (not a line of ours), SignatureInvalid (its hash does not fit).
Result<AuditLine> parseAuditLine(std::string_view line);

// What audit.head holds.
struct AuditHead {
  uint64_t first = 1, last = 0;
  std::string hash;
};
inline constexpr size_t kAuditHeadBytes = 160;  // fixed, so that it is overwritten in one piece
std::string formatAuditHead(const AuditHead& head);
std::optional<AuditHead> parseAuditHead(std::string_view text);

}  // namespace wayleave::broker
