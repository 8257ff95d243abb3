#pragma once

// How a file keychain protects its keys (apple-oss-distributions/Security: OSX/libsecurityd/lib/ssblob.h,
// securityd/src/dbcrypto.cpp, OSX/libsecurity_apple_csp/lib/wrapKeyCms.cpp). Old cryptography, kept only to read files
// that exist: PBKDF2-HMAC-SHA1 with 1000 iterations, 3DES-CBC, and a MAC that comes in two variants.

#include <cstdint>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::keychain {

inline constexpr uint32_t kBlobMagic = 0xfade0711;
inline constexpr uint32_t kBlobVersionClassic = 0x100;     // System.keychain, and whatever is not in a user's folder
inline constexpr uint32_t kBlobVersionPartitions = 0x200;  // login keychains: partition lists are enforced
inline constexpr size_t kDesKeyBytes = 24;

// HMAC-SHA1 over chunk1 ‖ chunk2; in version 0x100 an older construction that closes and reopens the inner hash between
// the chunks (HmacSha1Legacy.c), so that their border matters.
Bytes blobMac(uint32_t blobVersion, ByteView key, ByteView chunk1, ByteView chunk2);

// 3DES-EDE-CBC with PKCS#7 padding. Errors: WrongPassword (padding: the usual sign of a wrong key), BadInput (sizes).
Result<Secret> tripleDesDecrypt(ByteView key, ByteView iv, ByteView ciphertext);
Result<Bytes> tripleDesEncrypt(ByteView key, ByteView iv, ByteView plaintext);

// The one record of relation DBBlob.
struct DatabaseBlob {
  uint32_t version = kBlobVersionClassic;
  Bytes randomSignature;  // 16: what a SystemKey file must repeat
  Bytes salt;             // 20
  Bytes iv;               // 8
  Bytes signature;        // 20
  Bytes signedHead;       // bytes [0,72)
  Bytes signedTail;       // bytes [92,totalLength): public ACL and crypto blob
  size_t publicAclBytes = 0;

  // Errors: BadInput with the offset in the blob.
  static Result<DatabaseBlob> parse(ByteView bytes);
};

struct DatabaseKeys {
  Secret encryptionKey;  // 24
  Secret signingKey;     // 20
};

Result<Secret> masterKeyFromPassword(std::string_view password, ByteView salt);
// A copy of /var/db/SystemKey, 48 bytes. Errors: BadInput; KeyMismatch when it belongs to another keychain.
Result<Secret> masterKeyFromSystemKey(ByteView file, const DatabaseBlob& database);
// Errors: WrongPassword (padding or MAC).
Result<DatabaseKeys> unlockDatabase(const DatabaseBlob& database, const Secret& masterKey);

// The data of a key record.
struct KeyBlob {
  uint32_t version = kBlobVersionClassic;
  Bytes iv;
  uint32_t algorithm = 0, keyClass = 0, bits = 0;
  uint32_t attributes = 0;  // CSSM_KEYATTR flags
  bool cleartext = false;   // a public key, neither encrypted nor signed
  Bytes signature;
  Bytes signedHead;  // bytes [0,116)
  Bytes signedTail;  // bytes [136,totalLength)
  size_t publicAclBytes = 0;

  bool extractable() const { return (attributes & 0x20) != 0; }  // CSSM_KEYATTR_EXTRACTABLE
  bool sensitive() const { return (attributes & 0x08) != 0; }    // CSSM_KEYATTR_SENSITIVE
  ByteView publicAcl() const { return ByteView(signedTail).first(publicAclBytes); }
  ByteView crypto() const { return ByteView(signedTail).subspan(publicAclBytes); }
  static Result<KeyBlob> parse(ByteView bytes);
};

struct UnwrappedKey {
  Secret raw;        // PKCS#8 for private keys
  Bytes privateAcl;  // the descriptive data
};
// Errors: SignatureInvalid (MAC), WrongPassword (padding), BadInput (inside), Unsupported (a clear public key).
Result<UnwrappedKey> unwrapKey(const KeyBlob& blob, const DatabaseKeys& keys);

// The inverse, for fixtures: the crypto part of a key blob.
Result<Bytes> wrapKey(ByteView encryptionKey, ByteView iv, ByteView privateAcl, ByteView raw);

}  // namespace wayleave::keychain
