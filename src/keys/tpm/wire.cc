#include "keys/tpm/wire.h"

#include <fmt/format.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

namespace wayleave::keys::tpm {
namespace {

using PkeyPtr = Handle<EVP_PKEY, EVP_PKEY_free>;
using PkeyCtxPtr = Handle<EVP_PKEY_CTX, EVP_PKEY_CTX_free>;
using BnPtr = Handle<BIGNUM, BN_free>;
using ParamBuilderPtr = Handle<OSSL_PARAM_BLD, OSSL_PARAM_BLD_free>;
using ParamsPtr = Handle<OSSL_PARAM, OSSL_PARAM_free>;

struct Curve {
  const char* group;
  size_t bytes;
};
Result<Curve> curveOf(TPMI_ECC_CURVE curve) {
  switch (curve) {
    case TPM2_ECC_NIST_P256: return Curve{"prime256v1", 32};
    case TPM2_ECC_NIST_P384: return Curve{"secp384r1", 48};
    case TPM2_ECC_NIST_P521: return Curve{"secp521r1", 66};
    default: return fail(Reason::Unsupported, fmt::format("TPM curve 0x{:x} is not P-256, P-384 or P-521", curve));
  }
}

void appendPadded(Bytes& out, const TPM2B_ECC_PARAMETER& coordinate, size_t width) {
  const size_t given = std::min<size_t>(coordinate.size, width);
  out.insert(out.end(), width - given, 0);
  append(out, ByteView(coordinate.buffer + (coordinate.size - given), given));
}

Result<PkeyPtr> pkeyFrom(const char* algorithm, OSSL_PARAM_BLD* builder) {
  const ParamsPtr params(OSSL_PARAM_BLD_to_param(builder));
  const PkeyCtxPtr ctx(EVP_PKEY_CTX_new_from_name(nullptr, algorithm, nullptr));
  EVP_PKEY* raw = nullptr;
  if (!params || !ctx || EVP_PKEY_fromdata_init(ctx.get()) <= 0 ||
      EVP_PKEY_fromdata(ctx.get(), &raw, EVP_PKEY_PUBLIC_KEY, params.get()) <= 0)
    return fail(Reason::BadInput, fmt::format("the TPM's {} public key is not a valid key", algorithm));
  return PkeyPtr(raw);
}

Result<PkeyPtr> ecKey(const TPMT_PUBLIC& area) {
  const auto curve = curveOf(area.parameters.eccDetail.curveID);
  if (!curve) return propagate(curve.error());
  Bytes point{0x04};
  appendPadded(point, area.unique.ecc.x, curve->bytes);
  appendPadded(point, area.unique.ecc.y, curve->bytes);
  const ParamBuilderPtr builder(OSSL_PARAM_BLD_new());
  if (!builder || !OSSL_PARAM_BLD_push_utf8_string(builder.get(), OSSL_PKEY_PARAM_GROUP_NAME, curve->group, 0) ||
      !OSSL_PARAM_BLD_push_octet_string(builder.get(), OSSL_PKEY_PARAM_PUB_KEY, point.data(), point.size()))
    return fail(Reason::Internal, "out of memory");
  return pkeyFrom("EC", builder.get());
}

Result<PkeyPtr> rsaKey(const TPMT_PUBLIC& area) {
  const uint32_t exponent = area.parameters.rsaDetail.exponent;
  const BnPtr n(BN_bin2bn(area.unique.rsa.buffer, area.unique.rsa.size, nullptr)), e(BN_new());
  const ParamBuilderPtr builder(OSSL_PARAM_BLD_new());
  // An exponent of 0 stands for 65537 (part 2, section 12.2.3.5).
  if (!n || !e || !builder || !BN_set_word(e.get(), exponent == 0 ? 65537 : exponent) ||
      !OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_N, n.get()) ||
      !OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_E, e.get()))
    return fail(Reason::Internal, "out of memory");
  return pkeyFrom("RSA", builder.get());
}

TPM2B_PUBLIC blank(TPMI_ALG_PUBLIC type, TPMI_ALG_HASH nameAlg, TPMA_OBJECT attributes) {
  TPM2B_PUBLIC out{};
  out.publicArea.type = type;
  out.publicArea.nameAlg = nameAlg;
  out.publicArea.objectAttributes = attributes;
  return out;
}
TPMS_ECC_PARMS& ecc(TPM2B_PUBLIC& key, TPMI_ECC_CURVE curve) {
  TPMS_ECC_PARMS& parms = key.publicArea.parameters.eccDetail;
  parms.curveID = curve;
  parms.symmetric.algorithm = TPM2_ALG_NULL;
  parms.scheme.scheme = TPM2_ALG_NULL;
  parms.kdf.scheme = TPM2_ALG_NULL;
  return parms;
}
TPMT_SYM_DEF_OBJECT aesCfb(TPMI_AES_KEY_BITS bits) {
  TPMT_SYM_DEF_OBJECT out{};
  out.algorithm = TPM2_ALG_AES;
  out.keyBits.aes = bits;
  out.mode.aes = TPM2_ALG_CFB;
  return out;
}

