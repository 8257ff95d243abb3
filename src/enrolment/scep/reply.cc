#include "enrolment/scep/reply.h"

#include <fmt/format.h>
#include <openssl/cms.h>
#include <openssl/err.h>

#include <algorithm>

namespace wayleave::enrolment::scep {
namespace {

using keys::opensslError;
using CmsPtr = Handle<CMS_ContentInfo, CMS_ContentInfo_free>;
using BioPtr = Handle<BIO, BIO_free_all>;

constexpr size_t kMostReplyBytes = 1024 * 1024;
constexpr size_t kMostTextBytes = 300;
constexpr const char* kFailInfoText = "1.3.6.1.5.5.7.24.1";

// The single value of a signed attribute, of string type `type`; nullopt when absent or of another type.
std::optional<std::string> attributeOf(CMS_SignerInfo* signer, const char* name, int type) {
  const Handle<ASN1_OBJECT, ASN1_OBJECT_free> object(OBJ_txt2obj(name, 1));
  // -3: exactly one attribute with exactly one value.
  auto* value = static_cast<ASN1_STRING*>(CMS_signed_get0_data_by_OBJ(signer, object.get(), -3, type));
  ERR_clear_error();
  if (value == nullptr) return std::nullopt;
  return std::string(reinterpret_cast<const char*>(ASN1_STRING_get0_data(value)), static_cast<size_t>(ASN1_STRING_length(value)));
}

// A server's own words, fit for a log line.
std::string shown(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, kMostTextBytes)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
  return out;
}

Result<Bytes> verified(CMS_ContentInfo* cms, const Authority& authority) {
  STACK_OF(X509)* trusted = sk_X509_new_null();
  if (trusted == nullptr) return fail(Reason::Internal, "out of memory");
  for (const keys::X509Ptr& one : authority.certificates) sk_X509_push(trusted, one.get());
  const BioPtr out(BIO_new(BIO_s_mem()));
  // A reply without certificates has no content at all, or an empty one; the digest is then over nothing.
  ASN1_OCTET_STRING** content = CMS_get0_content(cms);
  const BioPtr nothing(content == nullptr || *content == nullptr ? BIO_new_mem_buf("", 0) : nullptr);
  const int good = CMS_verify(cms, trusted, nullptr, nothing.get(), out.get(), CMS_NO_SIGNER_CERT_VERIFY | CMS_NOINTERN | CMS_BINARY);
  sk_X509_free(trusted);
  if (good != 1) {
    const auto code = ERR_GET_REASON(ERR_peek_last_error());
    Error error = opensslError(Reason::SignatureInvalid, "the signature of the CA's answer");
    if (code == CMS_R_SIGNER_CERTIFICATE_NOT_FOUND)
      error = {Reason::Untrusted, "the answer is signed by none of the certificates that the CA published", "look who answers at this address", 0};
    return std::unexpected(std::move(error));
  }
  char* data = nullptr;
  const long size = BIO_get_mem_data(out.get(), &data);
  return Bytes(reinterpret_cast<uint8_t*>(data), reinterpret_cast<uint8_t*>(data) + std::max(size, 0L));
}

}  // namespace

Error failureOf(std::string_view failInfo, std::string_view serverText) {
  Error error{Reason::ServerError, fmt::format("the CA refused the request (failInfo '{}', which RFC 8894 does not know)", shown(failInfo)), {}, 0};
  if (failInfo == "0")
    error = {Reason::Unsupported, "the CA does not support an algorithm of the request (badAlg)", "the CA must accept SHA-256 and AES or 3DES", 0};
  if (failInfo == "1")
    error = {Reason::SignatureInvalid, "the CA could not verify the request's integrity (badMessageCheck)", "look at the CA's log; CAFingerprint may name an old CA", 0};
  if (failInfo == "2")
    error = {Reason::NotEntitled, "the CA does not permit this request (badRequest)", "most often the challenge is wrong or used up, or the subject is not allowed", 0};
  if (failInfo == "3")
    error = {Reason::Conflict, "the CA finds the request's time too far from its own (badTime)", "compare this machine's clock with the CA's", 0};
  if (failInfo == "4")
    error = {Reason::NotFound, "the CA knows no certificate or request that matches (badCertId)", "a new request will be placed", 0};
  if (!serverText.empty()) error.message += ": " + shown(serverText);
  return error;
}

