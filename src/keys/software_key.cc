#include "keys/software_key.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/rsa.h>

#include <algorithm>
#include <chrono>

namespace wayleave::keys {
namespace {

Result<Bytes> spkiOf(const EVP_PKEY* key) {
  const int length = i2d_PUBKEY(key, nullptr);
  if (length <= 0) return std::unexpected(opensslError(Reason::Unsupported, "encode the public key"));
  Bytes out(static_cast<size_t>(length));
  uint8_t* at = out.data();
  i2d_PUBKEY(key, &at);
  return out;
}

bool fits(KeyType type, SignatureScheme scheme) {
  const std::vector<SignatureScheme> schemes = schemesFor(type);
  return std::ranges::find(schemes, scheme) != schemes.end();
}

Status checkRequest(KeyType type, SignatureScheme scheme, ByteView digest) {
  if (!fits(type, scheme))
    return fail(Reason::Unsupported, fmt::format("{} is not for an {} key", text(scheme), text(type)));
  if (digest.size() != digestLength(scheme)) {
    return fail(Reason::BadInput,
                fmt::format("digest of {} bytes where {} takes {}", digest.size(), text(scheme), digestLength(scheme)));
  }
  return {};
}

// Digest, and for RSA the padding; PSS with salt as long as the digest, as RFC 8446 section 4.2.3 demands.
bool setScheme(EVP_PKEY_CTX* context, KeyType type, SignatureScheme scheme) {
  const EVP_MD* digest = EVP_get_digestbyname(digestName(scheme));
  if (EVP_PKEY_CTX_set_signature_md(context, digest) != 1) return false;
  if (type != KeyType::Rsa) return true;
  if (!isPss(scheme)) return EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PADDING) == 1;
  return EVP_PKEY_CTX_set_rsa_padding(context, RSA_PKCS1_PSS_PADDING) == 1 &&
         EVP_PKEY_CTX_set_rsa_mgf1_md(context, digest) == 1 &&
         EVP_PKEY_CTX_set_rsa_pss_saltlen(context, RSA_PSS_SALTLEN_DIGEST) == 1;
}

EvpPkeyPtr generateEvp(KeyType type, int rsaBits) {
  switch (type) {
    case KeyType::EcP256: return EvpPkeyPtr(EVP_EC_gen("P-256"));
    case KeyType::EcP384: return EvpPkeyPtr(EVP_EC_gen("P-384"));
    case KeyType::EcP521: return EvpPkeyPtr(EVP_EC_gen("P-521"));
    case KeyType::Rsa: return EvpPkeyPtr(EVP_RSA_gen(static_cast<unsigned>(rsaBits)));
  }
  return nullptr;
}

}  // namespace

Result<std::unique_ptr<SoftwareKey>> SoftwareKey::generate(KeyType type, int rsaBits) {
  if (type == KeyType::Rsa && (rsaBits < kMinRsaBits || rsaBits > kMaxRsaBits || rsaBits % 8 != 0)) {
    return fail(Reason::Unsupported, fmt::format("an RSA key of {} bits was asked for", rsaBits),
                fmt::format("use {} to {} bits", kMinRsaBits, kMaxRsaBits));
  }
  EvpPkeyPtr key = generateEvp(type, rsaBits);
  if (!key) return std::unexpected(opensslError(Reason::Internal, fmt::format("make an {} key", text(type))));
  return adopt(std::move(key));
}

Result<std::unique_ptr<SoftwareKey>> SoftwareKey::adopt(EvpPkeyPtr key) {
  const Result<Bytes> spki = spkiOf(key.get());
  if (!spki) return std::unexpected(spki.error());
  Result<PublicKey> publicKey = PublicKey::fromSpki(*spki);
  if (!publicKey) return withContext(publicKey.error(), "private key");
  return std::unique_ptr<SoftwareKey>(new SoftwareKey(std::move(key), *std::move(publicKey)));
}

Result<std::unique_ptr<SoftwareKey>> SoftwareKey::fromPkcs8(const Secret& pkcs8) {
  const ByteView der = pkcs8.view();
  const uint8_t* at = der.data();
  const Pkcs8Ptr info(d2i_PKCS8_PRIV_KEY_INFO(nullptr, &at, static_cast<long>(der.size())));
  if (!info) return std::unexpected(opensslError(Reason::BadInput, "private key is not a PrivateKeyInfo"));
  if (at != der.data() + der.size())
    return fail(Reason::BadInput, fmt::format("{} bytes follow the private key", der.data() + der.size() - at));

  EvpPkeyPtr key(EVP_PKCS82PKEY(info.get()));
  if (!key) {
    const ASN1_OBJECT* algorithm = nullptr;
    PKCS8_pkey_get0(&algorithm, nullptr, nullptr, nullptr, info.get());
    const int nid = OBJ_obj2nid(algorithm);
    const bool known = nid == NID_rsaEncryption || nid == NID_X9_62_id_ecPublicKey;
    return std::unexpected(
        opensslError(known ? Reason::BadInput : Reason::Unsupported, "private key cannot be decoded"));
  }
  auto adopted = adopt(std::move(key));
  if (!adopted) return adopted;
  if (const Status proof = (*adopted)->proveItself(); !proof) return std::unexpected(proof.error());
  return adopted;
}

