#pragma once

// A profile to start from: what an administrator answered, written as a file that the importer takes and lint has nothing
// against. Two forms: a configuration profile with comments, and the declarations that say the same (new_declarations.h).

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "management/payload.h"

namespace wayleave::authoring {

// One network rule as people write it; several rules of NENetworkRule where one cannot say it.
//
//   corp.example  tcp:corp.example:443  10.0.0.0/8  udp:10.1.2.3:53  [fd00::]/8  [2001:db8::1]:443  *  tcp:*:443
struct NewRule {
  std::string protocol = "any";  // any, tcp, udp
  std::string host;              // or
  std::string network;           // an address, without brackets
  std::optional<int> prefix;
  int port = 0;  // 0 = any
};
// Errors: BadInput, with the form as hint. Whether host and address are any good is the importer's question.
Result<std::vector<NewRule>> parseNewRule(std::string_view text);

// "CN=device-1,O=Example" → RDNs, in this order; "\," is a comma. Errors: BadInput.
Result<management::Subject> parseSubject(std::string_view text);

enum class NewIdentity : uint8_t { Pkcs12, Scep, Acme };

struct NewProfile {
  std::string identifier;  // reverse DNS; payloads get it with a word added
  std::string name;        // people see it
  std::string organization;

  std::string gatewayUrl;
  std::string gatewayProtocol = "auto";
  std::string gatewayServerName;  // "" = the host of the URL
  std::vector<std::string> gatewayAddresses;
  std::vector<Bytes> trustAnchors;  // DER; none = the system's CA certificates
  std::vector<NewRule> included, excluded;
  bool failDirect = false;
  bool connectByName = false;

  NewIdentity identity = NewIdentity::Acme;
  management::Subject subject;  // acme and scep
  // pkcs12
  Bytes pkcs12;
  std::optional<Secret> password;
  // scep
  std::string scepUrl, scepName;
  std::optional<Secret> challenge;
  Bytes caFingerprint;
  // acme
  std::string directoryUrl, clientIdentifier, attestationUrl;
  management::KeyType keyType = management::KeyType::EcSecPrimeRandom;
  bool hardwareBound = false, attest = false;
  // acme and scep
  int keySize = 256;

  bool holdsSecret() const { return identity == NewIdentity::Pkcs12 || challenge.has_value(); }
};

// XML with comments and fresh UUIDs. Not judged here: lint the text.
std::string writeProfile(const NewProfile& profile);

}  // namespace wayleave::authoring