Result<Reply> readReply(ByteView der, const Authority& authority, const Attributes& asked) {
  if (der.empty() || der.size() > kMostReplyBytes) return fail(Reason::BadInput, fmt::format("an answer of {} bytes", der.size()));
  const uint8_t* at = der.data();
  const CmsPtr cms(d2i_CMS_ContentInfo(nullptr, &at, static_cast<long>(der.size())));
  if (!cms || at != der.data() + der.size() || OBJ_obj2nid(CMS_get0_type(cms.get())) != NID_pkcs7_signed) {
    ERR_clear_error();
    return fail(Reason::BadInput, "the answer is not a signed CMS message", "look whether the URL is that of a SCEP server");
  }
  STACK_OF(CMS_SignerInfo)* signers = CMS_get0_SignerInfos(cms.get());
  if (sk_CMS_SignerInfo_num(signers) != 1) return fail(Reason::BadInput, "the answer has not exactly one signer");
  CMS_SignerInfo* signer = sk_CMS_SignerInfo_value(signers, 0);
  Result<Bytes> content = verified(cms.get(), authority);
  if (!content) return propagate(content.error());

  Reply out;
  X509_ALGOR* digest = nullptr;
  CMS_SignerInfo_get0_algs(signer, nullptr, nullptr, &digest, nullptr);
  const ASN1_OBJECT* algorithm = nullptr;
  X509_ALGOR_get0(&algorithm, nullptr, nullptr, digest);
  if (OBJ_obj2nid(algorithm) == NID_md5) return fail(Reason::SignatureInvalid, "the answer is signed with MD5, which proves nothing");
  if (OBJ_obj2nid(algorithm) == NID_sha1) out.warnings.emplace_back("the CA signs its answers with SHA-1");

  if (attributeOf(signer, kMessageType, V_ASN1_PRINTABLESTRING) != "3") return fail(Reason::BadInput, "the answer is not a CertRep");
  if (attributeOf(signer, kTransactionId, V_ASN1_PRINTABLESTRING) != asked.transactionId)
    return fail(Reason::ServerError, "the answer belongs to another transaction");
  const auto status = attributeOf(signer, kPkiStatus, V_ASN1_PRINTABLESTRING);
  const auto nonce = attributeOf(signer, kRecipientNonce, V_ASN1_OCTET_STRING);
  // A refusal without a nonce is believed: whoever could replay one could as well cut the line.
  const bool fresh = nonce && std::ranges::equal(asBytes(*nonce), asked.senderNonce);
  if (!fresh && (nonce || status != "2")) return fail(Reason::ServerError, "the answer does not carry our nonce: it may be an old one");
  if (status == "0") {
    out.status = Reply::Status::Success;
    if (content->empty()) return fail(Reason::ServerError, "the CA says it issued a certificate and sends none");
    out.envelope = std::move(*content);
  } else if (status == "2") {
    out.status = Reply::Status::Failure;
    out.failure = failureOf(attributeOf(signer, kFailInfo, V_ASN1_PRINTABLESTRING).value_or(""),
                            attributeOf(signer, kFailInfoText, V_ASN1_UTF8STRING).value_or(""));
  } else if (status == "3") {
    out.status = Reply::Status::Pending;
  } else {
    return fail(Reason::ServerError, "the answer has no pkiStatus that RFC 8894 knows");
  }
  return out;
}

}  // namespace wayleave::enrolment::scep
