#pragma once

// The smallest piece of an explanation: one sentence, how sure it is, and where it can be checked.

#include <string>
#include <vector>

#include "keychain/dispatch/caller.h"

namespace wayleave::keychain::explain {

using dispatch::Certainty;

struct Statement {
  std::string text;
  Certainty certainty = Certainty::Code;
  std::string source;  // a path in Apple's source, an address, a section of docs/references.md; may be empty
};

// One way out, in the order of its evidence.
struct Advice {
  std::string what;
  std::string cost;
  Certainty certainty = Certainty::Documented;
  std::string source;
};

}  // namespace wayleave::keychain::explain
