#include "keychain/keychain_database.h"

namespace kc = wayleave::keychain;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto database = kc::KeychainDatabase::open({data, size});
  if (!database) return 0;
  (void)database->counts();
  (void)database->locate(kc::RowReference{kc::ItemClass::Certificate, 1});
  (void)database->locate(kc::UuidReference{kc::ItemClass::Identity, {1}});
  (void)database->locate(kc::RowReference{kc::ItemClass::GenericPassword, 1});
  (void)database->certificatesNamed({}, {});
  return 0;
}
