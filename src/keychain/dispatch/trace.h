#pragma once

// Internal to the dispatch model: how the pieces report what they did.

#include <algorithm>

#include "keychain/dispatch/dispatch.h"

namespace wayleave::keychain::dispatch {

struct Outcome {
  OSStatus status = 0;
  std::string rule;
};

class Trace {
 public:
  void step(std::string rule, std::string text, Certainty certainty = Certainty::Code) {
    prediction.certainty = std::max(prediction.certainty, certainty);
    prediction.steps.push_back({std::move(rule), std::move(text), certainty, depth_});
  }
  Outcome decide(std::string rule, OSStatus status, std::string text, Certainty certainty = Certainty::Code) {
    step(rule, std::move(text), certainty);
    return {status, std::move(rule)};
  }
  // Runs an inner call. A failure that the outer call discards does not make its own result less sure.
  template <typename Call>
  Outcome inner(Call&& call) {
    const Certainty before = prediction.certainty;
    ++depth_;
    const Outcome outcome = call();
    --depth_;
    if (outcome.status != 0) prediction.certainty = before;
    return outcome;
  }
  void asked(Side side, OSStatus status) { prediction.asked.push_back({side, status, depth_ > 0}); }

  Prediction prediction;

 private:
  int depth_ = 0;
};

// The data protection side; which service follows from the query's kSecUseSystemKeychainAlways.
Outcome askDataProtection(Trace& trace, Api api, const Query& query, const Caller& caller, const World& world);
// The file side.
Outcome askFiles(Trace& trace, Api api, const Query& query, const Caller& caller, const World& world);
// SecKeychainItemCopyFromPersistentReference (6.7).
Outcome copyFromReference(Trace& trace, ByteView reference, const Caller& caller, const World& world);

}  // namespace wayleave::keychain::dispatch
