#include "pkcs11/mechanism.h"

#include <openssl/ec.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace wayleave::pkcs11 {
namespace {

struct Row {
  CK_MECHANISM_TYPE type;
  Padding padding;
  std::optional<HashKind> hash;
};

constexpr Row kRows[] = {
    {CKM_ECDSA, Padding::Ecdsa, {}},
    {CKM_ECDSA_SHA256, Padding::Ecdsa, HashKind::Sha256},
    {CKM_ECDSA_SHA384, Padding::Ecdsa, HashKind::Sha384},
    {CKM_ECDSA_SHA512, Padding::Ecdsa, HashKind::Sha512},
    {CKM_RSA_PKCS, Padding::RsaPkcs1, {}},
    {CKM_SHA256_RSA_PKCS, Padding::RsaPkcs1, HashKind::Sha256},
    {CKM_SHA384_RSA_PKCS, Padding::RsaPkcs1, HashKind::Sha384},
    {CKM_SHA512_RSA_PKCS, Padding::RsaPkcs1, HashKind::Sha512},
    {CKM_RSA_PKCS_PSS, Padding::RsaPss, {}},
    {CKM_SHA256_RSA_PKCS_PSS, Padding::RsaPss, HashKind::Sha256},
    {CKM_SHA384_RSA_PKCS_PSS, Padding::RsaPss, HashKind::Sha384},
    {CKM_SHA512_RSA_PKCS_PSS, Padding::RsaPss, HashKind::Sha512},
};

constexpr auto kTypes = [] {
  std::array<CK_MECHANISM_TYPE, std::size(kRows)> out{};
  std::ranges::transform(kRows, out.begin(), &Row::type);
  return out;
}();

const Row* find(CK_MECHANISM_TYPE type) {
  const auto* found = std::ranges::find(kRows, type, &Row::type);
  return found == std::end(kRows) ? nullptr : found;
}

KeyFamily familyOf(Padding padding) { return padding == Padding::Ecdsa ? KeyFamily::Ec : KeyFamily::Rsa; }

// The scheme whose digest is as long as the curve's order.
std::string_view curveScheme(int bits) {
  switch (bits) {
    case 256: return "ecdsa_secp256r1_sha256";
    case 384: return "ecdsa_secp384r1_sha384";
    case 521: return "ecdsa_secp521r1_sha512";
    default: return {};
  }
}
size_t curveDigestLength(int bits) { return bits == 256 ? 32 : bits == 384 ? 48 : 64; }

std::string_view ecdsaScheme(int bits, HashKind hash) {
  if (hashLength(hash) == curveDigestLength(bits)) return curveScheme(bits);
  return hash == HashKind::Sha256 ? "ecdsa_sha256" : std::string_view{};
}

std::string_view rsaScheme(Padding padding, HashKind hash) {
  const bool pss = padding == Padding::RsaPss;
  switch (hash) {
    case HashKind::Sha256: return pss ? "rsa_pss_rsae_sha256" : "rsa_pkcs1_sha256";
    case HashKind::Sha384: return pss ? "rsa_pss_rsae_sha384" : "rsa_pkcs1_sha384";
    case HashKind::Sha512: return pss ? "rsa_pss_rsae_sha512" : "rsa_pkcs1_sha512";
    case HashKind::Sha1: return {};
  }
  return {};
}

// Can the key's device do anything of this padding (and hash, where the mechanism fixes it)?
bool deviceHas(const SigningKey& key, Padding padding, std::optional<HashKind> hash) {
  if (padding == Padding::Ecdsa) return key.has(curveScheme(key.bits));
  if (hash) return key.has(rsaScheme(padding, *hash));
  return key.has(rsaScheme(padding, HashKind::Sha256)) || key.has(rsaScheme(padding, HashKind::Sha384)) ||
         key.has(rsaScheme(padding, HashKind::Sha512));
}

// RFC 8017 9.2, note 1: everything of DigestInfo that stands before the digest.
struct DigestInfo {
  HashKind hash;
  std::array<uint8_t, 19> prefix;
};
constexpr DigestInfo kDigestInfos[] = {
    {HashKind::Sha256, {0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20}},
    {HashKind::Sha384, {0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0x04, 0x30}},
    {HashKind::Sha512, {0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05, 0x00, 0x04, 0x40}},
};

// The digest's hash and generator must be one, and the salt as long as it: the only PSS of TLS (RFC 8446, 4.2.3).
Answer<HashKind> pssHash(const CK_MECHANISM& mechanism) {
  if (mechanism.pParameter == nullptr || mechanism.ulParameterLen != sizeof(CK_RSA_PKCS_PSS_PARAMS))
    return failWith(CKR_MECHANISM_PARAM_INVALID);
  CK_RSA_PKCS_PSS_PARAMS given{};
  std::memcpy(&given, mechanism.pParameter, sizeof(given));
  struct Known {
    CK_MECHANISM_TYPE hash;
    CK_RSA_PKCS_MGF_TYPE generator;
    HashKind kind;
  };
  constexpr Known kKnown[] = {{CKM_SHA256, CKG_MGF1_SHA256, HashKind::Sha256},
                              {CKM_SHA384, CKG_MGF1_SHA384, HashKind::Sha384},
                              {CKM_SHA512, CKG_MGF1_SHA512, HashKind::Sha512}};
  for (const Known& known : kKnown)
    if (given.hashAlg == known.hash && given.mgf == known.generator && given.sLen == hashLength(known.kind)) return known.kind;
  return failWith(CKR_MECHANISM_PARAM_INVALID);
}

}  // namespace

