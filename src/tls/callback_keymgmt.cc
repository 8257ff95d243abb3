// Key management of the "wayleave" provider (OpenSSL 3.0, provider-keymgmt(7)).
//
// The trick that makes it work: export answers 0 whenever the private part is asked for. The default provider then
// cannot take the key over, and EVP falls back to the provider the key came from, without any property query. Exporting
// the public part stays allowed: encoding a SubjectPublicKeyInfo and comparing with a certificate need it.

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/objects.h>
#include <openssl/params.h>

#include <array>
#include <cstring>
#include <new>

#include "tls/callback_provider.h"

namespace wayleave::tls::provider {
namespace {

using GroupPtr = Handle<EC_GROUP, EC_GROUP_free>;
using PointPtr = Handle<EC_POINT, EC_POINT_free>;
using BignumPtr = Handle<BIGNUM, BN_free>;

KeyData* keyOf(void* data) { return static_cast<KeyData*>(data); }
const KeyData* keyOf(const void* data) { return static_cast<const KeyData*>(data); }

void* newKey(bool isRsa) {
  auto* key = new (std::nothrow) KeyData;
  if (key != nullptr) key->isRsa = isRsa;
  return key;
}
void* newEc(void*) { return newKey(false); }
void* newRsa(void*) { return newKey(true); }
void freeKey(void* data) {
  if (data != nullptr) keyOf(data)->release();
}
void* dupKey(const void* data, int) {
  // Keys do not change after import, so a duplicate is one more reference.
  auto* key = const_cast<KeyData*>(keyOf(data));
  key->retain();
  return key;
}

int has(const void* data, int selection) {
  const KeyData* key = keyOf(data);
  if (key == nullptr) return 0;
  if ((selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) != 0 && !key->sign) return 0;
  if ((selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY) != 0 && !key->hasPublic) return 0;
  if ((selection & OSSL_KEYMGMT_SELECT_DOMAIN_PARAMETERS) != 0 && !key->hasPublic) return 0;
  return 1;
}

int match(const void* left, const void* right, int) {
  const KeyData* a = keyOf(left);
  const KeyData* b = keyOf(right);
  return a->hasPublic && b->hasPublic && a->isRsa == b->isRsa && a->group == b->group && a->point == b->point &&
         a->modulus == b->modulus && a->exponent == b->exponent;
}

// Both forms of a point are legal on the wire; kept uncompressed, two of them compare as bytes. Refuses points that are
// not on the curve.
bool importEc(KeyData& key, const OSSL_PARAM params[]) {
  const OSSL_PARAM* group = OSSL_PARAM_locate_const(params, OSSL_PKEY_PARAM_GROUP_NAME);
  const OSSL_PARAM* pub = OSSL_PARAM_locate_const(params, OSSL_PKEY_PARAM_PUB_KEY);
  if (group == nullptr) return false;
  const char* name = nullptr;
  if (OSSL_PARAM_get_utf8_string_ptr(group, &name) != 1) return false;
  int nid = OBJ_sn2nid(name);
  if (nid == NID_undef) nid = EC_curve_nist2nid(name);
  switch (nid) {
    case NID_X9_62_prime256v1: key.type = keys::KeyType::EcP256; key.bits = 256; break;
    case NID_secp384r1: key.type = keys::KeyType::EcP384; key.bits = 384; break;
    case NID_secp521r1: key.type = keys::KeyType::EcP521; key.bits = 521; break;
    default: return false;
  }
  key.group = OBJ_nid2sn(nid);
  if (pub == nullptr) return true;  // domain parameters alone
  if (pub->data_type != OSSL_PARAM_OCTET_STRING) return false;
  GroupPtr curve(EC_GROUP_new_by_curve_name_ex(callbackLibrary(), nullptr, nid));
  PointPtr point(curve ? EC_POINT_new(curve.get()) : nullptr);
  if (!point || EC_POINT_oct2point(curve.get(), point.get(), static_cast<const uint8_t*>(pub->data), pub->data_size,
                                   nullptr) != 1)
    return false;
  std::array<uint8_t, 133> raw{};  // 1 + 2 * 66, for P-521
  const size_t length = EC_POINT_point2oct(curve.get(), point.get(), POINT_CONVERSION_UNCOMPRESSED, raw.data(),
                                           raw.size(), nullptr);
  if (length == 0) return false;
  key.point.assign(raw.begin(), raw.begin() + static_cast<ptrdiff_t>(length));
  key.hasPublic = true;
  return true;
}

bool nativeInteger(const OSSL_PARAM* param, Bytes& out, int& bits) {
  BIGNUM* raw = nullptr;
  if (param == nullptr || OSSL_PARAM_get_BN(param, &raw) != 1) return false;
  const BignumPtr number(raw);
  bits = BN_num_bits(number.get());
  out.resize(static_cast<size_t>(BN_num_bytes(number.get())));
  return BN_bn2nativepad(number.get(), out.data(), static_cast<int>(out.size())) > 0;
}

bool importRsa(KeyData& key, const OSSL_PARAM params[]) {
  int exponentBits = 0;
  key.type = keys::KeyType::Rsa;
  key.hasPublic = nativeInteger(OSSL_PARAM_locate_const(params, OSSL_PKEY_PARAM_RSA_N), key.modulus, key.bits) &&
                  nativeInteger(OSSL_PARAM_locate_const(params, OSSL_PKEY_PARAM_RSA_E), key.exponent, exponentBits);
  return key.hasPublic;
}

int import(void* data, int, const OSSL_PARAM params[]) {
  try {
    KeyData& key = *keyOf(data);
    if (!(key.isRsa ? importRsa(key, params) : importEc(key, params))) return 0;
    const OSSL_PARAM* signer = OSSL_PARAM_locate_const(params, kSignerParam);
    if (signer == nullptr) return 1;
    const KeyCallback* callback = nullptr;
    if (signer->data_size != sizeof(callback)) return 0;
    std::memcpy(&callback, signer->data, sizeof(callback));
    key.sign = *callback;
    return 1;
  } catch (...) {
    return 0;
  }
}

OSSL_PARAM octets(const char* name, const Bytes& bytes) {
  return OSSL_PARAM_construct_octet_string(name, const_cast<uint8_t*>(bytes.data()), bytes.size());
}
OSSL_PARAM integer(const char* name, const Bytes& native) {
  return OSSL_PARAM_construct_BN(name, const_cast<uint8_t*>(native.data()), native.size());
}

int exportKey(void* data, int selection, OSSL_CALLBACK* callback, void* argument) {
  const KeyData& key = *keyOf(data);
  if ((selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) != 0 || !key.hasPublic) return 0;
  if (key.isRsa) {
    const OSSL_PARAM params[] = {integer(OSSL_PKEY_PARAM_RSA_N, key.modulus),
                                 integer(OSSL_PKEY_PARAM_RSA_E, key.exponent), OSSL_PARAM_construct_end()};
    return callback(params, argument);
  }
  const OSSL_PARAM params[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, const_cast<char*>(key.group.c_str()), 0),
      octets(OSSL_PKEY_PARAM_PUB_KEY, key.point), OSSL_PARAM_construct_end()};
  return callback(params, argument);
}

const OSSL_PARAM* ecTypes(int) {
  static const OSSL_PARAM kTypes[] = {OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, nullptr, 0),
                                      OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, nullptr, 0),
                                      OSSL_PARAM_octet_string(kSignerParam, nullptr, 0), OSSL_PARAM_END};
  return kTypes;
}
const OSSL_PARAM* rsaTypes(int) {
  static const OSSL_PARAM kTypes[] = {OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_N, nullptr, 0),
                                      OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_E, nullptr, 0),
                                      OSSL_PARAM_octet_string(kSignerParam, nullptr, 0), OSSL_PARAM_END};
  return kTypes;
}

