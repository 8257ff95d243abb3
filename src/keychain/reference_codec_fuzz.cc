#include <cstdlib>

#include "keychain/reference_codec.h"
#include "keychain/reference_text.h"

namespace kc = wayleave::keychain;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const wayleave::ByteView bytes(data, size);
  if (const auto strict = kc::decodeReference(bytes, {.fields = true})) {
    const auto again = kc::encodeReference(strict->reference);
    if (!again || *again != wayleave::toBytes(bytes)) std::abort();
    size_t covered = 0;
    for (const kc::Field& field : strict->fields) {
      if (field.offset != covered) std::abort();
      covered += field.length;
    }
    if (covered != size) std::abort();
  }
  (void)kc::decodeReference(bytes, {.lenient = true, .fields = true});
  (void)kc::lookupKey(bytes);
  (void)kc::normalisedName(bytes);
  (void)kc::referenceFromText(wayleave::asText(bytes));
  return 0;
}
