#include "enrolment/pkcs12_protection.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>

#include "keys/openssl.h"

namespace wayleave::enrolment {
namespace {

// Below this a guessed password costs an attacker nothing; RFC 8018 section 4.2 names 1,000 as the least.
constexpr uint64_t kFewIterations = 1000;
constexpr std::string_view kExportAgain = "export the identity again with AES-256 (OpenSSL 3: openssl pkcs12 -export)";

// PKCS#12's own schemes (RFC 7292 appendix C) with OpenSSL's cipher names.
struct OldScheme {
  int nid;
  const char* cipher;
  const char* weakness;  // nullptr: old, but not broken
};
constexpr std::array<OldScheme, 6> kOldSchemes{{
    {NID_pbe_WithSHA1And3_Key_TripleDES_CBC, "DES-EDE3-CBC", nullptr},
    {NID_pbe_WithSHA1And2_Key_TripleDES_CBC, "DES-EDE-CBC", "two-key 3DES"},
    {NID_pbe_WithSHA1And128BitRC2_CBC, "RC2-CBC", "RC2-128"},
    {NID_pbe_WithSHA1And40BitRC2_CBC, "RC2-40-CBC", "RC2-40, which can be broken in seconds"},
    {NID_pbe_WithSHA1And128BitRC4, "RC4", "RC4"},
    {NID_pbe_WithSHA1And40BitRC4, "RC4-40", "RC4-40, which can be broken in seconds"},
}};

using PbeParametersPtr = Handle<PBEPARAM, PBEPARAM_free>;
using Pbes2ParametersPtr = Handle<PBE2PARAM, PBE2PARAM_free>;
using Pbkdf2ParametersPtr = Handle<PBKDF2PARAM, PBKDF2PARAM_free>;
using CipherPtr = Handle<EVP_CIPHER, EVP_CIPHER_free>;

int algorithmOf(const X509_ALGOR* algorithm, const ASN1_TYPE** parameters) {
  const ASN1_OBJECT* object = nullptr;
  int type = V_ASN1_UNDEF;
  const void* value = nullptr;
  X509_ALGOR_get0(&object, &type, &value, algorithm);
  *parameters = algorithm->parameter;
  return OBJ_obj2nid(object);
}

std::string nameOf(const X509_ALGOR* algorithm) {
  std::array<char, 128> name{};
  OBJ_obj2txt(name.data(), name.size(), algorithm->algorithm, 0);
  return name.data();
}

std::unexpected<Error> badParameters(std::string_view what) {
  Error error = keys::opensslError(Reason::BadInput, fmt::format("the encryption parameters of {}", what));
  error.hint = "the file is damaged: fetch or export it again";
  return std::unexpected(std::move(error));
}

}  // namespace

void Protection::warn(std::string sentence) {
  if (std::ranges::find(warnings_, sentence) == warnings_.end()) warnings_.push_back(std::move(sentence));
}

Status Protection::spend(const ASN1_INTEGER* iterations, std::string_view what) {
  uint64_t count = 1;
  if (iterations != nullptr && (ASN1_INTEGER_get_uint64(&count, iterations) != 1 || count == 0 || count > left_)) {
    ERR_clear_error();
    return fail(Reason::Unsupported, fmt::format("{} asks for more key-derivation iterations than one file may", what),
                "export the identity again with 2,048 to 600,000 iterations");
  }
  left_ -= std::min(count, left_);
  if (count < kFewIterations)
    warn(fmt::format("{} is protected by {} iteration{} only", what, count, count == 1 ? "" : "s"));
  return {};
}

Status Protection::requireCipher(const char* name, std::string_view what) {
  const CipherPtr cipher(EVP_CIPHER_fetch(library_.context(), name, nullptr));
  ERR_clear_error();
  if (cipher) return {};
  return fail(Reason::Unsupported,
              fmt::format("{} is encrypted with {}, which this OpenSSL does not offer", what, name),
              std::string(kExportAgain));
}

Status Protection::examine(const X509_ALGOR* algorithm, std::string_view what) {
  const ASN1_TYPE* parameters = nullptr;
  const int nid = algorithmOf(algorithm, &parameters);

  if (const auto* old = std::ranges::find(kOldSchemes, nid, &OldScheme::nid); old != kOldSchemes.end()) {
    const PbeParametersPtr pbe(static_cast<PBEPARAM*>(ASN1_TYPE_unpack_sequence(ASN1_ITEM_rptr(PBEPARAM), parameters)));
    if (!pbe) return badParameters(what);
    if (const Status spent = spend(pbe->iter, what); !spent) return spent;
    if (old->weakness != nullptr) warn(fmt::format("{} is encrypted with {}", what, old->weakness));
    return requireCipher(old->cipher, what);
  }

  if (nid == NID_pbes2) {
    const Pbes2ParametersPtr pbes2(
        static_cast<PBE2PARAM*>(ASN1_TYPE_unpack_sequence(ASN1_ITEM_rptr(PBE2PARAM), parameters)));
    if (!pbes2) return badParameters(what);
    const ASN1_TYPE* derivation = nullptr;
    if (algorithmOf(pbes2->keyfunc, &derivation) != NID_id_pbkdf2) {
      return fail(Reason::Unsupported, fmt::format("the key for {} is derived with {}", what, nameOf(pbes2->keyfunc)),
                  std::string(kExportAgain));
    }
    const Pbkdf2ParametersPtr pbkdf2(
        static_cast<PBKDF2PARAM*>(ASN1_TYPE_unpack_sequence(ASN1_ITEM_rptr(PBKDF2PARAM), derivation)));
    if (!pbkdf2) return badParameters(what);
    if (const Status spent = spend(pbkdf2->iter, what); !spent) return spent;
    return requireCipher(nameOf(pbes2->encryption).c_str(), what);
  }

  return fail(Reason::Unsupported, fmt::format("{} is encrypted with {}", what, nameOf(algorithm)),
              std::string(kExportAgain));
}

Status Protection::examineMac(const X509_ALGOR* digest, const ASN1_INTEGER* iterations) {
  const Handle<EVP_MD, EVP_MD_free> known(EVP_MD_fetch(library_.context(), nameOf(digest).c_str(), nullptr));
  ERR_clear_error();
  if (!known) {
    return fail(Reason::Unsupported, fmt::format("the file's MAC uses {}", nameOf(digest)),
                "export the identity again with a SHA-256 MAC (not PBMAC1)");
  }
  return spend(iterations, "the file's MAC");
}

}  // namespace wayleave::enrolment