// NIST SP 800-57 part 1, table 2.
int securityBits(const KeyData& key) {
  if (!key.isRsa) return key.bits / 2;
  if (key.bits < 3072) return 112;
  return key.bits < 7680 ? 128 : 192;
}

const char* defaultDigest(const KeyData& key) {
  switch (key.type) {
    case keys::KeyType::EcP384: return "SHA384";
    case keys::KeyType::EcP521: return "SHA512";
    case keys::KeyType::EcP256:
    case keys::KeyType::Rsa: return "SHA256";
  }
  return "SHA256";
}

bool setNative(OSSL_PARAM* param, const Bytes& native) {
  const BignumPtr number(BN_native2bn(native.data(), static_cast<int>(native.size()), nullptr));
  return number && OSSL_PARAM_set_BN(param, number.get()) == 1;
}

int getParams(void* data, OSSL_PARAM params[]) {
  const KeyData& key = *keyOf(data);
  for (OSSL_PARAM* param = params; param->key != nullptr; ++param) {
    const std::string_view name = param->key;
    bool set = true;
    if (name == OSSL_PKEY_PARAM_BITS) set = OSSL_PARAM_set_int(param, key.bits) == 1;
    if (name == OSSL_PKEY_PARAM_SECURITY_BITS) set = OSSL_PARAM_set_int(param, securityBits(key)) == 1;
    if (name == OSSL_PKEY_PARAM_MAX_SIZE) set = OSSL_PARAM_set_int(param, static_cast<int>(key.maxSignature())) == 1;
    if (name == OSSL_PKEY_PARAM_DEFAULT_DIGEST) set = OSSL_PARAM_set_utf8_string(param, defaultDigest(key)) == 1;
    if (key.isRsa && name == OSSL_PKEY_PARAM_RSA_N) set = setNative(param, key.modulus);
    if (key.isRsa && name == OSSL_PKEY_PARAM_RSA_E) set = setNative(param, key.exponent);
    if (!key.isRsa && name == OSSL_PKEY_PARAM_GROUP_NAME)
      set = OSSL_PARAM_set_utf8_string(param, key.group.c_str()) == 1;
    if (!key.isRsa && (name == OSSL_PKEY_PARAM_PUB_KEY || name == OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY))
      set = OSSL_PARAM_set_octet_string(param, key.point.data(), key.point.size()) == 1;
    if (!set) return 0;
  }
  return 1;
}

