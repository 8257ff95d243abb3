#include "enrolment/scep/message.h"

#include <fmt/format.h>
#include <openssl/cms.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "keychain/der.h"
#include "keys/openssl.h"

namespace wayleave::enrolment::scep {
namespace {

using keychain::appendDer;
using keychain::DerReader;
using keys::opensslError;
namespace der = keychain::der;

constexpr uint8_t kContextZero = 0xa0;
constexpr const char* kContentType = "1.2.840.113549.1.9.3";
constexpr const char* kMessageDigest = "1.2.840.113549.1.9.4";
constexpr const char* kData = "1.2.840.113549.1.7.1";
constexpr const char* kSignedData = "1.2.840.113549.1.7.2";
constexpr const char* kSha256 = "2.16.840.1.101.3.4.2.1";
constexpr const char* kRsa = "1.2.840.113549.1.1.1";
constexpr const char* kSha256WithRsa = "1.2.840.113549.1.1.11";
constexpr size_t kMostAttributeBytes = 1024;
constexpr size_t kMostTransactionBytes = 128;

Bytes element(uint8_t tag, ByteView value) {
  Bytes out;
  appendDer(out, tag, value);
  return out;
}
Bytes join(std::initializer_list<Bytes> parts) {
  Bytes out;
  for (const Bytes& part : parts) append(out, part);
  return out;
}
Bytes sequence(std::initializer_list<Bytes> parts) { return element(der::kSequence, join(parts)); }

Bytes oid(const char* dotted) {
  const Handle<ASN1_OBJECT, ASN1_OBJECT_free> object(OBJ_txt2obj(dotted, 1));
  uint8_t* encoded = nullptr;
  const int length = i2d_ASN1_OBJECT(object.get(), &encoded);
  Bytes out(encoded, encoded + std::max(length, 0));
  OPENSSL_free(encoded);
  return out;
}

Bytes algorithm(const char* dotted) { return sequence({oid(dotted), Bytes{0x05, 0x00}}); }
Bytes attribute(const char* type, Bytes value) { return sequence({oid(type), element(der::kSet, value)}); }
Bytes integer(uint8_t value) { return {der::kInteger, 1, value}; }

template <typename T>
Bytes encoded(int (*encode)(T*, uint8_t**), const std::remove_const_t<T>* value) {
  uint8_t* bytes = nullptr;
  const int length = encode(const_cast<std::remove_const_t<T>*>(value), &bytes);
  Bytes out(bytes, bytes + std::max(length, 0));
  OPENSSL_free(bytes);
  return out;
}

keys::X509Ptr readCertificate(ByteView certificate) {
  const uint8_t* at = certificate.data();
  return keys::X509Ptr(d2i_X509(nullptr, &at, static_cast<long>(certificate.size())));
}

}  // namespace

Bytes signedAttributes(const Attributes& attributes, ByteView content) {
  std::vector<Bytes> set{
      attribute(kContentType, oid(kData)),
      attribute(kMessageDigest, element(der::kOctetString, sha256(content))),
      attribute(kMessageType, element(der::kPrintableString, asBytes(std::to_string(static_cast<int>(attributes.type))))),
      attribute(kTransactionId, element(der::kPrintableString, asBytes(attributes.transactionId))),
      attribute(kSenderNonce, element(der::kOctetString, attributes.senderNonce)),
  };
  std::ranges::sort(set);  // DER orders a SET OF by the encodings
  Bytes all;
  for (const Bytes& one : set) append(all, one);
  return element(der::kSet, all);
}

Status checkSignedAttributes(ByteView bytes) {
  const auto bad = [](std::string why) {
    return fail(Reason::BadInput, "these are not the signed attributes of a SCEP request: " + std::move(why));
  };
  if (bytes.size() > kMostAttributeBytes) return bad(fmt::format("{} bytes", bytes.size()));
  DerReader outer(bytes, 0, true);
  const auto set = outer.next(der::kSet, "attributes");
  if (!set || !outer.atEnd()) return bad("not one SET");
  std::set<std::string> seen;
  for (DerReader list = outer.inside(*set); !list.atEnd();) {
    const auto one = list.next(der::kSequence, "attribute");
    if (!one) return bad(one.error().message);
    DerReader parts = list.inside(*one);
    const auto type = parts.next(der::kObjectIdentifier, "attribute type");
    const auto values = parts.next(der::kSet, "attribute values");
    if (!type || !values || !parts.atEnd()) return bad("an attribute that is none");
    DerReader inside = parts.inside(*values);
    const auto value = inside.next();
    if (!value || !inside.atEnd()) return bad("an attribute without exactly one value");
    const Bytes typeDer = element(der::kObjectIdentifier, type->value);
    const std::string_view text = asText(value->value);
    const auto is = [&](const char* name) { return typeDer == oid(name); };
    bool good = false;
    if (is(kContentType)) {
      good = value->tag == der::kObjectIdentifier && element(der::kObjectIdentifier, value->value) == oid(kData);
    } else if (is(kMessageDigest)) {
      good = value->tag == der::kOctetString && value->value.size() == 32;
    } else if (is(kMessageType)) {
      good = value->tag == der::kPrintableString && (text == "17" || text == "19" || text == "20");
    } else if (is(kTransactionId)) {
      good = value->tag == der::kPrintableString && !text.empty() && text.size() <= kMostTransactionBytes &&
             std::ranges::all_of(text, [](char c) { return c >= 0x20 && c < 0x7f; });
    } else if (is(kSenderNonce)) {
      good = value->tag == der::kOctetString && value->value.size() == kNonceBytes;
    }
    if (!good) return bad("an attribute with another type or value");
    if (!seen.insert(std::string(asText(typeDer))).second) return bad("an attribute stands twice");
  }
  if (seen.size() != 5) return bad(fmt::format("{} attributes, not five", seen.size()));
  return {};
}

Result<Bytes> assembleMessage(ByteView content, ByteView signer, ByteView attributes, ByteView signature) {
  const keys::X509Ptr certificate = readCertificate(signer);
  if (!certificate || attributes.empty()) return std::unexpected(opensslError(Reason::BadInput, "the signer's certificate"));
  const Bytes issuer = encoded(i2d_X509_NAME, X509_get_issuer_name(certificate.get()));
  const Bytes serial = encoded(i2d_ASN1_INTEGER, X509_get_serialNumber(certificate.get()));
  Bytes implicit = toBytes(attributes);
  implicit[0] = kContextZero;  // [0] IMPLICIT in place of SET OF
  const Bytes signerInfo = sequence({integer(1), sequence({issuer, serial}), algorithm(kSha256), implicit, algorithm(kRsa),
                                     element(der::kOctetString, signature)});
  const Bytes signedData = sequence(
      {integer(1), element(der::kSet, algorithm(kSha256)),
       sequence({oid(kData), element(kContextZero, element(der::kOctetString, content))}), element(kContextZero, signer), element(der::kSet, signerInfo)});
  return sequence({oid(kSignedData), element(kContextZero, signedData)});
}

Result<Bytes> sealFor(X509* recipient, ByteView payload, bool aes) {
  EVP_PKEY* key = X509_get0_pubkey(recipient);
  if (key == nullptr || EVP_PKEY_is_a(key, "RSA") != 1)
    return fail(Reason::Unsupported, "the CA's certificate has no RSA key, and SCEP encrypts to RSA keys alone",
                "use ACME, or give the CA an RSA key for SCEP");
  STACK_OF(X509)* list = sk_X509_new_null();
  const Handle<BIO, BIO_free_all> in(BIO_new_mem_buf(payload.data(), static_cast<int>(payload.size())));
  Handle<CMS_ContentInfo, CMS_ContentInfo_free> cms;
  if (list != nullptr && in && sk_X509_push(list, recipient) > 0)
    cms.reset(CMS_encrypt(list, in.get(), aes ? EVP_aes_128_cbc() : EVP_des_ede3_cbc(), CMS_BINARY));
  sk_X509_free(list);
  if (!cms) return std::unexpected(opensslError(Reason::Internal, "encrypt the request for the CA"));
  return encoded(i2d_CMS_ContentInfo, cms.get());
}

Bytes issuerAndSubject(ByteView issuer, ByteView subject) { return sequence({toBytes(issuer), toBytes(subject)}); }

Result<RequesterCertificate> RequesterCertificate::make(ByteView subjectName, ByteView spki, Wall now) {
  const uint8_t* at = subjectName.data();
  const Handle<X509_NAME, X509_NAME_free> name(d2i_X509_NAME(nullptr, &at, static_cast<long>(subjectName.size())));
  if (!name || at != subjectName.data() + subjectName.size()) return std::unexpected(opensslError(Reason::BadInput, "the subject is not a DER name"));
  at = spki.data();
  const keys::EvpPkeyPtr key(d2i_PUBKEY(nullptr, &at, static_cast<long>(spki.size())));
  if (!key || EVP_PKEY_is_a(key.get(), "RSA") != 1) return std::unexpected(opensslError(Reason::BadInput, "SCEP needs an RSA key"));

  const keys::X509Ptr certificate(X509_new());
  if (!certificate) return fail(Reason::Internal, "out of memory");
  X509* x509 = certificate.get();
  Bytes serial = randomBytes(16);
  serial[0] = static_cast<uint8_t>((serial[0] & 0x7f) | 0x40);  // positive, and of full length
  const Handle<BIGNUM, BN_free> number(BN_bin2bn(serial.data(), static_cast<int>(serial.size()), nullptr));
  const std::time_t from = std::chrono::system_clock::to_time_t(now - std::chrono::minutes{5});
  const std::time_t until = std::chrono::system_clock::to_time_t(now + std::chrono::days{30});
  const Handle<X509_EXTENSION, X509_EXTENSION_free> usage(
      X509V3_EXT_conf_nid(nullptr, nullptr, NID_key_usage, "critical,digitalSignature,keyEncipherment"));
  const bool made = number && usage && X509_set_version(x509, X509_VERSION_3) == 1 && BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(x509)) != nullptr &&
                    X509_set_subject_name(x509, name.get()) == 1 && X509_set_issuer_name(x509, name.get()) == 1 && X509_set_pubkey(x509, key.get()) == 1 &&
                    ASN1_TIME_set(X509_getm_notBefore(x509), from) != nullptr && ASN1_TIME_set(X509_getm_notAfter(x509), until) != nullptr &&
                    X509_add_ext(x509, usage.get(), -1) == 1 &&
                    X509_ALGOR_set0(const_cast<X509_ALGOR*>(X509_get0_tbs_sigalg(x509)), OBJ_nid2obj(NID_sha256WithRSAEncryption), V_ASN1_NULL, nullptr) == 1;
  if (!made) return std::unexpected(opensslError(Reason::Internal, "make the requester's certificate"));
  Bytes info = encoded(i2d_re_X509_tbs, x509);
  if (info.empty()) return std::unexpected(opensslError(Reason::Internal, "encode the requester's certificate"));
  return RequesterCertificate(std::move(info));
}

Bytes RequesterCertificate::complete(ByteView signature) const {
  Bytes bits{0};  // no unused bits
  append(bits, signature);
  return sequence({info_, algorithm(kSha256WithRsa), element(der::kBitString, bits)});
}

}  // namespace wayleave::enrolment::scep