size_t SigningKey::signatureBytes() const {
  const size_t bytes = (static_cast<size_t>(bits) + 7) / 8;
  return family == KeyFamily::Ec ? 2 * bytes : bytes;
}

bool SigningKey::has(std::string_view scheme) const {
  if (scheme.empty()) return false;
  return schemes.empty() || std::ranges::find(schemes, scheme) != schemes.end();
}

std::span<const CK_MECHANISM_TYPE> mechanisms() { return kTypes; }

Answer<CK_MECHANISM_INFO> mechanismInfo(CK_MECHANISM_TYPE type) {
  const Row* row = find(type);
  if (row == nullptr) return failWith(CKR_MECHANISM_INVALID);
  CK_MECHANISM_INFO info{};
  // Not CKF_HW: the same mechanism serves keys in a TPM and keys in identityd's memory.
  info.flags = CKF_SIGN;
  if (row->padding == Padding::Ecdsa) {
    info.ulMinKeySize = 256;
    info.ulMaxKeySize = 521;
    info.flags |= CKF_EC_F_P | CKF_EC_NAMEDCURVE | CKF_EC_UNCOMPRESS;
  } else {
    info.ulMinKeySize = 2048;
    info.ulMaxKeySize = 8192;
  }
  return info;
}

std::vector<CK_MECHANISM_TYPE> mechanismsFor(const SigningKey& key) {
  std::vector<CK_MECHANISM_TYPE> out;
  for (const Row& row : kRows)
    if (familyOf(row.padding) == key.family && deviceHas(key, row.padding, row.hash)) out.push_back(row.type);
  return out;
}

Answer<SigningPlan> planSignature(const CK_MECHANISM& mechanism, const SigningKey& key) {
  const Row* row = find(mechanism.mechanism);
  if (row == nullptr) return failWith(CKR_MECHANISM_INVALID);
  if (familyOf(row->padding) != key.family) return failWith(CKR_KEY_TYPE_INCONSISTENT);
  SigningPlan plan{row->padding, row->hash, {}};
  if (row->padding == Padding::RsaPss) {
    const Answer<HashKind> named = pssHash(mechanism);
    if (!named) return failWith(named.error());
    if (row->hash && *row->hash != *named) return failWith(CKR_MECHANISM_PARAM_INVALID);
    plan.digestHash = *named;
  } else if (mechanism.ulParameterLen != 0) {
    return failWith(CKR_MECHANISM_PARAM_INVALID);
  }
  if (!deviceHas(key, row->padding, row->hash ? row->hash : plan.digestHash)) return failWith(CKR_KEY_FUNCTION_NOT_PERMITTED);
  return plan;
}

