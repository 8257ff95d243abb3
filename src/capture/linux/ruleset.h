#pragma once

// Compiles the rules of all configurations into nftables text.

#include <string>

#include "capture/capture.h"

namespace wayleave::capture::platform {

struct RulesetOptions {
  Endpoint listenerV4;
  std::optional<Endpoint> listenerV6;
  bool replace = false;  // the table exists and is ours: delete it in the same transaction
};

// Whether any flow could be caught at all.
bool catchesAnything(const CapturePlan& plan);

// A complete `nft -f` script. All numbers and addresses are printed by us; no text of a profile gets in.
std::string compileRuleset(const CapturePlan& plan, const RulesetOptions& options);

}  // namespace wayleave::capture::platform
