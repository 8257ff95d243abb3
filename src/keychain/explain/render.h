#pragma once

// Explanations as text for people and as JSON for scripts. Pure: a terminal's colours are asked for, never guessed.

#include <nlohmann/json.hpp>
#include <string>

#include "keychain/explain/identity_delivery.h"
#include "keychain/explain/keychain_explanation.h"
#include "keychain/explain/reference_explanation.h"
#include "keychain/explain/status_explanation.h"

namespace wayleave::keychain::explain {

struct Style {
  bool colour = false;
  size_t width = 100;  // columns; longer sentences wrap
};

std::string toText(const ReferenceExplanation& explanation, const Style& style);
std::string toText(const QueryExplanation& explanation, const Style& style);
std::string toText(const StatusExplanation& explanation, const Style& style);
std::string toText(const KeychainExplanation& explanation, const Style& style);
std::string toText(const Delivery& delivery, const Fate& fate, const Style& style);

nlohmann::ordered_json toJson(const ReferenceExplanation& explanation);
nlohmann::ordered_json toJson(const QueryExplanation& explanation);
nlohmann::ordered_json toJson(const StatusExplanation& explanation);
nlohmann::ordered_json toJson(const KeychainExplanation& explanation);
nlohmann::ordered_json toJson(const Delivery& delivery, const Fate& fate);

// The bytes in lines of 16, a line or more per field, with its meaning; each field in a colour of its own.
std::string annotatedDump(ByteView bytes, const std::vector<Field>& fields, const Style& style);

// "-25291 errSecNotAvailable"
std::string statusText(OSStatus status);

}  // namespace wayleave::keychain::explain
