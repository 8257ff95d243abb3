#include "keychain/file_keychain.h"

namespace kc = wayleave::keychain;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto keychain = kc::FileKeychain::open(wayleave::Bytes(data, data + size));
  if (!keychain) return 0;
  (void)keychain->privateKeys();
  (void)keychain->unlockWithPassword("fixture");
  size_t left = 16;
  for (const kc::KeychainCertificate& certificate : keychain->certificates()) {
    if (left-- == 0) break;
    kc::FileReference reference;
    reference.keychainPath = "/k";
    reference.item.attributes = {{1, 0, 0, 0}, certificate.issuer, certificate.serial};
    if (const auto item = keychain->resolve(reference)) (void)keychain->exportPkcs12(*item, "p");
  }
  for (const kc::KychRelation& relation : keychain->file().relations())
    keychain->file().visit(relation.id, [&](const kc::KychRecord& record) {
      (void)record.data();
      for (size_t i = 0; i < relation.columns.size(); ++i) (void)record.valueAt(i);
      return true;
    });
  return 0;
}
