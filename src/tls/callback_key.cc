#include "tls/callback_key.h"

#include <openssl/core_names.h>
#include <openssl/param_build.h>
#include <openssl/provider.h>

#include <memory>

#include "tls/callback_provider.h"

namespace wayleave::tls {
namespace {

using ParamsPtr = Handle<OSSL_PARAM, OSSL_PARAM_free>;

thread_local std::optional<Error> signError;

const OSSL_ALGORITHM* algorithms(void*, int operation, int* noCache) {
  static const OSSL_ALGORITHM kKeys[] = {
      {"EC:id-ecPublicKey:1.2.840.10045.2.1", provider::kProperties, provider::kEcKeys, "keys that sign by callback"},
      {"RSA:rsaEncryption:1.2.840.113549.1.1.1", provider::kProperties, provider::kRsaKeys,
       "keys that sign by callback"},
      {nullptr, nullptr, nullptr, nullptr}};
  static const OSSL_ALGORITHM kSignatures[] = {
      {"ECDSA", provider::kProperties, provider::kEcSignature, "signatures by callback"},
      {"RSA:rsaEncryption:1.2.840.113549.1.1.1", provider::kProperties, provider::kRsaSignature,
       "signatures by callback"},
      {nullptr, nullptr, nullptr, nullptr}};
  *noCache = 0;
  if (operation == OSSL_OP_KEYMGMT) return kKeys;
  return operation == OSSL_OP_SIGNATURE ? kSignatures : nullptr;
}

int initialise(const OSSL_CORE_HANDLE* handle, const OSSL_DISPATCH*, const OSSL_DISPATCH** out, void** context) {
  static const OSSL_DISPATCH kFunctions[] = {{OSSL_FUNC_PROVIDER_QUERY_OPERATION, provider::erased(algorithms)},
                                             {0, nullptr}};
  *out = kFunctions;
  *context = const_cast<OSSL_CORE_HANDLE*>(handle);
  return 1;
}

// Without a property query OpenSSL takes the implementation it met first. Fetching the default provider's before ours is
// even loaded makes that order certain: the gateway's own public keys must never land in our provider.
bool fetchDefaults(OSSL_LIB_CTX* library) {
  for (const char* name : {"EC", "RSA"}) {
    EVP_KEYMGMT* keymgmt = EVP_KEYMGMT_fetch(library, name, nullptr);
    if (keymgmt == nullptr) return false;
    EVP_KEYMGMT_free(keymgmt);
  }
  for (const char* name : {"ECDSA", "RSA"}) {
    EVP_SIGNATURE* signature = EVP_SIGNATURE_fetch(library, name, nullptr);
    if (signature == nullptr) return false;
    EVP_SIGNATURE_free(signature);
  }
  return true;
}

OSSL_LIB_CTX* makeLibrary() {
  OSSL_LIB_CTX* library = OSSL_LIB_CTX_new();
  if (library == nullptr) return nullptr;
  if (OSSL_PROVIDER_load(library, "default") != nullptr && fetchDefaults(library) &&
      OSSL_PROVIDER_add_builtin(library, provider::kName, initialise) == 1 &&
      OSSL_PROVIDER_load(library, provider::kName) != nullptr)
    return library;
  OSSL_LIB_CTX_free(library);
  return nullptr;
}

}  // namespace

void provider::rememberSignError(Error error) { signError = std::move(error); }

std::optional<Error> takeSignError() { return std::exchange(signError, std::nullopt); }

OSSL_LIB_CTX* callbackLibrary() {
  static OSSL_LIB_CTX* const library = makeLibrary();
  return library;
}

Result<keys::EvpPkeyPtr> makeCallbackKey(const keys::PublicKey& publicKey, KeyCallback sign) {
  OSSL_LIB_CTX* library = callbackLibrary();
  if (library == nullptr) return propagate(keys::opensslError(Reason::Internal, "load the callback key provider"));
  const uint8_t* der = publicKey.spki.data();
  const keys::EvpPkeyPtr plain(d2i_PUBKEY_ex(nullptr, &der, static_cast<long>(publicKey.spki.size()), library, nullptr));
  if (!plain) return propagate(keys::opensslError(Reason::BadInput, "decode a public key"));

  OSSL_PARAM* raw = nullptr;
  if (EVP_PKEY_todata(plain.get(), EVP_PKEY_PUBLIC_KEY, &raw) != 1)
    return propagate(keys::opensslError(Reason::Internal, "take a public key apart"));
  const ParamsPtr parts(raw);
  const KeyCallback* address = &sign;  // import() copies what it points to, within this call
  const OSSL_PARAM signer[] = {OSSL_PARAM_construct_octet_string(provider::kSignerParam, &address, sizeof(address)),
                               OSSL_PARAM_construct_end()};
  const ParamsPtr all(OSSL_PARAM_merge(parts.get(), signer));
  const char* type = publicKey.type == keys::KeyType::Rsa ? "RSA" : "EC";
  const keys::EvpPkeyCtxPtr context(EVP_PKEY_CTX_new_from_name(library, type, provider::kProperties));
  EVP_PKEY* key = nullptr;
  if (!all || !context || EVP_PKEY_fromdata_init(context.get()) != 1 ||
      EVP_PKEY_fromdata(context.get(), &key, EVP_PKEY_KEYPAIR, all.get()) != 1)
    return propagate(keys::opensslError(Reason::Internal, "make a key that signs by callback"));
  return keys::EvpPkeyPtr(key);
}

}  // namespace wayleave::tls
