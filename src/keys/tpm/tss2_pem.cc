#include "keys/tpm/tss2_pem.h"

#include <fmt/format.h>
#include <openssl/asn1t.h>
#include <openssl/pem.h>

#include "base/owned.h"
#include "keys/tpm/wire.h"

#pragma GCC diagnostic ignored "-Wold-style-cast"  // OpenSSL's template macros

namespace wayleave::keys::tpm {
namespace {

struct TpmKeyAsn1 {
  ASN1_OBJECT* type;
  ASN1_BOOLEAN emptyAuth;
  ASN1_TYPE* policy;
  ASN1_TYPE* secret;
  ASN1_TYPE* authPolicy;
  ASN1_TYPE* description;
  ASN1_TYPE* rsaParent;
  ASN1_INTEGER* parent;
  ASN1_OCTET_STRING* publicKey;
  ASN1_OCTET_STRING* privateKey;
};

ASN1_SEQUENCE(TpmKeyAsn1) =
    {
        ASN1_SIMPLE(TpmKeyAsn1, type, ASN1_OBJECT),
        ASN1_EXP_OPT(TpmKeyAsn1, emptyAuth, ASN1_BOOLEAN, 0),
        ASN1_EXP_OPT(TpmKeyAsn1, policy, ASN1_ANY, 1),
        ASN1_EXP_OPT(TpmKeyAsn1, secret, ASN1_ANY, 2),
        ASN1_EXP_OPT(TpmKeyAsn1, authPolicy, ASN1_ANY, 3),
        ASN1_EXP_OPT(TpmKeyAsn1, description, ASN1_ANY, 4),
        ASN1_EXP_OPT(TpmKeyAsn1, rsaParent, ASN1_ANY, 5),
        ASN1_SIMPLE(TpmKeyAsn1, parent, ASN1_INTEGER),
        ASN1_SIMPLE(TpmKeyAsn1, publicKey, ASN1_OCTET_STRING),
        ASN1_SIMPLE(TpmKeyAsn1, privateKey, ASN1_OCTET_STRING),
} static_ASN1_SEQUENCE_END(TpmKeyAsn1)

        void freeTpmKey(TpmKeyAsn1 * key) {
  ASN1_item_free(reinterpret_cast<ASN1_VALUE*>(key), ASN1_ITEM_rptr(TpmKeyAsn1));
}
using TpmKeyPtr = Handle<TpmKeyAsn1, freeTpmKey>;

constexpr const char* kPemName = "TSS2 PRIVATE KEY";
constexpr const char* kLoadableKey = "2.23.133.10.1.3";

ByteView octets(const ASN1_OCTET_STRING* string) {
  return {ASN1_STRING_get0_data(string), static_cast<size_t>(ASN1_STRING_length(string))};
}

// The contents of a TPM2B that fills `bytes` exactly.
Result<Bytes> unwrapped(ByteView bytes, const char* what) {
  if (bytes.size() < 2 || bytes.size() - 2 != static_cast<size_t>(bytes[0] << 8 | bytes[1]))
    return fail(Reason::BadInput, fmt::format("TSS2 key: {} does not have the size it states", what));
  return toBytes(bytes.subspan(2));
}
Bytes wrapped(ByteView contents) {
  Bytes out;
  appendU16(out, static_cast<uint16_t>(contents.size()));
  append(out, contents);
  return out;
}

bool setOctets(ASN1_OCTET_STRING* string, const Bytes& bytes) {
  return ASN1_OCTET_STRING_set(string, bytes.data(), static_cast<int>(bytes.size())) == 1;
}

}  // namespace

Result<std::string> encodeTss2Pem(const KeyBlob& key) {
  const TpmKeyPtr asn1(reinterpret_cast<TpmKeyAsn1*>(ASN1_item_new(ASN1_ITEM_rptr(TpmKeyAsn1))));
  if (!asn1) return fail(Reason::Internal, "out of memory");
  ASN1_OBJECT_free(asn1->type);
  asn1->type = OBJ_txt2obj(kLoadableKey, 1);
  asn1->emptyAuth = 0xff;  // TRUE; tools ask for a pass phrase otherwise
  if (!asn1->type || !ASN1_INTEGER_set_uint64(asn1->parent, key.parent) ||
      !setOctets(asn1->publicKey, wrapped(key.publicArea)) || !setOctets(asn1->privateKey, wrapped(key.privateBlob)))
    return fail(Reason::Internal, "out of memory");
  uint8_t* der = nullptr;
  const int length = ASN1_item_i2d(reinterpret_cast<ASN1_VALUE*>(asn1.get()), &der, ASN1_ITEM_rptr(TpmKeyAsn1));
  if (length <= 0) return fail(Reason::Internal, "encode a TSS2 key");
  const Handle<BIO, BIO_free_all> bio(BIO_new(BIO_s_mem()));
  const bool written = bio && PEM_write_bio(bio.get(), kPemName, "", der, length) > 0;
  OPENSSL_free(der);
  if (!written) return fail(Reason::Internal, "write a TSS2 key");
  const char* text = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &text);
  return std::string(text, static_cast<size_t>(size));
}

