#pragma once

// Shared by the tests of this folder.

#include <gtest/gtest.h>
#include <openssl/rsa.h>

#include "keys/openssl.h"
#include "keys/tpm/swtpm_test_support.h"
#include "keys/tpm/tpm_device.h"
#include "keys/tpm/tpm_key.h"

namespace wayleave::keys::tpm {

inline Steady soon(std::chrono::milliseconds time = std::chrono::seconds{30}) {
  return std::chrono::steady_clock::now() + time;
}

// OpenSSL's own verification of a TLS or CSR signature over `message`.
inline bool verifies(const PublicKey& key, SignatureScheme scheme, ByteView message, ByteView signature) {
  const uint8_t* cursor = key.spki.data();
  const EvpPkeyPtr pkey(d2i_PUBKEY(nullptr, &cursor, static_cast<long>(key.spki.size())));
  const Handle<EVP_MD_CTX, EVP_MD_CTX_free> ctx(EVP_MD_CTX_new());
  EVP_PKEY_CTX* how = nullptr;
  if (!pkey || EVP_DigestVerifyInit_ex(ctx.get(), &how, digestName(scheme), nullptr, nullptr, pkey.get(), nullptr) != 1)
    return false;
  if (isPss(scheme) && (EVP_PKEY_CTX_set_rsa_padding(how, RSA_PKCS1_PSS_PADDING) <= 0 ||
                        EVP_PKEY_CTX_set_rsa_pss_saltlen(how, RSA_PSS_SALTLEN_DIGEST) <= 0))
    return false;
  return EVP_DigestVerify(ctx.get(), signature.data(), signature.size(), message.data(), message.size()) == 1;
}

class SwTpmTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const auto why = SwTpm::missing()) GTEST_SKIP() << *why;
    tpm_ = std::make_unique<SwTpm>();
    tpm_->start();
  }
  std::shared_ptr<TpmDevice> open(const SwTpm& tpm, TpmOptions options = {}) {
    options.tcti = tpm.tcti();
    return std::make_shared<TpmDevice>(options);
  }
  std::shared_ptr<TpmDevice> open(TpmOptions options = {}) { return open(*tpm_, std::move(options)); }
  static std::unique_ptr<TpmKey> makeKey(const std::shared_ptr<TpmDevice>& device, KeyType type = KeyType::EcP256) {
    auto key = TpmKey::create(device, type, type == KeyType::Rsa ? 2048 : 0, soon());
    EXPECT_TRUE(key.has_value()) << describe(key.error());
    return key ? std::move(*key) : nullptr;
  }
  // The signature's reason, or Ok when it also verifies.
  static Reason tryToSign(PrivateKey& key, Steady deadline = soon()) {
    const SignatureScheme scheme = key.supportedSchemes().front();
    auto signature = key.sign(scheme, asBytes("message"), deadline);
    if (!signature) return signature.error().reason;
    return verifies(key.publicKey(), scheme, asBytes("message"), *signature) ? Reason::Ok : Reason::SignatureInvalid;
  }

  std::unique_ptr<SwTpm> tpm_;
};

}  // namespace wayleave::keys::tpm
