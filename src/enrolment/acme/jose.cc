#include "enrolment/acme/jose.h"

#include <fmt/format.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <nlohmann/json.hpp>

#include "base/file.h"

namespace wayleave::enrolment::acme {
namespace {

using keys::opensslError;
using SignaturePtr = Handle<ECDSA_SIG, ECDSA_SIG_free>;

constexpr size_t kP256Bytes = 32;
constexpr auto kSignTime = std::chrono::seconds{10};

std::string flattened(std::string_view protectedHeader, std::string_view payload, ByteView signature) {
  return nlohmann::json{{"protected", protectedHeader}, {"payload", payload}, {"signature", toBase64Url(signature)}}.dump();
}

}  // namespace

Result<Bytes> rawEcdsaSignature(ByteView der, size_t coordinateBytes) {
  const unsigned char* at = der.data();
  const SignaturePtr signature(d2i_ECDSA_SIG(nullptr, &at, static_cast<long>(der.size())));
  if (!signature) return std::unexpected(opensslError(Reason::BadInput, "an ECDSA signature"));
  Bytes out(2 * coordinateBytes);
  const int size = static_cast<int>(coordinateBytes);
  if (BN_bn2binpad(ECDSA_SIG_get0_r(signature.get()), out.data(), size) != size ||
      BN_bn2binpad(ECDSA_SIG_get0_s(signature.get()), out.data() + coordinateBytes, size) != size)
    return fail(Reason::BadInput, "an ECDSA signature for another curve");
  return out;
}

AccountKey::AccountKey(std::unique_ptr<keys::SoftwareKey> key) : key_(std::move(key)) {
  // The SPKI of a P-256 key ends in the uncompressed point 04 ‖ X ‖ Y.
  const Bytes& spki = key_->publicKey().spki;
  const ByteView point = ByteView(spki).last(2 * kP256Bytes);
  jwk_ = fmt::format(R"({{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}})", toBase64Url(point.first(kP256Bytes)),
                     toBase64Url(point.last(kP256Bytes)));
  thumbprint_ = toBase64Url(sha256(asBytes(jwk_)));
}

Result<AccountKey> AccountKey::openOrCreate(const std::string& path) {
  Result<Bytes> stored = readFile(path, 16 * 1024);
  if (!stored && stored.error().reason != Reason::NotFound) return withContext(stored.error(), "the ACME account key");
  if (stored) {
    const Secret pkcs8(std::move(*stored));
    auto key = keys::SoftwareKey::fromPkcs8(pkcs8);
    if (!key) return withContext(key.error(), "the ACME account key " + path);
    if ((*key)->publicKey().type != keys::KeyType::EcP256) return fail(Reason::BadInput, path + " is not a P-256 key");
    return AccountKey(std::move(*key));
  }
  auto key = keys::SoftwareKey::generate(keys::KeyType::EcP256);
  if (!key) return propagate(key.error());
  const Result<Secret> pkcs8 = (*key)->toPkcs8();
  if (!pkcs8) return propagate(pkcs8.error());
  if (Status written = writeFileAtomically(path, pkcs8->view(), 0600); !written) return withContext(written.error(), "the ACME account key");
  return AccountKey(std::move(*key));
}

Result<std::string> AccountKey::sign(std::string_view url, std::string_view nonce, std::string_view accountUrl,
                                     std::string_view payload) const {
  nlohmann::json header = {{"alg", "ES256"}, {"nonce", nonce}, {"url", url}};
  if (accountUrl.empty())
    header["jwk"] = nlohmann::json::parse(jwk_);
  else
    header["kid"] = accountUrl;
  const std::string protectedHeader = toBase64Url(asBytes(header.dump()));
  const std::string encodedPayload = toBase64Url(asBytes(payload));
  const std::string input = protectedHeader + "." + encodedPayload;
  const auto signature = key_->sign(keys::SignatureScheme::EcdsaSecp256r1Sha256, asBytes(input),
                                    std::chrono::steady_clock::now() + kSignTime);
  if (!signature) return withContext(signature.error(), "sign an ACME request");
  const auto raw = rawEcdsaSignature(*signature, kP256Bytes);
  if (!raw) return propagate(raw.error());
  return flattened(protectedHeader, encodedPayload, *raw);
}

Result<std::string> AccountKey::bindExternalAccount(const ExternalAccount& account, std::string_view newAccountUrl) const {
  const nlohmann::json header = {{"alg", "HS256"}, {"kid", account.keyIdentifier}, {"url", newAccountUrl}};
  const std::string protectedHeader = toBase64Url(asBytes(header.dump()));
  const std::string encodedPayload = toBase64Url(asBytes(jwk_));
  const std::string input = protectedHeader + "." + encodedPayload;
  Bytes mac(EVP_MAX_MD_SIZE);
  unsigned length = 0;
  const ByteView key = account.hmacKey.view();
  if (HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), reinterpret_cast<const unsigned char*>(input.data()),
           input.size(), mac.data(), &length) == nullptr)
    return std::unexpected(opensslError(Reason::Internal, "bind the external account"));
  mac.resize(length);
  return flattened(protectedHeader, encodedPayload, mac);
}

}  // namespace wayleave::enrolment::acme
