// Any bytes, read as a binary property list: no crash, bounded work, and what is accepted survives a round trip.

#include <cstdlib>

#include "plist/plist.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wayleave;
  plist::ReadOptions options;
  options.limits.items = 20'000;  // keeps one run short; the bound itself is what is being tested
  const auto first = plist::parseBinary({data, size}, options);
  if (!first) return 0;
  const auto written = plist::toBinary(first->root);
  if (!written) std::abort();
  const auto second = plist::parseBinary(*written, options);
  if (!second) std::abort();
  const auto again = plist::toBinary(second->root);
  if (!again || *again != *written) std::abort();
  return 0;
}
