// Signatures of the "wayleave" provider (OpenSSL 3.0, provider-signature(7)).
//
// OpenSSL's one-shot call (digest_sign) hands over the whole message, which is what TLS 1.3, X509_REQ_sign and CMS use;
// the callback gets it next to the digest, so that a broker can look at what it signs. Streamed messages are collected.

#include <openssl/core_names.h>
#include <openssl/objects.h>
#include <openssl/params.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

#include <array>
#include <cstring>
#include <new>

#include "tls/callback_provider.h"

namespace wayleave::tls::provider {
namespace {

// Longest message a streamed signature collects: CMS attributes and CSRs have some hundreds of bytes.
constexpr size_t kMaxStreamedBytes = 1 << 20;

enum class Hash : uint8_t { None, Sha256, Sha384, Sha512 };

struct SignContext {
  KeyData* key = nullptr;
  Hash hash = Hash::None;
  bool pss = false;
  Bytes message;

  ~SignContext() {
    if (key != nullptr) key->release();
  }
};

SignContext* contextOf(void* raw) { return static_cast<SignContext*>(raw); }

// Names of algorithms have no case in OpenSSL: CMS writes "sha256".
Hash parseHash(std::string_view spelling) {
  std::string name(spelling.substr(0, 16));
  for (char& c : name) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  if (name == "SHA256" || name == "SHA2-256" || name == "SHA-256") return Hash::Sha256;
  if (name == "SHA384" || name == "SHA2-384" || name == "SHA-384") return Hash::Sha384;
  if (name == "SHA512" || name == "SHA2-512" || name == "SHA-512") return Hash::Sha512;
  return Hash::None;
}

const char* nameOf(Hash hash) {
  switch (hash) {
    case Hash::None: return "";
    case Hash::Sha256: return "SHA256";
    case Hash::Sha384: return "SHA384";
    case Hash::Sha512: return "SHA512";
  }
  return "";
}

Hash hashOfLength(size_t length) {
  if (length == 32) return Hash::Sha256;
  if (length == 48) return Hash::Sha384;
  return length == 64 ? Hash::Sha512 : Hash::None;
}

std::optional<keys::SignatureScheme> schemeOf(const SignContext& context) {
  using enum keys::SignatureScheme;
  switch (context.key->type) {
    case keys::KeyType::EcP256:
      if (context.hash == Hash::Sha256) return EcdsaSecp256r1Sha256;
      return std::nullopt;
    case keys::KeyType::EcP384:
      if (context.hash == Hash::Sha384) return EcdsaSecp384r1Sha384;
      break;
    case keys::KeyType::EcP521:
      if (context.hash == Hash::Sha512) return EcdsaSecp521r1Sha512;
      break;
    case keys::KeyType::Rsa:
      switch (context.hash) {
        case Hash::None: return std::nullopt;
        case Hash::Sha256: return context.pss ? RsaPssRsaeSha256 : RsaPkcs1Sha256;
        case Hash::Sha384: return context.pss ? RsaPssRsaeSha384 : RsaPkcs1Sha384;
        case Hash::Sha512: return context.pss ? RsaPssRsaeSha512 : RsaPkcs1Sha512;
      }
      return std::nullopt;
  }
  if (context.hash == Hash::Sha256) return EcdsaSha256;
  return std::nullopt;
}

int deliver(SignContext& context, ByteView message, ByteView digest, uint8_t* out, size_t* length, size_t room) {
  const auto scheme = schemeOf(context);
  if (!scheme || digest.size() != keys::digestLength(*scheme)) {
    rememberSignError({Reason::Unsupported, "signature asked with a hash or padding this key does not serve", {}});
    return 0;
  }
  if (!context.key->sign) return 0;
  Result<Bytes> signature = context.key->sign({*scheme, message, digest});
  if (!signature) {
    rememberSignError(std::move(signature.error()));
    return 0;
  }
  if (signature->empty() || signature->size() > room) {
    rememberSignError({Reason::Internal, "the signer returned a signature of impossible size", {}});
    return 0;
  }
  std::memcpy(out, signature->data(), signature->size());
  *length = signature->size();
  return 1;
}

int signMessage(SignContext& context, ByteView message, uint8_t* out, size_t* length, size_t room) {
  std::array<uint8_t, 64> digest{};
  size_t digestBytes = 0;
  if (context.hash == Hash::None || EVP_Q_digest(callbackLibrary(), nameOf(context.hash), nullptr, message.data(),
                                                 message.size(), digest.data(), &digestBytes) != 1)
    return 0;
  return deliver(context, message, ByteView(digest).first(digestBytes), out, length, room);
}

// Nothing may leave through C: out of memory in here is a signature that fails.
template <typename F>
int guarded(F&& body) {
  try {
    return body();
  } catch (...) {
    return 0;
  }
}

void* newContext(void*, const char*) { return new (std::nothrow) SignContext; }
void freeContext(void* raw) { delete contextOf(raw); }
void* dupContext(void* raw) {
  try {
    const SignContext& from = *contextOf(raw);
    auto copy = std::make_unique<SignContext>();
    copy->hash = from.hash;
    copy->pss = from.pss;
    copy->message = from.message;
    if (from.key != nullptr) from.key->retain();
    copy->key = from.key;
    return copy.release();
  } catch (...) {
    return nullptr;
  }
}

int setParams(void* raw, const OSSL_PARAM params[]);

int begin(SignContext& context, void* keydata, const OSSL_PARAM params[]) {
  if (keydata != nullptr) {
    static_cast<KeyData*>(keydata)->retain();
    if (context.key != nullptr) context.key->release();
    context.key = static_cast<KeyData*>(keydata);
  }
  context.message.clear();
  return context.key != nullptr && setParams(&context, params);
}

int signInit(void* raw, void* keydata, const OSSL_PARAM params[]) { return begin(*contextOf(raw), keydata, params); }

int sign(void* raw, uint8_t* out, size_t* length, size_t room, const uint8_t* digest, size_t digestBytes) {
  SignContext& context = *contextOf(raw);
  if (out == nullptr) {
    *length = context.key->maxSignature();
    return 1;
  }
  return guarded([&] {
    if (context.hash == Hash::None) context.hash = hashOfLength(digestBytes);
    return deliver(context, {}, {digest, digestBytes}, out, length, room);
  });
}

int digestSignInit(void* raw, const char* digest, void* keydata, const OSSL_PARAM params[]) {
  SignContext& context = *contextOf(raw);
  if (digest != nullptr && *digest != '\0') {
    context.hash = parseHash(digest);
    if (context.hash == Hash::None) return 0;
  }
  return begin(context, keydata, params);
}

int digestSignUpdate(void* raw, const uint8_t* data, size_t length) {
  return guarded([&] {
    Bytes& message = contextOf(raw)->message;
    if (length > kMaxStreamedBytes - message.size()) return 0;
    append(message, {data, length});
    return 1;
  });
}

int digestSignFinal(void* raw, uint8_t* out, size_t* length, size_t room) {
  SignContext& context = *contextOf(raw);
  if (out == nullptr) {
    *length = context.key->maxSignature();
    return 1;
  }
  return guarded([&] { return signMessage(context, context.message, out, length, room); });
}

int digestSign(void* raw, uint8_t* out, size_t* length, size_t room, const uint8_t* data, size_t dataBytes) {
  SignContext& context = *contextOf(raw);
  if (out == nullptr) {
    *length = context.key->maxSignature();
    return 1;
  }
  return guarded([&] { return signMessage(context, {data, dataBytes}, out, length, room); });
}

// AlgorithmIdentifier for X509_REQ_sign and CMS. RSASSA-PSS has parameters and no user among our callers: not offered.
int algorithmIdentifierNid(const SignContext& context) {
  const bool rsa = context.key->isRsa;
  switch (context.hash) {
    case Hash::None: return NID_undef;
    case Hash::Sha256: return rsa ? NID_sha256WithRSAEncryption : NID_ecdsa_with_SHA256;
    case Hash::Sha384: return rsa ? NID_sha384WithRSAEncryption : NID_ecdsa_with_SHA384;
    case Hash::Sha512: return rsa ? NID_sha512WithRSAEncryption : NID_ecdsa_with_SHA512;
  }
  return NID_undef;
}

bool setAlgorithmIdentifier(OSSL_PARAM* param, const SignContext& context) {
  const int nid = context.pss ? NID_undef : algorithmIdentifierNid(context);
  const Handle<X509_ALGOR, X509_ALGOR_free> algorithm(nid == NID_undef ? nullptr : X509_ALGOR_new());
  if (!algorithm) return false;
  X509_ALGOR_set0(algorithm.get(), OBJ_nid2obj(nid), context.key->isRsa ? V_ASN1_NULL : V_ASN1_UNDEF, nullptr);
  uint8_t* der = nullptr;
  const int length = i2d_X509_ALGOR(algorithm.get(), &der);
  if (length <= 0) return false;
  const bool set = OSSL_PARAM_set_octet_string(param, der, static_cast<size_t>(length)) == 1;
  OPENSSL_free(der);
  return set;
}

int getParams(void* raw, OSSL_PARAM params[]) {
  const SignContext& context = *contextOf(raw);
  if (OSSL_PARAM* id = OSSL_PARAM_locate(params, OSSL_SIGNATURE_PARAM_ALGORITHM_ID);
      id != nullptr && !setAlgorithmIdentifier(id, context))
    return 0;
  if (OSSL_PARAM* digest = OSSL_PARAM_locate(params, OSSL_SIGNATURE_PARAM_DIGEST);
      digest != nullptr && OSSL_PARAM_set_utf8_string(digest, nameOf(context.hash)) != 1)
    return 0;
  return 1;
}

const OSSL_PARAM* gettableParams(void*, void*) {
  static const OSSL_PARAM kParams[] = {OSSL_PARAM_octet_string(OSSL_SIGNATURE_PARAM_ALGORITHM_ID, nullptr, 0),
                                       OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_DIGEST, nullptr, 0), OSSL_PARAM_END};
  return kParams;
}

// OpenSSL passes padding and salt length as numbers or as names, by its own caller.
std::optional<std::string> textOrNumber(const OSSL_PARAM* param) {
  if (param->data_type == OSSL_PARAM_UTF8_STRING) {
    const char* text = nullptr;
    if (OSSL_PARAM_get_utf8_string_ptr(param, &text) != 1) return std::nullopt;
    return std::string(text);
  }
  int number = 0;
  if (OSSL_PARAM_get_int(param, &number) != 1) return std::nullopt;
  return std::to_string(number);
}

bool setPadding(SignContext& context, const OSSL_PARAM* param) {
  const auto mode = textOrNumber(param);
  if (!mode) return false;
  if (*mode == OSSL_PKEY_RSA_PAD_MODE_PKCSV15 || *mode == std::to_string(RSA_PKCS1_PADDING)) {
    context.pss = false;
    return true;
  }
  context.pss = *mode == OSSL_PKEY_RSA_PAD_MODE_PSS || *mode == std::to_string(RSA_PKCS1_PSS_PADDING);
  return context.pss;
}

// TLS 1.3 has salts as long as the digest, and our schemes mean exactly that.
bool acceptsSaltLength(const SignContext& context, const OSSL_PARAM* param) {
  const auto length = textOrNumber(param);
  if (!length) return false;
  if (*length == OSSL_PKEY_RSA_PSS_SALT_LEN_DIGEST || *length == std::to_string(RSA_PSS_SALTLEN_DIGEST)) return true;
  const auto scheme = schemeOf(context);
  return scheme && *length == std::to_string(keys::digestLength(*scheme));
}

int setParams(void* raw, const OSSL_PARAM params[]) {
  return guarded([&]() -> int {
    SignContext& context = *contextOf(raw);
    if (params == nullptr) return 1;
    for (const OSSL_PARAM* param = params; param->key != nullptr; ++param) {
      const std::string_view name = param->key;
      if (name == OSSL_SIGNATURE_PARAM_DIGEST || name == OSSL_SIGNATURE_PARAM_MGF1_DIGEST) {
        const char* digest = nullptr;
        if (OSSL_PARAM_get_utf8_string_ptr(param, &digest) != 1) return 0;
        const Hash hash = parseHash(digest);
        if (hash == Hash::None) return 0;
        if (name == OSSL_SIGNATURE_PARAM_MGF1_DIGEST && hash != context.hash) return 0;
        context.hash = hash;
      }
      if (name == OSSL_SIGNATURE_PARAM_PAD_MODE && (!context.key->isRsa || !setPadding(context, param))) return 0;
      if (name == OSSL_SIGNATURE_PARAM_PSS_SALTLEN && !acceptsSaltLength(context, param)) return 0;
    }
    return 1;
  });
}

const OSSL_PARAM* settableParams(void*, void*) {
  static const OSSL_PARAM kParams[] = {OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_DIGEST, nullptr, 0),
                                       OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_MGF1_DIGEST, nullptr, 0),
                                       OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PAD_MODE, nullptr, 0),
                                       OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PSS_SALTLEN, nullptr, 0),
                                       OSSL_PARAM_END};
  return kParams;
}

}  // namespace

