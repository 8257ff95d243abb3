#pragma once

// TPM keys on disk: "-----BEGIN TSS2 PRIVATE KEY-----".
//
// The form shared by tpm2-openssl, tpm2-tss-engine, OpenConnect and the kernel's trusted keys
// (draft-bottomley-tpm2-keys, "TPMKey" with type 2.23.133.10.1.3, loadable key):
//
//   TPMKey ::= SEQUENCE { type OBJECT IDENTIFIER, emptyAuth [0] EXPLICIT BOOLEAN OPTIONAL, policy [1] …, secret [2] …,
//     authPolicy [3] …, description [4] …, rsaParent [5] …, parent INTEGER, pubkey OCTET STRING (TPM2B_PUBLIC),
//     privkey OCTET STRING (TPM2B_PRIVATE) }
//
// The private half is encrypted by the TPM's storage key: the file is no secret, but only that TPM can use it.
// Not supported, and said so: keys with a policy, with an import secret, with a password.

#include <string>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::keys::tpm {

// Handles a key can have as parent.
constexpr uint32_t kOwnerHierarchy = 0x40000001;  // the primary made from storageRootTemplate()
constexpr uint32_t kPersistentSrk = 0x81000001;

// A key as it is stored: two halves made by one TPM, and what they hang under.
struct KeyBlob {
  uint32_t parent = kPersistentSrk;
  Bytes publicArea;   // TPMT_PUBLIC
  Bytes privateBlob;  // contents of the TPM2B_PRIVATE
  bool operator==(const KeyBlob&) const = default;
};

// Errors: Internal only.
Result<std::string> encodeTss2Pem(const KeyBlob& key);
// Bounded by kMaxTss2Pem; the public area is parsed and must be canonical. Errors: BadInput, Unsupported.
Result<KeyBlob> decodeTss2Pem(std::string_view pem);
constexpr size_t kMaxTss2Pem = 16 * 1024;  // an RSA-2048 key takes about 900 bytes

}  // namespace wayleave::keys::tpm
