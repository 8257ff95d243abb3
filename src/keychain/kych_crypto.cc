#include "keychain/kych_crypto.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <array>

#include "base/owned.h"

namespace wayleave::keychain {
namespace {

using CipherCtx = Handle<EVP_CIPHER_CTX, EVP_CIPHER_CTX_free>;

constexpr std::array<uint8_t, 8> kOuterIv = {0x4a, 0xdd, 0xa2, 0x2c,
                                             0x79, 0xe8, 0x21, 0x05};  // CMS key wrap, RFC 2630 12.6
constexpr int kIterations = 1000;
constexpr size_t kSha1Block = 64;
constexpr size_t kSigningKeyBytes = 20;
constexpr size_t kDatabaseHead = 72, kDatabaseFixed = 92;
constexpr size_t kKeyHead = 116, kKeyFixed = 136;
constexpr uint32_t kMaxDescriptiveData = 0x10000;
constexpr std::string_view kCleartext = "Cleartext public key";

std::unexpected<Error> bad(std::string_view what, size_t offset, std::string_view why) {
  return fail(Reason::BadInput, fmt::format("{}: {} at offset {}", what, why, offset));
}

Bytes standardMac(ByteView key, ByteView chunk1, ByteView chunk2) {
  Bytes all = toBytes(chunk1);
  append(all, chunk2);
  Bytes out(20);
  unsigned length = 0;
  if (HMAC(EVP_sha1(), key.data(), static_cast<int>(key.size()), all.data(), all.size(), out.data(), &length) ==
      nullptr)
    std::abort();
  return out;
}

Bytes padded(ByteView key, uint8_t with) {
  Bytes pad(kSha1Block, with);
  for (size_t i = 0; i < std::min(key.size(), kSha1Block); ++i) pad[i] ^= key[i];
  return pad;
}

Bytes sha1Of(std::initializer_list<ByteView> parts) {
  Secret all;
  size_t size = 0;
  for (const ByteView part : parts) size += part.size();
  all.mutableBytes().reserve(size);
  for (const ByteView part : parts) append(all.mutableBytes(), part);
  return sha1(all.view());
}

Bytes legacyMac(ByteView key, ByteView chunk1, ByteView chunk2) {
  const Secret inner(padded(key, 0x36)), outer(padded(key, 0x5c));
  const Bytes first = sha1Of({inner.view(), chunk1});
  const Bytes second = sha1Of({outer.view(), first, inner.view(), chunk2});
  return sha1Of({outer.view(), second});
}

bool equalMacs(ByteView a, ByteView b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

// magic, version, startCryptoBlob, totalLength: the head that both kinds of blob share.
struct BlobHead {
  uint32_t version;
  size_t start, total;
};
Result<BlobHead> blobHead(ByteView bytes, size_t fixed, std::string_view what) {
  if (bytes.size() < fixed) return bad(what, bytes.size(), "cut off");
  if (readU32(bytes.first(4)) != kBlobMagic) return bad(what, 0, "no magic fade0711");
  const BlobHead head{readU32(bytes.subspan(4, 4)), readU32(bytes.subspan(8, 4)), readU32(bytes.subspan(12, 4))};
  if (head.version != 0x100 && head.version != 0x101 && head.version != 0x200)
    return fail(Reason::Unsupported, fmt::format("{}: version 0x{:x}", what, head.version));
  if (head.total > bytes.size() || head.total < fixed) return bad(what, 12, "total length does not fit");
  if (head.start > head.total || head.start < fixed) return bad(what, 8, "start of the encrypted part does not fit");
  return head;
}

}  // namespace

Bytes blobMac(uint32_t blobVersion, ByteView key, ByteView chunk1, ByteView chunk2) {
  return blobVersion == kBlobVersionClassic ? legacyMac(key, chunk1, chunk2) : standardMac(key, chunk1, chunk2);
}

Result<Secret> tripleDesDecrypt(ByteView key, ByteView iv, ByteView ciphertext) {
  if (key.size() != kDesKeyBytes || iv.size() != 8 || ciphertext.empty() || ciphertext.size() % 8 != 0 ||
      ciphertext.size() > (1u << 28))
    return fail(Reason::BadInput, fmt::format("3DES: {} bytes are not whole blocks, or key or IV have the wrong size",
                                              ciphertext.size()));
  const CipherCtx context(EVP_CIPHER_CTX_new());
  Secret out(Bytes(ciphertext.size() + 8));
  int first = 0, last = 0;
  if (!context || EVP_DecryptInit_ex2(context.get(), EVP_des_ede3_cbc(), key.data(), iv.data(), nullptr) != 1 ||
      EVP_DecryptUpdate(context.get(), out.mutableBytes().data(), &first, ciphertext.data(),
                        static_cast<int>(ciphertext.size())) != 1)
    return fail(Reason::Internal, "3DES decryption is not available");
  if (EVP_DecryptFinal_ex(context.get(), out.mutableBytes().data() + first, &last) != 1)
    return fail(Reason::WrongPassword, "3DES: bad padding after decryption");
  out.mutableBytes().resize(static_cast<size_t>(first + last));
  return out;
}

Result<Bytes> tripleDesEncrypt(ByteView key, ByteView iv, ByteView plaintext) {
  if (key.size() != kDesKeyBytes || iv.size() != 8 || plaintext.size() > (1u << 28))
    return fail(Reason::BadInput, "3DES: wrong sizes");
  const CipherCtx context(EVP_CIPHER_CTX_new());
  Bytes out(plaintext.size() + 8);
  int first = 0, last = 0;
  if (!context || EVP_EncryptInit_ex2(context.get(), EVP_des_ede3_cbc(), key.data(), iv.data(), nullptr) != 1 ||
      EVP_EncryptUpdate(context.get(), out.data(), &first, plaintext.data(), static_cast<int>(plaintext.size())) != 1 ||
      EVP_EncryptFinal_ex(context.get(), out.data() + first, &last) != 1)
    return fail(Reason::Internal, "3DES encryption is not available");
  out.resize(static_cast<size_t>(first + last));
  return out;
}

Result<DatabaseBlob> DatabaseBlob::parse(ByteView bytes) {
  const Result<BlobHead> head = blobHead(bytes, kDatabaseFixed, "database blob");
  if (!head) return propagate(head.error());
  DatabaseBlob out;
  out.version = head->version;
  out.randomSignature = toBytes(bytes.subspan(16, 16));
  out.salt = toBytes(bytes.subspan(44, 20));
  out.iv = toBytes(bytes.subspan(64, 8));
  out.signature = toBytes(bytes.subspan(72, 20));
  out.signedHead = toBytes(bytes.first(kDatabaseHead));
  out.signedTail = toBytes(bytes.subspan(kDatabaseFixed, head->total - kDatabaseFixed));
  out.publicAclBytes = head->start - kDatabaseFixed;
  return out;
}

Result<KeyBlob> KeyBlob::parse(ByteView bytes) {
  const Result<BlobHead> head = blobHead(bytes, kKeyFixed, "key blob");
  if (!head) return propagate(head.error());
  KeyBlob out;
  out.version = head->version;
  out.iv = toBytes(bytes.subspan(16, 8));
  out.algorithm = readU32(bytes.subspan(52, 4));
  out.keyClass = readU32(bytes.subspan(56, 4));
  out.bits = readU32(bytes.subspan(60, 4));
  out.attributes = readU32(bytes.subspan(64, 4));
  out.signature = toBytes(bytes.subspan(kKeyHead, 20));
  out.cleartext = asText(out.signature) == kCleartext;
  out.signedHead = toBytes(bytes.first(kKeyHead));
  out.signedTail = toBytes(bytes.subspan(kKeyFixed, head->total - kKeyFixed));
  out.publicAclBytes = head->start - kKeyFixed;
  return out;
}

Result<Secret> masterKeyFromPassword(std::string_view password, ByteView salt) {
  Secret out{Bytes(kDesKeyBytes)};
  if (PKCS5_PBKDF2_HMAC(password.data(), static_cast<int>(password.size()), salt.data(), static_cast<int>(salt.size()),
                        kIterations, EVP_sha1(), static_cast<int>(kDesKeyBytes), out.mutableBytes().data()) != 1)
    return fail(Reason::Internal, "PBKDF2-HMAC-SHA1 is not available");
  return out;
}

Result<Secret> masterKeyFromSystemKey(ByteView file, const DatabaseBlob& database) {
  constexpr size_t kSystemKeyBytes = 48;
  if (file.size() != kSystemKeyBytes)
    return fail(Reason::BadInput, fmt::format("SystemKey of {} bytes, not 48", file.size()));
  if (readU32(file.first(4)) != kBlobMagic) return bad("SystemKey", 0, "no magic fade0711");
  if (!equalMacs(file.subspan(32, 16), database.randomSignature))
    return fail(Reason::KeyMismatch, "the SystemKey belongs to another keychain");
  return Secret(toBytes(file.subspan(8, kDesKeyBytes)));
}

Result<DatabaseKeys> unlockDatabase(const DatabaseBlob& database, const Secret& masterKey) {
  const Result<Secret> plain =
      tripleDesDecrypt(masterKey.view(), database.iv, ByteView(database.signedTail).subspan(database.publicAclBytes));
  if (!plain) return withContext(plain.error(), "unlock keychain");
  if (plain->view().size() < kDesKeyBytes + kSigningKeyBytes)
    return fail(Reason::WrongPassword, "unlock keychain: wrong password");
  DatabaseKeys keys{Secret(toBytes(plain->view().first(kDesKeyBytes))),
                    Secret(toBytes(plain->view().subspan(kDesKeyBytes, kSigningKeyBytes)))};
  const Bytes mac = blobMac(database.version, keys.signingKey.view(), database.signedHead, database.signedTail);
  if (!equalMacs(mac, database.signature))
    return fail(Reason::WrongPassword, "unlock keychain: the database's MAC does not verify");
  return keys;
}

Result<UnwrappedKey> unwrapKey(const KeyBlob& blob, const DatabaseKeys& keys) {
  if (blob.cleartext) return fail(Reason::Unsupported, "unwrap key: a public key in the clear");
  const Bytes mac = blobMac(blob.version, keys.signingKey.view(), blob.signedHead, blob.signedTail);
  if (!equalMacs(mac, blob.signature))
    return fail(Reason::SignatureInvalid, "unwrap key: the key's MAC does not verify");
  Result<Secret> outer = tripleDesDecrypt(keys.encryptionKey.view(), kOuterIv, blob.crypto());
  if (!outer) return withContext(outer.error(), "unwrap key");
  std::ranges::reverse(outer->mutableBytes());
  if (outer->view().size() < 8 || !equalMacs(outer->view().first(8), blob.iv))
    return fail(Reason::BadInput, "unwrap key: inner and outer IV differ");
  const Result<Secret> inner =
      tripleDesDecrypt(keys.encryptionKey.view(), outer->view().first(8), outer->view().subspan(8));
  if (!inner) return withContext(inner.error(), "unwrap key");
  const ByteView plain = inner->view();
  if (plain.size() < 4) return fail(Reason::BadInput, "unwrap key: cut off");
  const uint32_t described = readU32(plain.first(4));
  if (described > kMaxDescriptiveData || described > plain.size() - 4)
    return fail(Reason::BadInput, fmt::format("unwrap key: {} bytes of descriptive data do not fit", described));
  return UnwrappedKey{Secret(toBytes(plain.subspan(4 + described))), toBytes(plain.subspan(4, described))};
}

Result<Bytes> wrapKey(ByteView encryptionKey, ByteView iv, ByteView privateAcl, ByteView raw) {
  Secret plain;
  plain.mutableBytes().reserve(4 + privateAcl.size() + raw.size());
  appendU32(plain.mutableBytes(), static_cast<uint32_t>(privateAcl.size()));
  append(plain.mutableBytes(), privateAcl);
  append(plain.mutableBytes(), raw);
  const Result<Bytes> inner = tripleDesEncrypt(encryptionKey, iv, plain.view());
  if (!inner) return inner;
  Bytes outer = toBytes(iv);
  append(outer, *inner);
  std::ranges::reverse(outer);
  return tripleDesEncrypt(encryptionKey, kOuterIv, outer);
}

}  // namespace wayleave::keychain
