#include "pkcs11/crypto.h"

#include <openssl/crypto.h>
#include <unistd.h>

#include <atomic>

namespace wayleave::pkcs11 {
namespace {

using MdPtr = Handle<EVP_MD, EVP_MD_free>;

const char* nameOf(HashKind kind) {
  switch (kind) {
    case HashKind::Sha1: return "SHA1";
    case HashKind::Sha256: return "SHA256";
    case HashKind::Sha384: return "SHA384";
    case HashKind::Sha512: return "SHA512";
  }
  return "";
}

}  // namespace

OSSL_LIB_CTX* cryptoContext() {
  struct Made {
    OSSL_LIB_CTX* context;
    pid_t owner;
    Made* before;
  };
  static std::atomic<Made*> latest{nullptr};
  Made* known = latest.load();
  while (known == nullptr || known->owner != getpid()) {
    Made* const made = new Made{OSSL_LIB_CTX_new(), getpid(), known};
    if (latest.compare_exchange_strong(known, made)) return made->context;
    OSSL_LIB_CTX_free(made->context);
    delete made;
  }
  return known->context;
}

size_t hashLength(HashKind kind) {
  switch (kind) {
    case HashKind::Sha1: return 20;
    case HashKind::Sha256: return 32;
    case HashKind::Sha384: return 48;
    case HashKind::Sha512: return 64;
  }
  return 0;
}

Answer<Hash> Hash::begin(HashKind kind) {
  const QuietErrors quiet;
  const MdPtr md(EVP_MD_fetch(cryptoContext(), nameOf(kind), nullptr));
  ContextPtr context(EVP_MD_CTX_new());
  if (!md || !context || EVP_DigestInit_ex2(context.get(), md.get(), nullptr) != 1) return failWith(CKR_GENERAL_ERROR);
  return Hash(std::move(context), kind);
}

bool Hash::update(ByteView bytes) {
  const QuietErrors quiet;
  return EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1;
}

Answer<Bytes> Hash::finish() {
  const QuietErrors quiet;
  Bytes out(hashLength(kind_));
  if (EVP_DigestFinal_ex(context_.get(), out.data(), nullptr) != 1) return failWith(CKR_GENERAL_ERROR);
  return out;
}

Answer<Bytes> hashOf(HashKind kind, ByteView bytes) {
  Answer<Hash> hash = Hash::begin(kind);
  if (!hash) return failWith(hash.error());
  if (!hash->update(bytes)) return failWith(CKR_GENERAL_ERROR);
  return hash->finish();
}

}  // namespace wayleave::pkcs11
