#include "management/declarations/json_document.h"
#include "management/documents/credential_document.h"
#include "management/documents/mdm_document.h"
#include "management/documents/protocol_document.h"
#include "plist/plist.h"

// Any bytes: a document of some kind with findings, or none.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wayleave;
  using namespace wayleave::management;
  const ByteView bytes(data, size);
  std::vector<Finding> findings;
  Report report(findings);
  if (const Result<JsonDocument> json = readJson(bytes, {.nulls = true}); json && json->root.dictionary() != nullptr) {
    const plist::Dictionary& root = *json->root.dictionary();
    if (const auto kind = credentialKindOf(root)) checkCredentialDocument(*kind, root, report);
    if (const auto kind = protocolDocumentOf(root)) checkProtocolDocument(*kind, root, "", report);
  }
  if (const Result<plist::Document> list = plist::parse(bytes, {.limits = {.bytes = 1 << 20, .depth = 64, .items = 10'000}}); list && list->root.dictionary() != nullptr)
    if (const auto kind = mdmDocumentOf(*list->root.dictionary())) checkMdmDocument(*kind, *list->root.dictionary(), report, Wall{});
  for (const Finding& finding : findings) (void)describe(finding);
  return 0;
}