Answer<DigestRequest> digestRequest(const SigningPlan& plan, const SigningKey& key, ByteView data) {
  switch (plan.padding) {
    case Padding::Ecdsa: {
      const size_t wanted = curveDigestLength(key.bits);
      // Longer than any digest there is: not a digest.
      if (data.empty() || data.size() > 64) return failWith(CKR_DATA_LEN_RANGE);
      Bytes digest(wanted - std::min(wanted, data.size()));
      append(digest, data.first(std::min(wanted, data.size())));
      return DigestRequest{curveScheme(key.bits), std::move(digest)};
    }
    case Padding::RsaPkcs1: {
      if (plan.messageHash) return DigestRequest{rsaScheme(plan.padding, *plan.messageHash), toBytes(data)};
      for (const DigestInfo& info : kDigestInfos) {
        if (data.size() != info.prefix.size() + hashLength(info.hash)) continue;
        if (!std::ranges::equal(info.prefix, data.first(info.prefix.size()))) continue;
        const std::string_view scheme = rsaScheme(plan.padding, info.hash);
        if (!key.has(scheme)) return failWith(CKR_KEY_FUNCTION_NOT_PERMITTED);
        return DigestRequest{scheme, toBytes(data.subspan(info.prefix.size()))};
      }
      return failWith(CKR_DATA_INVALID);
    }
    case Padding::RsaPss:
      if (!plan.digestHash || data.size() != hashLength(*plan.digestHash)) return failWith(CKR_DATA_LEN_RANGE);
      return DigestRequest{rsaScheme(plan.padding, *plan.digestHash), toBytes(data)};
  }
  return failWith(CKR_GENERAL_ERROR);
}

std::string_view messageScheme(const SigningPlan& plan, const SigningKey& key) {
  if (!plan.messageHash) return {};
  const std::string_view scheme =
      plan.padding == Padding::Ecdsa ? ecdsaScheme(key.bits, *plan.messageHash) : rsaScheme(plan.padding, *plan.messageHash);
  return key.has(scheme) ? scheme : std::string_view{};
}

bool isClientCertificateVerify(std::string_view scheme, ByteView message) {
  constexpr std::string_view kContext{"TLS 1.3, client CertificateVerify\0", 34};
  constexpr size_t kPrefix = 64 + kContext.size();
  if (!scheme.starts_with("ecdsa_secp") && !scheme.starts_with("rsa_pss")) return false;
  if (message.size() != kPrefix + 32 && message.size() != kPrefix + 48) return false;
  return std::ranges::all_of(message.first(64), [](uint8_t byte) { return byte == 0x20; }) &&
         asText(message.subspan(64, kContext.size())) == kContext;
}

Answer<Bytes> fromWire(const SigningKey& key, ByteView signature) {
  if (key.family != KeyFamily::Ec) {
    if (signature.size() != key.signatureBytes()) return failWith(CKR_DEVICE_ERROR);
    return toBytes(signature);
  }
  const QuietErrors quiet;
  const uint8_t* cursor = signature.data();
  const Handle<ECDSA_SIG, ECDSA_SIG_free> parts(d2i_ECDSA_SIG(nullptr, &cursor, static_cast<long>(signature.size())));
  if (!parts || cursor != signature.data() + signature.size()) return failWith(CKR_DEVICE_ERROR);
  const int half = static_cast<int>(key.signatureBytes() / 2);
  Bytes out(key.signatureBytes());
  if (BN_bn2binpad(ECDSA_SIG_get0_r(parts.get()), out.data(), half) != half ||
      BN_bn2binpad(ECDSA_SIG_get0_s(parts.get()), out.data() + half, half) != half)
    return failWith(CKR_DEVICE_ERROR);
  return out;
}

}  // namespace wayleave::pkcs11
