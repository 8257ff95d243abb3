// Any first bytes, and every prefix of them up to a bound: never a crash, and an answer does not change its mind from
// None to Found.

#include <cstdlib>

#include "proxy/http_host.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using wayleave::proxy::Peek;
  bool none = false;
  for (size_t length = 0; length <= size && length <= 512; ++length) {
    const auto result = wayleave::proxy::hostOf({data, length});
    if (none && result.peek == Peek::Found) std::abort();
    if ((result.peek == Peek::Found) == result.host.empty()) std::abort();
    none = result.peek == Peek::None;
  }
  (void)wayleave::proxy::hostOf({data, size});
  return 0;
}