#define WAYLEAVE_SIGNATURE                                                   \
  {OSSL_FUNC_SIGNATURE_NEWCTX, erased(newContext)},                          \
  {OSSL_FUNC_SIGNATURE_FREECTX, erased(freeContext)},                        \
  {OSSL_FUNC_SIGNATURE_DUPCTX, erased(dupContext)},                          \
  {OSSL_FUNC_SIGNATURE_SIGN_INIT, erased(signInit)},                         \
  {OSSL_FUNC_SIGNATURE_SIGN, erased(sign)},                                  \
  {OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT, erased(digestSignInit)},            \
  {OSSL_FUNC_SIGNATURE_DIGEST_SIGN_UPDATE, erased(digestSignUpdate)},        \
  {OSSL_FUNC_SIGNATURE_DIGEST_SIGN_FINAL, erased(digestSignFinal)},          \
  {OSSL_FUNC_SIGNATURE_DIGEST_SIGN, erased(digestSign)},                     \
  {OSSL_FUNC_SIGNATURE_GET_CTX_PARAMS, erased(getParams)},                   \
  {OSSL_FUNC_SIGNATURE_GETTABLE_CTX_PARAMS, erased(gettableParams)},         \
  {OSSL_FUNC_SIGNATURE_SET_CTX_PARAMS, erased(setParams)},                   \
  {OSSL_FUNC_SIGNATURE_SETTABLE_CTX_PARAMS, erased(settableParams)}, {0, nullptr}

const OSSL_DISPATCH kEcSignature[] = {WAYLEAVE_SIGNATURE};
const OSSL_DISPATCH kRsaSignature[] = {WAYLEAVE_SIGNATURE};
#undef WAYLEAVE_SIGNATURE

}  // namespace wayleave::tls::provider
