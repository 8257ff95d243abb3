#include "management/declarations/declaration.h"

// Any bytes: a declaration with reasons, or one without.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wayleave;
  const ByteView bytes(data, size);
  std::vector<management::Finding> findings;
  const management::Declaration declaration = management::readDeclaration(bytes, &findings);
  (void)declaration.isValid();
  (void)management::withoutInlineSecrets(bytes);
  return 0;
}
