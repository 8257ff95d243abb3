// Any bytes as a profile, signed or not: no crash, and a profile only where no finding is an error.

#include <cstdlib>

#include "management/profile.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wayleave;
  management::ImportOptions options;
  options.now = Wall{std::chrono::seconds{1'795'000'000}};  // same input, same path
  const management::ImportResult result = management::importProfile({data, size}, options);
  if (result.profile.has_value() == management::hasErrors(result.findings)) std::abort();
  if (result.profile) (void)management::proxyConfigurations(*result.profile);
  if (hasErrors(result.findings)) (void)management::toError(result.findings);
  return 0;
}