Result<KeyBlob> decodeTss2Pem(std::string_view pem) {
  if (pem.size() > kMaxTss2Pem) return fail(Reason::BadInput, "TSS2 key: larger than 16 KiB");
  const Handle<BIO, BIO_free_all> bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  char* name = nullptr;
  char* header = nullptr;
  uint8_t* raw = nullptr;
  long rawLength = 0;
  if (!bio || PEM_read_bio(bio.get(), &name, &header, &raw, &rawLength) != 1)
    return fail(Reason::BadInput, "TSS2 key: not PEM");
  const std::string kind = name;
  const Bytes der(raw, raw + rawLength);
  OPENSSL_free(name);
  OPENSSL_free(header);
  OPENSSL_free(raw);
  if (kind != kPemName) return fail(Reason::BadInput, "TSS2 key: the PEM block is not a TSS2 PRIVATE KEY");

  const uint8_t* cursor = der.data();
  const TpmKeyPtr asn1(reinterpret_cast<TpmKeyAsn1*>(
      ASN1_item_d2i(nullptr, &cursor, static_cast<long>(der.size()), ASN1_ITEM_rptr(TpmKeyAsn1))));
  if (!asn1 || cursor != der.data() + der.size())
    return fail(Reason::BadInput, "TSS2 key: not a TPMKey, or bytes left over");
  char oid[64];
  if (OBJ_obj2txt(oid, sizeof oid, asn1->type, 1) <= 0 || std::string_view(oid) != kLoadableKey)
    return fail(Reason::Unsupported, fmt::format("TSS2 key: type {} is not a loadable key", oid));
  if (asn1->policy || asn1->authPolicy || asn1->secret)
    return fail(Reason::Unsupported, "TSS2 key: it has a policy or an import secret");
  if (asn1->emptyAuth != 0xff) return fail(Reason::Unsupported, "TSS2 key: it is protected by a password");

  KeyBlob key;
  uint64_t parent = 0;
  if (ASN1_INTEGER_get_uint64(&parent, asn1->parent) != 1 || !(parent == kOwnerHierarchy || (parent >> 24) == 0x81))
    return fail(Reason::Unsupported, "TSS2 key: its parent is neither a persistent key nor the owner hierarchy");
  key.parent = static_cast<uint32_t>(parent);
  auto publicArea = unwrapped(octets(asn1->publicKey), "the public half");
  if (!publicArea) return propagate(publicArea.error());
  auto privateBlob = unwrapped(octets(asn1->privateKey), "the private half");
  if (!privateBlob) return propagate(privateBlob.error());
  const auto area = parsePublicArea(*publicArea);
  if (!area) return withContext(area.error(), "TSS2 key");
  if (publicAreaBytes(*area) != *publicArea) return fail(Reason::BadInput, "TSS2 key: TPMT_PUBLIC is not canonical");
  if (privateBlob->empty() || privateBlob->size() > sizeof(TPM2B_PRIVATE::buffer))
    return fail(Reason::BadInput, "TSS2 key: the private half is empty or too long");
  key.publicArea = std::move(*publicArea);
  key.privateBlob = std::move(*privateBlob);
  return key;
}

}  // namespace wayleave::keys::tpm
