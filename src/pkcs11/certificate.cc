#include "pkcs11/certificate.h"

#include <fmt/format.h>
#include <openssl/core_names.h>
#include <openssl/x509v3.h>

#include "pkcs11/crypto.h"

namespace wayleave::pkcs11 {
namespace {

using X509Ptr = Handle<X509, X509_free>;
using BignumPtr = Handle<BIGNUM, BN_free>;
using OctetsPtr = Handle<ASN1_OCTET_STRING, ASN1_OCTET_STRING_free>;

// The certificate comes from identityd, which bounds it, too; this is against our own mistakes.
constexpr size_t kMostCertificateBytes = 256 * 1024;

template <typename T, typename Encode>
Bytes encoded(const T* object, Encode encode) {
  uint8_t* out = nullptr;
  const int length = encode(object, &out);
  if (length <= 0) return {};
  Bytes bytes(out, out + length);
  OPENSSL_free(out);
  return bytes;
}

Bytes contents(const ASN1_STRING* text) {
  if (text == nullptr) return {};
  return {ASN1_STRING_get0_data(text), ASN1_STRING_get0_data(text) + ASN1_STRING_length(text)};
}

std::string commonNameOf(const X509_NAME* name) {
  const int index = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
  if (index < 0) return {};
  uint8_t* utf8 = nullptr;
  const int length = ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, index)));
  if (length < 0) return {};
  std::string out(reinterpret_cast<char*>(utf8), static_cast<size_t>(length));
  OPENSSL_free(utf8);
  return out;
}

// CK_DATE. Empty when the time is no time.
std::string dateOf(const ASN1_TIME* time) {
  tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return {};
  return fmt::format("{:04}{:02}{:02}", parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday);
}

Bytes numberOf(const EVP_PKEY* key, const char* name) {
  BIGNUM* raw = nullptr;
  if (EVP_PKEY_get_bn_param(key, name, &raw) != 1) return {};
  const BignumPtr number(raw);
  Bytes out(static_cast<size_t>(BN_num_bytes(number.get())));
  BN_bn2bin(number.get(), out.data());
  return out;
}

void readKey(X509* certificate, Certificate& out) {
  const EVP_PKEY* key = X509_get0_pubkey(certificate);
  if (key == nullptr) return;
  if (EVP_PKEY_is_a(key, "RSA")) {
    out.modulus = numberOf(key, OSSL_PKEY_PARAM_RSA_N);
    out.publicExponent = numberOf(key, OSSL_PKEY_PARAM_RSA_E);
    out.bits = EVP_PKEY_get_bits(key);
    if (!out.modulus.empty() && !out.publicExponent.empty()) out.family = KeyFamily::Rsa;
    return;
  }
  if (!EVP_PKEY_is_a(key, "EC")) return;
  const X509_ALGOR* algorithm = nullptr;
  X509_PUBKEY_get0_param(nullptr, nullptr, nullptr, const_cast<X509_ALGOR**>(&algorithm), X509_get_X509_PUBKEY(certificate));
  int type = 0;
  const void* parameters = nullptr;
  X509_ALGOR_get0(nullptr, &type, &parameters, algorithm);
  if (type != V_ASN1_OBJECT) return;  // explicit curve parameters: nobody of ours makes them
  out.ecParams = encoded(static_cast<const ASN1_OBJECT*>(parameters), i2d_ASN1_OBJECT);
  const OctetsPtr point(ASN1_OCTET_STRING_new());
  const Bytes bits = contents(X509_get0_pubkey_bitstr(certificate));
  if (!point || ASN1_OCTET_STRING_set(point.get(), bits.data(), static_cast<int>(bits.size())) != 1) return;
  out.ecPoint = encoded<ASN1_OCTET_STRING>(point.get(), i2d_ASN1_OCTET_STRING);
  out.bits = EVP_PKEY_get_bits(key);
  if (!out.ecParams.empty() && !out.ecPoint.empty()) out.family = KeyFamily::Ec;
}

}  // namespace

Answer<Certificate> Certificate::parse(ByteView der) {
  if (der.empty() || der.size() > kMostCertificateBytes) return failWith(CKR_DATA_INVALID);
  const QuietErrors quiet;
  X509* raw = X509_new_ex(cryptoContext(), nullptr);
  const uint8_t* cursor = der.data();
  // On failure d2i frees what it was given.
  if (raw == nullptr || d2i_X509(&raw, &cursor, static_cast<long>(der.size())) == nullptr) return failWith(CKR_DATA_INVALID);
  const X509Ptr certificate(raw);
  if (cursor != der.data() + der.size()) return failWith(CKR_DATA_INVALID);

  Certificate out;
  out.der = toBytes(der);
  out.subject = encoded(X509_get_subject_name(certificate.get()), i2d_X509_NAME);
  out.issuer = encoded(X509_get_issuer_name(certificate.get()), i2d_X509_NAME);
  out.serial = encoded(X509_get0_serialNumber(certificate.get()), i2d_ASN1_INTEGER);
  out.commonName = commonNameOf(X509_get_subject_name(certificate.get()));
  out.startDate = dateOf(X509_get0_notBefore(certificate.get()));
  out.endDate = dateOf(X509_get0_notAfter(certificate.get()));
  out.isAuthority = X509_check_ca(certificate.get()) == 1;
  out.issuerKeyId = contents(X509_get0_authority_key_id(certificate.get()));
  out.spki = encoded(X509_get_X509_PUBKEY(certificate.get()), i2d_X509_PUBKEY);
  readKey(certificate.get(), out);
  Answer<Bytes> sha1 = hashOf(HashKind::Sha1, der);
  Answer<Bytes> keyHash = hashOf(HashKind::Sha1, contents(X509_get0_pubkey_bitstr(certificate.get())));
  if (!sha1 || !keyHash || out.spki.empty()) return failWith(CKR_DATA_INVALID);
  out.sha1 = std::move(*sha1);
  out.keyHash = std::move(*keyHash);
  return out;
}

}  // namespace wayleave::pkcs11
