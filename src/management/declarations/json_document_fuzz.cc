// Any bytes: read or refused; what is read is also JSON to the library that writes ours.

#include <cstdlib>

#include <nlohmann/json.hpp>

#include "management/declarations/json_document.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wayleave;
  const auto read = management::readJson({data, size});
  if (!read) return 0;
  // Strictness goes one way: what we take, everyone takes.
  if (!nlohmann::json::accept(data, data + size)) std::abort();
  return 0;
}
