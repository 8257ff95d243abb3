#pragma once

// TPM structures as bytes and as OpenSSL sees them. Pure functions, no TPM needed.
//
// Conventions of this folder: "public area" is a TPMT_PUBLIC without size prefix, "private blob" the contents of a
// TPM2B_PRIVATE, "attest" a TPMS_ATTEST, "signature" a TPMT_SIGNATURE. The Name of a key is its nameAlg (u16) followed
// by that hash over its public area (TPM 2.0 Library, part 1, section 16).

#include <tss2/tss2_mu.h>
#include <tss2/tss2_tpm2_types.h>

#include "base/bytes.h"
#include "base/owned.h"
#include "base/result.h"
#include "keys/private_key.h"

namespace wayleave::keys::tpm {

// Bytes of one structure: `marshal<Tss2_MU_TPMT_PUBLIC_Marshal>(area)`. Empty if it does not fit, which no valid
// structure does.
template <auto Marshal, typename T>
Bytes marshal(const T& value) {
  Bytes out(sizeof(T) + 64);
  size_t length = 0;
  if (Marshal(&value, out.data(), out.size(), &length) != TSS2_RC_SUCCESS) length = 0;
  out.resize(length);
  return out;
}

// One structure from exactly these bytes. Errors: BadInput ("what: …"): malformed, or bytes left over.
template <auto Unmarshal, typename T>
Result<T> unmarshal(ByteView bytes, std::string_view what) {
  T value{};
  size_t offset = 0;
  if (bytes.empty() || Unmarshal(bytes.data(), bytes.size(), &offset, &value) != TSS2_RC_SUCCESS)
    return fail(Reason::BadInput, std::string(what) + " is malformed");
  if (offset != bytes.size())
    return fail(Reason::BadInput,
                std::string(what) + " has " + std::to_string(bytes.size() - offset) + " bytes left over");
  return value;
}

inline Result<TPMT_PUBLIC> parsePublicArea(ByteView bytes) {
  return unmarshal<Tss2_MU_TPMT_PUBLIC_Unmarshal, TPMT_PUBLIC>(bytes, "TPMT_PUBLIC");
}
inline Bytes publicAreaBytes(const TPMT_PUBLIC& area) { return marshal<Tss2_MU_TPMT_PUBLIC_Marshal>(area); }

// The bytes of a TPM2B whose payload is in `buffer` (or another member).
template <typename T>
ByteView viewOf(const T& sized) {
  return {sized.buffer, sized.size};
}

// Copies into a TPM2B. Errors: BadInput when it does not fit.
template <typename T>
Result<T> sizedBuffer(ByteView bytes, std::string_view what) {
  T out{};
  if (bytes.size() > sizeof out.buffer) return fail(Reason::BadInput, std::string(what) + " is too long");
  out.size = static_cast<UINT16>(bytes.size());
  std::copy(bytes.begin(), bytes.end(), out.buffer);
  return out;
}

// Errors: Unsupported (a name hash other than SHA-256, SHA-384, SHA-512), BadInput.
Result<Bytes> nameOf(ByteView publicArea);

// "SHA256" for TPM2_ALG_SHA256 …; nullptr for hashes we do not use.
const char* opensslDigest(TPMI_ALG_HASH hash);

// SubjectPublicKeyInfo of an ECC (P-256, P-384, P-521) or RSA public area. Errors: Unsupported, Internal.
Result<Bytes> spkiOf(const TPMT_PUBLIC& area);

// What X.509, TLS and CMS expect: DER for ECDSA, modulus-sized bytes for RSA. TPMs drop leading zero bytes of R, S and
// of RSA signatures; they are put back. Errors: Unsupported (another algorithm), Internal.
Result<Bytes> portableSignature(const TPMT_SIGNATURE& signature, size_t rsaModulusBytes);

// Templates: empty authorisation and noDA everywhere, so that a foreign program's wrong
// guesses cannot lock us out.
TPM2B_PUBLIC storageRootTemplate();     // P-256, AES-128-CFB: the TCG's, unique empty; never change it: it *is* the SRK
// Restricted: P-256 with ECDSA/SHA-256, or RSA-2048 with RSASSA/SHA-256.
TPM2B_PUBLIC attestationKeyTemplate(bool rsa);
// Scheme NULL: TLS 1.2 may ask P-384 for SHA-256. Errors: Unsupported (type or size).
Result<TPM2B_PUBLIC> deviceKeyTemplate(KeyType type, int bits);

enum class EkKind : uint8_t { Rsa2048, EcP256, EcP384 };
// The default templates L-1, L-2 and H-3 of the TCG EK Credential Profile 2.4.
TPM2B_PUBLIC endorsementTemplate(EkKind kind);

}  // namespace wayleave::keys::tpm
