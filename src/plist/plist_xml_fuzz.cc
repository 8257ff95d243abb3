// Any bytes, read as XML: no crash, and what is accepted survives being written and read again.

#include <cstdlib>

#include "plist/plist.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wayleave;
  const auto first = plist::parseXml({data, size}, {.recordLines = true});
  if (!first) return 0;
  const auto written = plist::toXml(first->root);
  if (!written) std::abort();
  const auto second = plist::parseXml(asBytes(*written));
  // A NaN is not equal to itself, so compare what is written, not the values.
  if (!second) std::abort();
  const auto again = plist::toXml(second->root);
  if (!again || *again != *written) std::abort();
  return 0;
}