constexpr TPMA_OBJECT kOurs = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_SENSITIVEDATAORIGIN |
                              TPMA_OBJECT_USERWITHAUTH | TPMA_OBJECT_NODA;
constexpr TPMA_OBJECT kDeviceKey = kOurs | TPMA_OBJECT_SIGN_ENCRYPT;
constexpr TPMA_OBJECT kAttestationKey = kDeviceKey | TPMA_OBJECT_RESTRICTED;
constexpr TPMA_OBJECT kStorageRoot = kOurs | TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_DECRYPT;
static_assert(kDeviceKey == 0x40472 && kAttestationKey == 0x50472 && kStorageRoot == 0x30472);

// EK profile: PolicyA = PolicySecret(endorsement), PolicyB = PolicyOR(PolicyA, authorisation by NV).
constexpr uint8_t kEkPolicyASha256[] = {0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc,
                                        0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52,
                                        0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa};
constexpr uint8_t kEkPolicyBSha384[] = {0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc,
                                        0xf5, 0xfd, 0x3a, 0x1a, 0x07, 0x41, 0x48, 0xbb, 0x35, 0xd3, 0xb4, 0xe4,
                                        0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca, 0xcb, 0x47, 0xba, 0x09,
                                        0x69, 0x96, 0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12};

}  // namespace

const char* opensslDigest(TPMI_ALG_HASH hash) {
  switch (hash) {
    case TPM2_ALG_SHA256: return "SHA256";
    case TPM2_ALG_SHA384: return "SHA384";
    case TPM2_ALG_SHA512: return "SHA512";
    default: return nullptr;
  }
}

Result<Bytes> nameOf(ByteView publicArea) {
  if (publicArea.size() < 4) return fail(Reason::BadInput, "TPMT_PUBLIC is cut short");
  const auto nameAlg = static_cast<uint16_t>(publicArea[2] << 8 | publicArea[3]);
  const char* digest = opensslDigest(nameAlg);
  if (!digest)
    return fail(Reason::Unsupported, fmt::format("name algorithm 0x{:x} is not SHA-256, -384 or -512", nameAlg));
  Bytes name;
  appendU16(name, nameAlg);
  uint8_t hash[EVP_MAX_MD_SIZE];
  size_t length = 0;
  if (!EVP_Q_digest(nullptr, digest, nullptr, publicArea.data(), publicArea.size(), hash, &length))
    return fail(Reason::Internal, "hash of a public area");
  append(name, ByteView(hash, length));
  return name;
}

Result<Bytes> spkiOf(const TPMT_PUBLIC& area) {
  Result<PkeyPtr> key = fail(Reason::Unsupported, fmt::format("TPM key type 0x{:x} is neither ECC nor RSA", area.type));
  if (area.type == TPM2_ALG_ECC) key = ecKey(area);
  if (area.type == TPM2_ALG_RSA) key = rsaKey(area);
  if (!key) return propagate(key.error());
  uint8_t* der = nullptr;
  const int length = i2d_PUBKEY(key->get(), &der);
  if (length <= 0) return fail(Reason::Internal, "encode a public key");
  Bytes out(der, der + length);
  OPENSSL_free(der);
  return out;
}

Result<Bytes> portableSignature(const TPMT_SIGNATURE& signature, size_t rsaModulusBytes) {
  switch (signature.sigAlg) {
    case TPM2_ALG_ECDSA: {
      const TPMS_SIGNATURE_ECDSA& parts = signature.signature.ecdsa;
      BnPtr r(BN_bin2bn(parts.signatureR.buffer, parts.signatureR.size, nullptr));
      BnPtr s(BN_bin2bn(parts.signatureS.buffer, parts.signatureS.size, nullptr));
      const Handle<ECDSA_SIG, ECDSA_SIG_free> sig(ECDSA_SIG_new());
      if (!r || !s || !sig || !ECDSA_SIG_set0(sig.get(), r.get(), s.get()))
        return fail(Reason::Internal, "out of memory");
      (void)r.release();  // sig owns both now
      (void)s.release();
      uint8_t* der = nullptr;
      const int length = i2d_ECDSA_SIG(sig.get(), &der);
      if (length <= 0) return fail(Reason::Internal, "encode an ECDSA signature");
      Bytes out(der, der + length);
      OPENSSL_free(der);
      return out;
    }
    case TPM2_ALG_RSASSA:
    case TPM2_ALG_RSAPSS: {
      const TPM2B_PUBLIC_KEY_RSA& sig = signature.signature.rsassa.sig;  // rsapss has the same layout
      if (sig.size > rsaModulusBytes) return fail(Reason::Internal, "an RSA signature longer than its modulus");
      Bytes out(rsaModulusBytes - sig.size, 0);
      append(out, viewOf(sig));
      return out;
    }
    default: return fail(Reason::Unsupported, fmt::format("TPM signature algorithm 0x{:x}", signature.sigAlg));
  }
}

