// Source: apple/device-management, com.apple.security.acme and com.apple.credential.acme (macOS 27 state).
//
//   KeyType            KeySize                                  HardwareBound
//   RSA                a multiple of 8 in 1024…4096             must be false
//   ECSECPrimeRandom   192 (payload only), 256, 384, 521        true only with 256 or 384
//
// Attest needs HardwareBound.

#include "management/payload_key_rules.h"

#include <fmt/format.h>

namespace wayleave::management {

std::string_view text(KeyType type) {
  switch (type) {
    case KeyType::Rsa: return "RSA";
    case KeyType::EcSecPrimeRandom: return "ECSECPrimeRandom";
  }
  return "?";
}

std::vector<AcmeKeyRefusal> checkAcmeKey(const AcmeKeyRequest& request, AcmeForm form) {
  std::vector<AcmeKeyRefusal> refusals;
  const int64_t size = request.size;
  bool sizeIsFine = false;
  switch (request.type) {
    case KeyType::Rsa:
      sizeIsFine = size >= 1024 && size <= 4096 && size % 8 == 0;
      if (!sizeIsFine)
        refusals.push_back(
            {"KeySize", fmt::format("is {}; RSA keys have a multiple of 8 from 1024 to 4096", size), ""});
      if (request.hardwareBound)
        refusals.push_back({"HardwareBound", "is true, but RSA keys cannot be hardware bound",
                            "use KeyType ECSECPrimeRandom with KeySize 256 or 384"});
      break;
    case KeyType::EcSecPrimeRandom: {
      const bool small = size == 192 && form == AcmeForm::ProfilePayload;
      sizeIsFine = small || size == 256 || size == 384 || size == 521;
      const char* allowed = form == AcmeForm::ProfilePayload ? "192, 256, 384 or 521" : "256, 384 or 521";
      if (!sizeIsFine)
        refusals.push_back({"KeySize", fmt::format("is {}; ECSECPrimeRandom keys have {}", size, allowed),
                            size == 512 ? "the curve is P-521, not 512" : ""});
      if (request.hardwareBound && sizeIsFine && size != 256 && size != 384)
        refusals.push_back({"KeySize", fmt::format("is {}; hardware-bound keys have 256 or 384", size), ""});
      break;
    }
  }
  if (request.attest && !request.hardwareBound)
    refusals.push_back(
        {"Attest", "is true, but only a hardware-bound key can be attested", "set HardwareBound to true"});
  return refusals;
}

}  // namespace wayleave::management