const OSSL_PARAM* gettableParams(void*) {
  static const OSSL_PARAM kParams[] = {OSSL_PARAM_int(OSSL_PKEY_PARAM_BITS, nullptr),
                                       OSSL_PARAM_int(OSSL_PKEY_PARAM_SECURITY_BITS, nullptr),
                                       OSSL_PARAM_int(OSSL_PKEY_PARAM_MAX_SIZE, nullptr),
                                       OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_DEFAULT_DIGEST, nullptr, 0),
                                       OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, nullptr, 0),
                                       OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_PUB_KEY, nullptr, 0),
                                       OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, nullptr, 0),
                                       OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_N, nullptr, 0),
                                       OSSL_PARAM_BN(OSSL_PKEY_PARAM_RSA_E, nullptr, 0),
                                       OSSL_PARAM_END};
  return kParams;
}

const char* ecOperation(int operation) { return operation == OSSL_OP_SIGNATURE ? "ECDSA" : nullptr; }
const char* rsaOperation(int operation) { return operation == OSSL_OP_SIGNATURE ? "RSA" : nullptr; }

}  // namespace

size_t KeyData::maxSignature() const {
  switch (type) {
    case keys::KeyType::EcP256: return 72;   // DER: SEQUENCE of two INTEGERs of up to 33 bytes
    case keys::KeyType::EcP384: return 104;
    case keys::KeyType::EcP521: return 139;
    case keys::KeyType::Rsa: return modulus.size();
  }
  return 0;
}

#define WAYLEAVE_KEYMGMT(create, types, operation)                       \
  {OSSL_FUNC_KEYMGMT_NEW, erased(create)},                               \
  {OSSL_FUNC_KEYMGMT_FREE, erased(freeKey)},                             \
  {OSSL_FUNC_KEYMGMT_DUP, erased(dupKey)},                               \
  {OSSL_FUNC_KEYMGMT_HAS, erased(has)},                                  \
  {OSSL_FUNC_KEYMGMT_MATCH, erased(match)},                              \
  {OSSL_FUNC_KEYMGMT_IMPORT, erased(import)},                            \
  {OSSL_FUNC_KEYMGMT_IMPORT_TYPES, erased(types)},                       \
  {OSSL_FUNC_KEYMGMT_EXPORT, erased(exportKey)},                         \
  {OSSL_FUNC_KEYMGMT_EXPORT_TYPES, erased(types)},                       \
  {OSSL_FUNC_KEYMGMT_GET_PARAMS, erased(getParams)},                     \
  {OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS, erased(gettableParams)},           \
  {OSSL_FUNC_KEYMGMT_QUERY_OPERATION_NAME, erased(operation)}, {0, nullptr}

const OSSL_DISPATCH kEcKeys[] = {WAYLEAVE_KEYMGMT(newEc, ecTypes, ecOperation)};
const OSSL_DISPATCH kRsaKeys[] = {WAYLEAVE_KEYMGMT(newRsa, rsaTypes, rsaOperation)};
#undef WAYLEAVE_KEYMGMT

}  // namespace wayleave::tls::provider
