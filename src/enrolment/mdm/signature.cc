#include "enrolment/mdm/signature.h"

#include <openssl/cms.h>

#include "keys/openssl.h"
#include "tls/callback_key.h"

namespace wayleave::enrolment::mdm {
namespace {

using BioPtr = Handle<BIO, BIO_free>;
using CmsPtr = Handle<CMS_ContentInfo, CMS_ContentInfo_free>;
using keys::opensslError;

Result<keys::X509Ptr> decode(ByteView der) {
  const uint8_t* cursor = der.data();
  keys::X509Ptr certificate(X509_new_ex(tls::callbackLibrary(), nullptr));
  X509* raw = certificate.get();
  if (raw == nullptr || d2i_X509(&raw, &cursor, static_cast<long>(der.size())) == nullptr) {
    (void)certificate.release();  // d2i freed it
    return propagate(opensslError(Reason::BadInput, "decode the MDM identity's certificate"));
  }
  return certificate;
}

// The digest that fits the key: a P-384 key with SHA-256 is no scheme that every signer offers.
const EVP_MD* digestFor(keys::KeyType type) {
  switch (type) {
    case keys::KeyType::EcP256:
    case keys::KeyType::Rsa: return EVP_sha256();
    case keys::KeyType::EcP384: return EVP_sha384();
    case keys::KeyType::EcP521: return EVP_sha512();
  }
  return EVP_sha256();
}

}  // namespace

Result<std::string> mdmSignature(localapi::IdentityAgent& agent, const localapi::IdentityInfo& identity, ByteView body, Steady deadline) {
  if (identity.chain.empty()) return fail(Reason::BadInput, "the MDM identity has no certificate");
  const auto publicKey = keys::PublicKey::fromSpki(identity.publicKey);
  if (!publicKey) return withContext(publicKey.error(), "the MDM identity's key");
  const auto key = tls::makeCallbackKey(*publicKey, [&](const tls::KeyRequest& request) {
    return agent.signMessage(identity.reference, keys::text(request.scheme), request.message, deadline);
  });
  if (!key) return propagate(key.error());
  const auto leaf = decode(identity.chain.front());
  if (!leaf) return propagate(leaf.error());

  (void)tls::takeSignError();
  constexpr unsigned kFlags = CMS_DETACHED | CMS_BINARY | CMS_NOSMIMECAP;
  const BioPtr content(BIO_new_mem_buf(body.data(), static_cast<int>(body.size())));
  const CmsPtr cms(CMS_sign_ex(nullptr, nullptr, nullptr, nullptr, kFlags | CMS_PARTIAL, tls::callbackLibrary(), nullptr));
  if (!content || !cms || CMS_add1_signer(cms.get(), leaf->get(), key->get(), digestFor(publicKey->type), kFlags) == nullptr ||
      CMS_final(cms.get(), content.get(), nullptr, kFlags) != 1) {
    const Error openssl = opensslError(Reason::Internal, "sign a message to the MDM server");
    if (const auto why = tls::takeSignError()) return withContext(*why, "sign a message to the MDM server");
    return propagate(openssl);
  }
  uint8_t* der = nullptr;
  const int length = i2d_CMS_ContentInfo(cms.get(), &der);
  if (length <= 0) return propagate(opensslError(Reason::Internal, "encode a signature for the MDM server"));
  const Bytes encoded(der, der + length);
  OPENSSL_free(der);
  return toBase64(encoded);
}

}  // namespace wayleave::enrolment::mdm
