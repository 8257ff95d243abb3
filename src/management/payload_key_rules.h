#pragma once

// Which keys an ACME payload may ask for (com.apple.security.acme and the credential document of declarations).

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace wayleave::management {

enum class KeyType : uint8_t { Rsa, EcSecPrimeRandom };
std::string_view text(KeyType type);  // Apple's spelling: "RSA", "ECSECPrimeRandom"

// The two places where the same keys stand; the declaration drops P-192.
enum class AcmeForm : uint8_t { ProfilePayload, DeclarationDocument };

struct AcmeKeyRequest {
  KeyType type = KeyType::EcSecPrimeRandom;
  int64_t size = 0;  // bits
  bool hardwareBound = false;
  bool attest = false;
};

// Which key is wrong, and why.
struct AcmeKeyRefusal {
  std::string_view key;  // "KeySize", "KeyType", "HardwareBound", "Attest"
  std::string message;
  std::string hint;
};

// Everything that Apple's rules forbid about the combination; empty = allowed. Whether this machine has the hardware is
// another question, asked at enrolment.
std::vector<AcmeKeyRefusal> checkAcmeKey(const AcmeKeyRequest& request, AcmeForm form);

}  // namespace wayleave::management
