#pragma once

// What the capture leaves visible in the kernel, in one place: these numbers are documented in docs/operations.md and an
// administrator's own rules may refer to them.

#include <cstdint>

namespace wayleave::capture::platform {

inline constexpr char kTableName[] = "wayleave";        // nftables, family inet
inline constexpr uint32_t kOwnMark = 0x57;              // SO_MARK of every socket of ours
inline constexpr uint32_t kCaptureMark = 0x58;          // packet and connection mark of captured flows
inline constexpr uint32_t kRouteTable = 0x5758;         // 22360: one local route per family
inline constexpr uint32_t kRulePriority = 5758;         // before the main table (32766), after "local" (0)
inline constexpr uint8_t kRouteProtocol = 0x57;         // 87, the "proto" of our rules and routes; unassigned in rt_protos
inline constexpr uint32_t kFallbackRouteMetric = 9999;  // loses against any real default route

}  // namespace wayleave::capture::platform
