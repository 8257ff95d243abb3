#include "keys/tpm/tpm_key.h"

#include <fmt/format.h>
#include <openssl/rsa.h>

#include <algorithm>

#include "keys/openssl.h"
#include "keys/tpm/wire.h"

namespace wayleave::keys::tpm {
namespace {

// Whether a TLS peer would take this PSS signature: salt as long as the digest (RFC 8446 section 4.2.3).
bool pssVerifies(const PublicKey& key, SignatureScheme scheme, ByteView digest, ByteView signature) {
  const uint8_t* cursor = key.spki.data();
  const EvpPkeyPtr pkey(d2i_PUBKEY(nullptr, &cursor, static_cast<long>(key.spki.size())));
  const EvpPkeyCtxPtr ctx(pkey ? EVP_PKEY_CTX_new_from_pkey(nullptr, pkey.get(), nullptr) : nullptr);
  const EVP_MD* md = EVP_get_digestbyname(digestName(scheme));
  const bool good = ctx && EVP_PKEY_verify_init(ctx.get()) > 0 &&
                    EVP_PKEY_CTX_set_rsa_padding(ctx.get(), RSA_PKCS1_PSS_PADDING) > 0 &&
                    EVP_PKEY_CTX_set_signature_md(ctx.get(), md) > 0 &&
                    EVP_PKEY_CTX_set_rsa_pss_saltlen(ctx.get(), RSA_PSS_SALTLEN_DIGEST) > 0 &&
                    EVP_PKEY_verify(ctx.get(), signature.data(), signature.size(), digest.data(), digest.size()) == 1;
  if (!good) (void)opensslError(Reason::Unsupported, "RSA-PSS check");  // empties the error queue
  return good;
}

}  // namespace

Result<std::unique_ptr<TpmKey>> TpmKey::fromPem(std::shared_ptr<TpmDevice> device, std::string_view pem) {
  auto blob = decodeTss2Pem(pem);
  if (!blob) return propagate(blob.error());
  return fromBlob(std::move(device), std::move(*blob));
}

Result<std::unique_ptr<TpmKey>> TpmKey::fromBlob(std::shared_ptr<TpmDevice> device, KeyBlob blob) {
  const auto area = parsePublicArea(blob.publicArea);
  if (!area) return propagate(area.error());
  if ((area->objectAttributes & TPMA_OBJECT_SIGN_ENCRYPT) == 0 ||
      (area->objectAttributes & TPMA_OBJECT_RESTRICTED) != 0)
    return fail(Reason::Unsupported, "a TPM key that cannot sign what others hashed");
  auto spki = spkiOf(*area);
  if (!spki) return propagate(spki.error());
  auto publicKey = PublicKey::fromSpki(*spki);
  if (!publicKey) return propagate(publicKey.error());
  return std::unique_ptr<TpmKey>(new TpmKey(std::move(device), std::move(blob), std::move(*publicKey)));
}

Result<std::unique_ptr<TpmKey>> TpmKey::create(std::shared_ptr<TpmDevice> device, KeyType type, int bits,
                                               Steady deadline) {
  auto blob = device->createKey(type, bits, deadline);
  if (!blob) return propagate(blob.error());
  return fromBlob(std::move(device), std::move(*blob));
}

std::vector<SignatureScheme> TpmKey::supportedSchemes() const { return schemesFor(publicKey_.type); }

Result<Bytes> TpmKey::signDigest(SignatureScheme scheme, ByteView digest, Steady deadline) {
  if (!std::ranges::count(supportedSchemes(), scheme))
    return fail(Reason::Unsupported,
                fmt::format("a key of type {} does not make {} signatures", text(publicKey_.type), text(scheme)));
  if (digest.size() != digestLength(scheme))
    return fail(Reason::BadInput,
                fmt::format("{} signs {} bytes, not {}", text(scheme), digestLength(scheme), digest.size()));
  auto signature = device_->sign(blob_, scheme, digest, deadline);
  if (!signature) {
    Error error = signature.error();
    if (error.reason == Reason::Unavailable || error.reason == Reason::Cancelled)
      error.reason = Reason::IdentityUnavailable;
    return propagate(std::move(error));
  }
  if (isPss(scheme) && !pssVerifies(publicKey_, scheme, digest, *signature))
    return fail(Reason::Unsupported, "this TPM makes RSA-PSS signatures with a salt that TLS 1.3 does not allow",
                "use an EC key (P-256 or P-384), or TLS 1.2");
  return signature;
}

Result<Certification> TpmKey::certify(const AttestationKey& attestationKey, ByteView qualifyingData, Steady deadline) {
  return device_->certify(blob_, attestationKey, qualifyingData, deadline);
}

}  // namespace wayleave::keys::tpm