Status SoftwareKey::proveItself() {
  const SignatureScheme scheme = supportedSchemes().front();
  const Bytes digest = randomBytes(digestLength(scheme));
  const Result<Bytes> signature = signDigest(scheme, digest, Steady::max());
  const Result<bool> good =
      signature ? verifyDigest(publicKey_, scheme, digest, *signature) : Result<bool>(std::unexpect, signature.error());
  if (good && *good) return {};
  return fail(Reason::KeyMismatch, "the private half of the key does not belong to its public half",
              "the file is damaged or was put together from two keys: export it again");
}

Result<Secret> SoftwareKey::toPkcs8() const {
  const Pkcs8Ptr info(EVP_PKEY2PKCS8(key_.get()));
  const int length = info ? i2d_PKCS8_PRIV_KEY_INFO(info.get(), nullptr) : 0;
  if (length <= 0) return std::unexpected(opensslError(Reason::Internal, "encode the private key"));
  Secret out(Bytes(static_cast<size_t>(length)));
  uint8_t* at = out.mutableBytes().data();
  i2d_PKCS8_PRIV_KEY_INFO(info.get(), &at);
  return out;
}

Result<Bytes> SoftwareKey::signDigest(SignatureScheme scheme, ByteView digest, Steady deadline) {
  if (const Status good = checkRequest(publicKey_.type, scheme, digest); !good) return std::unexpected(good.error());
  if (std::chrono::steady_clock::now() >= deadline)
    return fail(Reason::DeadlineExceeded, "the deadline had passed before the software key could sign");

  const EvpPkeyCtxPtr context(EVP_PKEY_CTX_new_from_pkey(nullptr, key_.get(), nullptr));
  size_t length = 0;
  if (!context || EVP_PKEY_sign_init(context.get()) != 1 || !setScheme(context.get(), publicKey_.type, scheme) ||
      EVP_PKEY_sign(context.get(), nullptr, &length, digest.data(), digest.size()) != 1)
    return std::unexpected(opensslError(Reason::Internal, fmt::format("prepare {}", text(scheme))));
  Bytes signature(length);
  if (EVP_PKEY_sign(context.get(), signature.data(), &length, digest.data(), digest.size()) != 1)
    return std::unexpected(opensslError(Reason::Internal, fmt::format("sign with {}", text(scheme))));
  signature.resize(length);  // DER of an ECDSA signature is often shorter than its bound
  return signature;
}

Result<OpenedEnvelope> SoftwareKey::openEnvelope(ByteView der, Steady deadline) {
  if (publicKey_.type != KeyType::Rsa) return PrivateKey::openEnvelope(der, deadline);
  if (std::chrono::steady_clock::now() >= deadline)
    return fail(Reason::DeadlineExceeded, "the deadline had passed before the software key could decrypt");
  return keys::openEnvelope(key_.get(), der);
}

Result<bool> verifyDigest(const PublicKey& key, SignatureScheme scheme, ByteView digest, ByteView signature) {
  if (const Status good = checkRequest(key.type, scheme, digest); !good) return std::unexpected(good.error());
  const uint8_t* at = key.spki.data();
  const EvpPkeyPtr pkey(d2i_PUBKEY(nullptr, &at, static_cast<long>(key.spki.size())));
  if (!pkey) return std::unexpected(opensslError(Reason::BadInput, "public key cannot be decoded"));
  const EvpPkeyCtxPtr context(EVP_PKEY_CTX_new_from_pkey(nullptr, pkey.get(), nullptr));
  if (!context || EVP_PKEY_verify_init(context.get()) != 1 || !setScheme(context.get(), key.type, scheme))
    return std::unexpected(opensslError(Reason::Internal, fmt::format("prepare to verify {}", text(scheme))));
  const int verdict = EVP_PKEY_verify(context.get(), signature.data(), signature.size(), digest.data(), digest.size());
  ERR_clear_error();  // a signature that does not verify is an answer, not a failure to report later
  return verdict == 1;
}

}  // namespace wayleave::keys
