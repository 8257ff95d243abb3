#pragma once

// What becomes of an identity that device management delivers to a Mac: the keychain it lands in, the form of the
// reference that a provider receives, and the processes that can use it.

#include <string>
#include <string_view>
#include <vector>

#include "keychain/explain/statement.h"

namespace wayleave::keychain::explain {

enum class DeliverySource : uint8_t { Pkcs12, Scep, Acme };
std::string_view text(DeliverySource source);  // "PKCS#12"
enum class DeliveryChannel : uint8_t { Device, User };

struct Delivery {
  DeliverySource source = DeliverySource::Pkcs12;
  DeliveryChannel channel = DeliveryChannel::Device;
  bool hardwareBound = false;  // ACME only
  bool attest = false;
  bool keyIsExtractable = true;
  bool allowAllAppsAccess = false;
  bool hardwareBoundKnown = true;  // false for a declaration whose credential document is elsewhere
};

enum class Usable : uint8_t { Yes, No, Unknown };
std::string_view text(Usable usable);
struct ProcessUse {
  std::string context;  // id of dispatch::contexts()
  std::string title;
  Usable usable = Usable::Unknown;
  std::string why;
  Certainty certainty = Certainty::Unknown;
};

struct Fate {
  Statement keychain;
  Statement reference;
  std::vector<ProcessUse> processes;
  std::vector<Statement> remarks;
};
Fate fateOf(const Delivery& delivery);

}  // namespace wayleave::keychain::explain