TPM2B_PUBLIC storageRootTemplate() {
  TPM2B_PUBLIC out = blank(TPM2_ALG_ECC, TPM2_ALG_SHA256, kStorageRoot);
  ecc(out, TPM2_ECC_NIST_P256).symmetric = aesCfb(128);
  return out;
}

TPM2B_PUBLIC attestationKeyTemplate(bool rsa) {
  if (rsa) {
    TPM2B_PUBLIC out = blank(TPM2_ALG_RSA, TPM2_ALG_SHA256, kAttestationKey);
    TPMS_RSA_PARMS& parms = out.publicArea.parameters.rsaDetail;
    parms.symmetric.algorithm = TPM2_ALG_NULL;
    parms.scheme.scheme = TPM2_ALG_RSASSA;
    parms.scheme.details.rsassa.hashAlg = TPM2_ALG_SHA256;
    parms.keyBits = 2048;
    return out;
  }
  TPM2B_PUBLIC out = blank(TPM2_ALG_ECC, TPM2_ALG_SHA256, kAttestationKey);
  TPMS_ECC_PARMS& parms = ecc(out, TPM2_ECC_NIST_P256);
  parms.scheme.scheme = TPM2_ALG_ECDSA;
  parms.scheme.details.ecdsa.hashAlg = TPM2_ALG_SHA256;
  return out;
}

Result<TPM2B_PUBLIC> deviceKeyTemplate(KeyType type, int bits) {
  switch (type) {
    case KeyType::EcP256:
    case KeyType::EcP384: {
      TPM2B_PUBLIC out = blank(TPM2_ALG_ECC, TPM2_ALG_SHA256, kDeviceKey);
      ecc(out, type == KeyType::EcP256 ? TPM2_ECC_NIST_P256 : TPM2_ECC_NIST_P384);
      return out;
    }
    case KeyType::Rsa: {
      if (bits != 2048)
        return fail(Reason::Unsupported,
                    fmt::format("a TPM key of RSA {} bits: only 2048 is common to all TPMs", bits));
      TPM2B_PUBLIC out = blank(TPM2_ALG_RSA, TPM2_ALG_SHA256, kDeviceKey);
      TPMS_RSA_PARMS& parms = out.publicArea.parameters.rsaDetail;
      parms.symmetric.algorithm = TPM2_ALG_NULL;
      parms.scheme.scheme = TPM2_ALG_NULL;
      parms.keyBits = 2048;
      return out;
    }
    case KeyType::EcP521: break;
  }
  return fail(Reason::Unsupported, "a TPM key on P-521", "hardware-bound keys are P-256 or P-384");
}

TPM2B_PUBLIC endorsementTemplate(EkKind kind) {
  constexpr TPMA_OBJECT kLow = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_SENSITIVEDATAORIGIN |
                               TPMA_OBJECT_ADMINWITHPOLICY | TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_DECRYPT;
  static_assert(kLow == 0x300b2);
  const bool high = kind == EkKind::EcP384;
  TPM2B_PUBLIC out = blank(kind == EkKind::Rsa2048 ? TPM2_ALG_RSA : TPM2_ALG_ECC,
                           high ? TPM2_ALG_SHA384 : TPM2_ALG_SHA256, high ? kLow | TPMA_OBJECT_USERWITHAUTH : kLow);
  const ByteView policy = high ? ByteView(kEkPolicyBSha384) : ByteView(kEkPolicyASha256);
  out.publicArea.authPolicy.size = static_cast<UINT16>(policy.size());
  std::copy(policy.begin(), policy.end(), out.publicArea.authPolicy.buffer);
  switch (kind) {
    case EkKind::Rsa2048: {
      TPMS_RSA_PARMS& parms = out.publicArea.parameters.rsaDetail;
      parms.symmetric = aesCfb(128);
      parms.scheme.scheme = TPM2_ALG_NULL;
      parms.keyBits = 2048;
      out.publicArea.unique.rsa.size = 256;  // zeros: part of the template
      break;
    }
    case EkKind::EcP256:
      ecc(out, TPM2_ECC_NIST_P256).symmetric = aesCfb(128);
      out.publicArea.unique.ecc.x.size = 32;
      out.publicArea.unique.ecc.y.size = 32;
      break;
    case EkKind::EcP384: ecc(out, TPM2_ECC_NIST_P384).symmetric = aesCfb(256); break;
  }
  return out;
}

}  // namespace wayleave::keys::tpm
