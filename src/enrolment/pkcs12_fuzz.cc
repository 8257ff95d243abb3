// Any bytes, with a password and without: an answer or an error, in bounded time.

#include "enrolment/pkcs12.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using wayleave::enrolment::parsePkcs12;
  // Few iterations: the fuzzer should spend its time in the parser, not in the key derivation.
  const wayleave::enrolment::Pkcs12Limits limits{.bytes = 64 * 1024, .iterations = 5000};
  const wayleave::ByteView file(data, size);
  static_cast<void>(parsePkcs12(file, "password", limits).has_value());
  static_cast<void>(parsePkcs12(file, std::nullopt, limits).has_value());
  return 0;
}
