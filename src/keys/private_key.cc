#include "keys/private_key.h"

#include <fmt/format.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>

#include "keys/openssl.h"

namespace wayleave::keys {
namespace {

struct SchemeRow {
  SignatureScheme scheme;
  std::string_view name;
  const char* digest;
  size_t digestLength;
};

constexpr std::array<SchemeRow, 10> kSchemes{{
    {SignatureScheme::EcdsaSecp256r1Sha256, "ecdsa_secp256r1_sha256", "SHA256", 32},
    {SignatureScheme::EcdsaSecp384r1Sha384, "ecdsa_secp384r1_sha384", "SHA384", 48},
    {SignatureScheme::EcdsaSecp521r1Sha512, "ecdsa_secp521r1_sha512", "SHA512", 64},
    {SignatureScheme::EcdsaSha256, "ecdsa_sha256", "SHA256", 32},
    {SignatureScheme::RsaPssRsaeSha256, "rsa_pss_rsae_sha256", "SHA256", 32},
    {SignatureScheme::RsaPssRsaeSha384, "rsa_pss_rsae_sha384", "SHA384", 48},
    {SignatureScheme::RsaPssRsaeSha512, "rsa_pss_rsae_sha512", "SHA512", 64},
    {SignatureScheme::RsaPkcs1Sha256, "rsa_pkcs1_sha256", "SHA256", 32},
    {SignatureScheme::RsaPkcs1Sha384, "rsa_pkcs1_sha384", "SHA384", 48},
    {SignatureScheme::RsaPkcs1Sha512, "rsa_pkcs1_sha512", "SHA512", 64},
}};

// The table is in the enum's order; the assertion keeps it so when a scheme is added.
constexpr bool inEnumOrder() {
  for (size_t i = 0; i < kSchemes.size(); ++i)
    if (kSchemes[i].scheme != static_cast<SignatureScheme>(i)) return false;
  return kSchemes.back().scheme == SignatureScheme::RsaPkcs1Sha512;
}
static_assert(inEnumOrder());

const SchemeRow& row(SignatureScheme scheme) { return kSchemes.at(static_cast<size_t>(scheme)); }

Result<KeyType> ecType(const EVP_PKEY* key) {
  int explicitParameters = 0;
  if (EVP_PKEY_get_int_param(key, OSSL_PKEY_PARAM_EC_DECODED_FROM_EXPLICIT_PARAMS, &explicitParameters) == 1 &&
      explicitParameters != 0)
    return fail(Reason::Unsupported, "EC key with explicit curve parameters instead of a named curve (RFC 5480 2.1.1)");
  std::array<char, 64> group{};
  size_t length = 0;
  if (EVP_PKEY_get_group_name(key, group.data(), group.size(), &length) != 1)
    return std::unexpected(opensslError(Reason::Unsupported, "EC key whose curve has no name"));
  const std::string_view name(group.data(), length);
  if (name == "prime256v1") return KeyType::EcP256;
  if (name == "secp384r1") return KeyType::EcP384;
  if (name == "secp521r1") return KeyType::EcP521;
  return fail(Reason::Unsupported, fmt::format("EC key on curve {}", name), "use P-256, P-384 or P-521");
}

Result<KeyType> typeOf(const EVP_PKEY* key) {
  if (EVP_PKEY_is_a(key, "EC")) return ecType(key);
  if (EVP_PKEY_is_a(key, "RSA")) {
    const int bits = EVP_PKEY_get_bits(key);
    if (bits >= kMinRsaBits && bits <= kMaxRsaBits) return KeyType::Rsa;
    return fail(Reason::Unsupported, fmt::format("RSA key of {} bits", bits),
                fmt::format("use {} to {} bits", kMinRsaBits, kMaxRsaBits));
  }
  const char* name = EVP_PKEY_get0_type_name(key);
  return fail(Reason::Unsupported, fmt::format("key of type {}", name != nullptr ? name : "unknown"),
              "use EC P-256, P-384, P-521 or RSA");
}

}  // namespace

std::string_view text(KeyType type) {
  switch (type) {
    case KeyType::EcP256: return "EC P-256";
    case KeyType::EcP384: return "EC P-384";
    case KeyType::EcP521: return "EC P-521";
    case KeyType::Rsa: return "RSA";
  }
  return "?";
}

std::string_view text(KeyKind kind) {
  switch (kind) {
    case KeyKind::Software: return "software";
    case KeyKind::Tpm: return "tpm";
  }
  return "?";
}

std::string_view text(SignatureScheme scheme) { return row(scheme).name; }

Result<SignatureScheme> parseScheme(std::string_view name) {
  const auto* found = std::ranges::find(kSchemes, name, &SchemeRow::name);
  if (found == kSchemes.end()) {
    return fail(Reason::BadInput, fmt::format("unknown signature scheme \"{}\"", name.substr(0, 64)),
                "use a name of RFC 8446 section 4.2.3, for example ecdsa_secp384r1_sha384");
  }
  return found->scheme;
}

size_t digestLength(SignatureScheme scheme) { return row(scheme).digestLength; }
const char* digestName(SignatureScheme scheme) { return row(scheme).digest; }

bool isPss(SignatureScheme scheme) {
  return scheme >= SignatureScheme::RsaPssRsaeSha256 && scheme <= SignatureScheme::RsaPssRsaeSha512;
}

std::vector<SignatureScheme> schemesFor(KeyType type) {
  switch (type) {
    case KeyType::EcP256: return {SignatureScheme::EcdsaSecp256r1Sha256, SignatureScheme::EcdsaSha256};
    case KeyType::EcP384: return {SignatureScheme::EcdsaSecp384r1Sha384, SignatureScheme::EcdsaSha256};
    case KeyType::EcP521: return {SignatureScheme::EcdsaSecp521r1Sha512, SignatureScheme::EcdsaSha256};
    case KeyType::Rsa:
      return {SignatureScheme::RsaPssRsaeSha256, SignatureScheme::RsaPssRsaeSha384, SignatureScheme::RsaPssRsaeSha512,
              SignatureScheme::RsaPkcs1Sha256,   SignatureScheme::RsaPkcs1Sha384,   SignatureScheme::RsaPkcs1Sha512};
  }
  return {};
}

Bytes PublicKey::keychainHash() const {
  const uint8_t* at = spki.data();
  const X509PubkeyPtr framed(d2i_X509_PUBKEY(nullptr, &at, static_cast<long>(spki.size())));
  const unsigned char* contents = nullptr;
  int length = 0;
  if (!framed || X509_PUBKEY_get0_param(nullptr, &contents, &length, nullptr, framed.get()) != 1) return {};
  return sha1({contents, static_cast<size_t>(length)});
}

Result<PublicKey> PublicKey::fromSpki(ByteView der) {
  const uint8_t* at = der.data();
  const X509PubkeyPtr framed(d2i_X509_PUBKEY(nullptr, &at, static_cast<long>(der.size())));
  if (!framed) return std::unexpected(opensslError(Reason::BadInput, "not a SubjectPublicKeyInfo"));
  if (const ptrdiff_t used = at - der.data(); static_cast<size_t>(used) != der.size()) {
    return fail(Reason::BadInput, fmt::format("{} bytes follow the public key, from offset {}",
                                              der.size() - static_cast<size_t>(used), used));
  }
  ASN1_OBJECT* algorithm = nullptr;
  X509_PUBKEY_get0_param(&algorithm, nullptr, nullptr, nullptr, framed.get());
  const int nid = OBJ_obj2nid(algorithm);
  const bool known = nid == NID_rsaEncryption || nid == NID_X9_62_id_ecPublicKey;
  const EVP_PKEY* key = X509_PUBKEY_get0(framed.get());
  if (key == nullptr) {
    return std::unexpected(
        opensslError(known ? Reason::BadInput : Reason::Unsupported, "public key cannot be decoded"));
  }
  const Result<KeyType> type = typeOf(key);
  if (!type) return std::unexpected(type.error());
  return PublicKey{toBytes(der), *type, EVP_PKEY_get_bits(key)};
}

Result<OpenedEnvelope> PrivateKey::openEnvelope(ByteView, Steady) {
  return fail(Reason::Unsupported, fmt::format("this {} key ({}) does not decrypt", text(publicKey().type), text(kind())));
}

Result<Bytes> PrivateKey::sign(SignatureScheme scheme, ByteView message, Steady deadline) {
  std::array<uint8_t, EVP_MAX_MD_SIZE> digest{};
  size_t length = 0;
  if (EVP_Q_digest(nullptr, digestName(scheme), nullptr, message.data(), message.size(), digest.data(), &length) != 1)
    return std::unexpected(opensslError(Reason::Internal, fmt::format("hash with {}", digestName(scheme))));
  return signDigest(scheme, {digest.data(), length}, deadline);
}

}  // namespace wayleave::keys
