#include "keys/tpm/attestation_check.h"

#include <fmt/format.h>

#include <algorithm>

#include "keys/openssl.h"
#include "keys/tpm/wire.h"

namespace wayleave::keys::tpm {
namespace {

constexpr size_t kMaxChain = 8;

std::unexpected<Error> refused(std::string message) { return fail(Reason::AttestationRefused, std::move(message)); }
std::unexpected<Error> refused(const Error& cause) { return refused(cause.message); }

X509Ptr parseCertificate(const Bytes& der) {
  const uint8_t* cursor = der.data();
  return X509Ptr(d2i_X509(nullptr, &cursor, static_cast<long>(der.size())));
}

// Each certificate is issued by the next; the last one's issuer is the server's root.
Result<EvpPkeyPtr> chainKey(const std::vector<Bytes>& chain) {
  if (chain.empty()) return refused("x5c: no AK certificate");
  if (chain.size() > kMaxChain) return refused("x5c: more than 8 certificates");
  X509Ptr below;
  EvpPkeyPtr leafKey;
  for (size_t i = 0; i < chain.size(); ++i) {
    X509Ptr certificate = parseCertificate(chain[i]);
    if (!certificate) {
      (void)opensslError(Reason::BadInput, "x5c");
      return refused(fmt::format("x5c: certificate {} is not DER", i));
    }
    EVP_PKEY* key = X509_get0_pubkey(certificate.get());
    if (below && (X509_NAME_cmp(X509_get_issuer_name(below.get()), X509_get_subject_name(certificate.get())) != 0 ||
                  !key || X509_verify(below.get(), key) != 1)) {
      (void)opensslError(Reason::BadInput, "x5c");
      return refused(fmt::format("x5c: certificate {} was not issued by certificate {}", i - 1, i));
    }
    if (i == 0) {
      if (!key) return refused("AK certificate: unknown kind of key");
      EVP_PKEY_up_ref(key);
      leafKey.reset(key);
    }
    below = std::move(certificate);
  }
  return leafKey;
}

// The COSE algorithm fixes key and hash: ES256 is P-256 with SHA-256, RS256 is PKCS#1 v1.5 with SHA-256. Others, also
// ES384, are refused by servers.
Status verifySignature(EVP_PKEY* key, int algorithm, ByteView signedBytes, ByteView tpmSignature) {
  const auto signature =
      unmarshal<Tss2_MU_TPMT_SIGNATURE_Unmarshal, TPMT_SIGNATURE>(tpmSignature, "the attestation's signature");
  if (!signature) return refused(signature.error());
  TPMI_ALG_SIG_SCHEME scheme = TPM2_ALG_NULL;
  if (algorithm == -7) scheme = TPM2_ALG_ECDSA;
  if (algorithm == -257) scheme = TPM2_ALG_RSASSA;
  if (scheme == TPM2_ALG_NULL)
    return refused(fmt::format("alg {}: only ES256 (-7) and RS256 (-257) are accepted", algorithm));
  if (signature->sigAlg != scheme || signature->signature.any.hashAlg != TPM2_ALG_SHA256)
    return refused(fmt::format("alg {} does not describe the signature (TPM scheme 0x{:x}, hash 0x{:x})", algorithm,
                               signature->sigAlg, signature->signature.any.hashAlg));
  const bool wantsEc = scheme == TPM2_ALG_ECDSA;
  if (EVP_PKEY_is_a(key, "EC") != (wantsEc ? 1 : 0) || (wantsEc && EVP_PKEY_get_bits(key) != 256))
    return refused(fmt::format("alg {} does not fit the AK's key", algorithm));
  const auto portable = portableSignature(*signature, static_cast<size_t>(EVP_PKEY_get_size(key)));
  if (!portable) return refused(portable.error());
  const Handle<EVP_MD_CTX, EVP_MD_CTX_free> ctx(EVP_MD_CTX_new());
  if (!ctx || EVP_DigestVerifyInit_ex(ctx.get(), nullptr, "SHA256", nullptr, nullptr, key, nullptr) != 1 ||
      EVP_DigestVerify(ctx.get(), portable->data(), portable->size(), signedBytes.data(), signedBytes.size()) != 1) {
    (void)opensslError(Reason::SignatureInvalid, "attestation");
    return refused("the attestation is not signed by the AK");
  }
  return {};
}

Result<TPMS_ATTEST> parseAttest(ByteView bytes, TPMI_ST_ATTEST type) {
  // MU accepts a TPMS_ATTEST of any type; a wrong magic it refuses by itself in some versions only.
  auto attest = unmarshal<Tss2_MU_TPMS_ATTEST_Unmarshal, TPMS_ATTEST>(bytes, "TPMS_ATTEST");
  if (!attest) return refused(attest.error());
  if (attest->magic != TPM2_GENERATED_VALUE) return refused("TPMS_ATTEST: not made by a TPM (magic)");
  if (attest->type != type) return refused(fmt::format("TPMS_ATTEST: type 0x{:x}, not 0x{:x}", attest->type, type));
  return attest;
}

struct Area {
  TPMT_PUBLIC parsed{};
  Bytes name;
};
Result<Area> parseArea(ByteView bytes, TPMA_OBJECT mustHave, TPMA_OBJECT mustNotHave) {
  auto parsed = parsePublicArea(bytes);
  if (!parsed) return refused(parsed.error());
  // Servers compute the Name over their own re-encoding.
  if (!std::ranges::equal(publicAreaBytes(*parsed), bytes)) return refused("pubArea: not the canonical encoding");
  const TPMA_OBJECT attributes = parsed->objectAttributes;
  if ((attributes & mustHave) != mustHave || (attributes & mustNotHave) != 0)
    return refused(
        fmt::format("pubArea: attributes 0x{:x} (needs 0x{:x}, forbids 0x{:x})", attributes, mustHave, mustNotHave));
  switch (parsed->type) {
    case TPM2_ALG_RSA:
      if (parsed->unique.rsa.size < 256) return refused("pubArea: an RSA key of less than 2048 bits");
      break;
    case TPM2_ALG_ECC: {
      const TPMI_ECC_CURVE curve = parsed->parameters.eccDetail.curveID;
      if (curve != TPM2_ECC_NIST_P256 && curve != TPM2_ECC_NIST_P384 && curve != TPM2_ECC_NIST_P521)
        return refused(fmt::format("pubArea: curve 0x{:x} is not accepted", curve));
      break;
    }
    default: return refused(fmt::format("pubArea: key type 0x{:x}", parsed->type));
  }
  auto name = nameOf(bytes);
  if (!name) return refused(name.error());
  return Area{*parsed, std::move(*name)};
}

bool equal(ByteView ours, const TPM2B_NAME& theirs) {
  return std::ranges::equal(ours, ByteView(theirs.name, theirs.size));
}

constexpr TPMA_OBJECT kBornHere = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_SENSITIVEDATAORIGIN;

}  // namespace

Result<AttestationVerdict> validateAttestation(const AttestationStatement& statement,
                                               const AttestationExpectation& expected) {
  auto akKey = chainKey(statement.akChain);
  if (!akKey) return propagate(akKey.error());
  auto warnings = checkAkCertificate(statement.akChain.front(), expected.permanentIdentifier, expected.now);
  if (!warnings) return propagate(warnings.error());

  const auto area = parseArea(statement.publicArea, kBornHere, TPMA_OBJECT_RESTRICTED);
  if (!area) return propagate(area.error());
  const auto attest = parseAttest(statement.certifyInfo, TPM2_ST_ATTEST_CERTIFY);
  if (!attest) return propagate(attest.error());
  if (!equal(area->name, attest->attested.certify.name))
    return refused("certifyInfo: it certifies another key than pubArea");
  if (auto good = verifySignature(akKey->get(), statement.algorithm, statement.certifyInfo, statement.signature); !good)
    return propagate(good.error());
  if (!std::ranges::equal(ByteView(attest->extraData.buffer, attest->extraData.size), expected.qualifyingData))
    return refused("certifyInfo: extraData is not the SHA-256 of this key authorization");

  auto spki = spkiOf(area->parsed);
  if (!spki) return refused(spki.error());
  return AttestationVerdict{std::move(*spki), std::move(*warnings)};
}

Status validateAttestationKey(ByteView publicArea, ByteView createData, ByteView createAttestation,
                              ByteView createSignature) {
  const auto area = parseArea(publicArea, kBornHere | TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_SIGN_ENCRYPT, 0);
  if (!area) return propagate(area.error());
  const auto attest = parseAttest(createAttestation, TPM2_ST_ATTEST_CREATION);
  if (!attest) return propagate(attest.error());
  if (!equal(area->name, attest->attested.creation.objectName))
    return refused("createAttestation: it is about another key");
  if (area->parsed.nameAlg != TPM2_ALG_SHA256) return refused("AK: its name algorithm must be SHA-256");
  const TPM2B_DIGEST& creationHash = attest->attested.creation.creationHash;
  if (!std::ranges::equal(sha256(createData), viewOf(creationHash)))
    return refused("createAttestation: creationHash is not the hash of createData");
  const auto spki = spkiOf(area->parsed);
  if (!spki) return refused(spki.error());
  const uint8_t* cursor = spki->data();
  const EvpPkeyPtr key(d2i_PUBKEY(nullptr, &cursor, static_cast<long>(spki->size())));
  if (!key) return refused("AK: its public key does not decode");
  return verifySignature(key.get(), area->parsed.type == TPM2_ALG_ECC ? -7 : -257, createAttestation, createSignature);
}

}  // namespace wayleave::keys::tpm
