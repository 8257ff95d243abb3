#include "keys/envelope.h"

#include <fmt/format.h>
#include <openssl/cms.h>
#include <openssl/err.h>

#include <algorithm>
#include <array>

#include "keys/legacy_library.h"
#include "keys/openssl.h"

namespace wayleave::keys {
namespace {

using CmsPtr = Handle<CMS_ContentInfo, CMS_ContentInfo_free>;
using BioPtr = Handle<BIO, BIO_free_all>;

struct Cipher {
  int nid;
  std::string_view name;
  bool legacy;
};
// What SCEP servers encrypt with. RC2 and everything else has no reader here.
constexpr std::array<Cipher, 5> kCiphers{{{NID_aes_128_cbc, "AES-128-CBC", false},
                                          {NID_aes_192_cbc, "AES-192-CBC", false},
                                          {NID_aes_256_cbc, "AES-256-CBC", false},
                                          {NID_des_ede3_cbc, "DES-EDE3-CBC", false},
                                          {NID_des_cbc, "DES-CBC", true}}};

Result<CmsPtr> parse(ByteView der, OSSL_LIB_CTX* library) {
  CMS_ContentInfo* empty = CMS_ContentInfo_new_ex(library, nullptr);
  const uint8_t* at = der.data();
  CmsPtr cms(d2i_CMS_ContentInfo(&empty, &at, static_cast<long>(der.size())));
  if (!cms) {
    CMS_ContentInfo_free(empty);
    return std::unexpected(opensslError(Reason::BadInput, "not a CMS structure"));
  }
  if (at != der.data() + der.size()) return fail(Reason::BadInput, "bytes follow the CMS structure");
  if (OBJ_obj2nid(CMS_get0_type(cms.get())) != NID_pkcs7_enveloped)
    return fail(Reason::BadInput, "a CMS structure, but not an EnvelopedData");
  return cms;
}

// OpenSSL tells the cipher of an EnvelopedData only while it decrypts, so the identifier is read from the structure:
//   ContentInfo { OID, [0] EnvelopedData { version, [0] originatorInfo?, SET recipients, EncryptedContentInfo { OID, AlgorithmIdentifier …
// With indefinite lengths (BER) it is not found here: such a message is encoded again as DER first.
const Cipher* cipherOf(CMS_ContentInfo* cms, std::string& name) {
  uint8_t* encoded = nullptr;
  const int length = i2d_CMS_ContentInfo(cms, &encoded);
  const Handle<uint8_t, [](uint8_t* bytes) { OPENSSL_free(bytes); }> owned(encoded);
  if (length <= 0) return nullptr;
  const uint8_t* at = encoded;
  const uint8_t* end = encoded + length;
  struct Header {
    int tag = -1;
    const uint8_t* next = nullptr;
  };
  // Enters the element at `at` when `into`, or steps over it.
  const auto step = [&](bool into) -> Header {
    long size = 0;
    int tag = -1, kind = 0;
    const uint8_t* body = at;
    if (at >= end || (ASN1_get_object(&body, &size, &tag, &kind, end - at) & 0x81) != 0) return {};
    const uint8_t* after = body + size;
    at = into ? body : after;
    return {tag, after};
  };
  const bool reached = step(true).tag == V_ASN1_SEQUENCE && step(false).tag == V_ASN1_OBJECT && step(true).tag == 0 &&
                       step(true).tag == V_ASN1_SEQUENCE && step(false).tag == V_ASN1_INTEGER;
  if (!reached) return nullptr;
  int tag = step(false).tag;  // originatorInfo, or the recipients
  if (tag == 0) tag = step(false).tag;
  if (tag != V_ASN1_SET || step(true).tag != V_ASN1_SEQUENCE || step(false).tag != V_ASN1_OBJECT || step(true).tag != V_ASN1_SEQUENCE)
    return nullptr;
  const Handle<ASN1_OBJECT, ASN1_OBJECT_free> object(d2i_ASN1_OBJECT(nullptr, &at, end - at));
  if (!object) return nullptr;
  std::array<char, 128> text{};
  OBJ_obj2txt(text.data(), text.size(), object.get(), 0);
  name = text.data();
  const auto* found = std::ranges::find(kCiphers, OBJ_obj2nid(object.get()), &Cipher::nid);
  return found == kCiphers.end() ? nullptr : found;
}

Result<Bytes> decrypt(CMS_ContentInfo* cms, EVP_PKEY* key) {
  const BioPtr out(BIO_new(BIO_s_mem()));
  if (!out) return fail(Reason::Internal, "out of memory");
  // Without a certificate OpenSSL tries the key on every recipient and never says which step went wrong.
  const int opened = CMS_decrypt(cms, key, nullptr, nullptr, out.get(), CMS_BINARY);
  ERR_clear_error();
  char* data = nullptr;
  const long size = BIO_get_mem_data(out.get(), &data);
  if (opened != 1 || size <= 0)
    return fail(Reason::KeyMismatch, "the encrypted message does not open with this key, or is damaged");
  return Bytes(reinterpret_cast<uint8_t*>(data), reinterpret_cast<uint8_t*>(data) + size);
}

}  // namespace

Result<OpenedEnvelope> openEnvelope(EVP_PKEY* key, ByteView der) {
  if (der.empty() || der.size() > kMostEnvelopeBytes)
    return fail(Reason::BadInput, fmt::format("an encrypted message of {} bytes", der.size()));
  Result<CmsPtr> cms = parse(der, nullptr);
  if (!cms) return propagate(cms.error());
  STACK_OF(CMS_RecipientInfo)* recipients = CMS_get0_RecipientInfos(cms->get());
  if (sk_CMS_RecipientInfo_num(recipients) != 1)
    return fail(Reason::Unsupported, fmt::format("the message is encrypted to {} recipients, not to one", sk_CMS_RecipientInfo_num(recipients)));
  if (CMS_RecipientInfo_type(sk_CMS_RecipientInfo_value(recipients, 0)) != CMS_RECIPINFO_TRANS)
    return fail(Reason::Unsupported, "the message is not encrypted to an RSA key");
  std::string name = "an unknown cipher";
  const Cipher* cipher = cipherOf(cms->get(), name);
  ERR_clear_error();
  if (cipher == nullptr)
    return fail(Reason::Unsupported, "the message is encrypted with " + name, "let the server encrypt with AES or 3DES");
  const std::string cipherName(cipher->name);
  if (!cipher->legacy) {
    Result<Bytes> content = decrypt(cms->get(), key);
    if (!content) return propagate(content.error());
    return OpenedEnvelope{std::move(*content), cipherName, false};
  }
  const Result<LegacyLibrary> library = LegacyLibrary::load();
  if (!library) return propagate(library.error());
  const Handle<EVP_CIPHER, EVP_CIPHER_free> offered(EVP_CIPHER_fetch(library->context(), cipherName.c_str(), nullptr));
  ERR_clear_error();
  if (!offered)
    return fail(Reason::Unsupported, "the message is encrypted with " + cipherName + ", which this OpenSSL does not offer",
                "let the server encrypt with AES, or install OpenSSL's legacy provider");
  cms = parse(der, library->context());
  if (!cms) return propagate(cms.error());
  Result<Bytes> content = decrypt(cms->get(), key);
  if (!content) return propagate(content.error());
  return OpenedEnvelope{std::move(*content), cipherName, true};
}

}  // namespace wayleave::keys
