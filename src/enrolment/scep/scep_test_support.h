#pragma once

// A SCEP server in process: OpenSSL's own CMS writes and reads what ours reads and writes.

#include <gtest/gtest.h>
#include <openssl/cms.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>

#include <map>
#include <string>
#include <vector>

#include "enrolment/http.h"
#include "enrolment/scep/message.h"
#include "enrolment/scep/reply.h"
#include "keys/legacy_library.h"
#include "keys/openssl.h"

namespace wayleave::enrolment::scep::test {

using CmsPtr = Handle<CMS_ContentInfo, CMS_ContentInfo_free>;
using BioPtr = Handle<BIO, BIO_free_all>;
using ReqPtr = Handle<X509_REQ, X509_REQ_free>;

template <typename T>
Bytes der(int (*encode)(T*, uint8_t**), std::remove_const_t<T>* value) {
  uint8_t* out = nullptr;
  const int length = encode(value, &out);
  Bytes bytes(out, out + std::max(length, 0));
  OPENSSL_free(out);
  return bytes;
}

inline EVP_PKEY* rsaKey(int number) {  // making one takes a while
  static std::map<int, keys::EvpPkeyPtr> made;
  auto& key = made[number];
  if (!key) key.reset(EVP_RSA_gen(2048));
  return key.get();
}

inline keys::X509Ptr issue(const std::string& subject, EVP_PKEY* key, X509* issuer, EVP_PKEY* issuerKey, const char* usage, bool ca) {
  static long serial = 100;
  keys::X509Ptr made(X509_new());
  X509_set_version(made.get(), 2);
  ASN1_INTEGER_set(X509_get_serialNumber(made.get()), ++serial);
  X509_gmtime_adj(X509_getm_notBefore(made.get()), -60);
  X509_gmtime_adj(X509_getm_notAfter(made.get()), 86400);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(made.get()), "CN", MBSTRING_UTF8, reinterpret_cast<const uint8_t*>(subject.c_str()), -1, -1, 0);
  X509_set_issuer_name(made.get(), X509_get_subject_name(issuer != nullptr ? issuer : made.get()));
  X509_set_pubkey(made.get(), key);
  for (const auto& [nid, value] : {std::pair{NID_basic_constraints, ca ? "critical,CA:TRUE" : "CA:FALSE"}, {NID_key_usage, usage}}) {
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, nid, value);
    X509_add_ext(made.get(), extension, -1);
    X509_EXTENSION_free(extension);
  }
  X509_sign(made.get(), issuerKey, EVP_sha256());
  return made;
}

class Server final : public Http {
 public:
  Server() : ca(issue("Test CA", rsaKey(1), nullptr, rsaKey(1), "critical,keyCertSign,cRLSign", true)) {}

  // --- behaviour ---
  std::string capabilities = "AES\nSHA-256\nPOSTPKIOperation\nRenewal\nSCEPStandard\n";
  std::string challenge;             // demanded when not empty
  bool challengeInRenewals = false;
  int pendings = 0;                  // so many PENDING first
  std::string failInfo;              // refuse with it
  const char* cipher = "AES-128-CBC";
  bool wrongNonce = false, wrongTransaction = false, otherKey = false, strangerSigns = false, withRa = false, tamper = false, sha1 = false;
  bool unreachable = false;
  int status = 200;
  // --- what was seen ---
  std::vector<std::string> types, transactions;
  std::vector<std::string> challenges;
  std::vector<std::string> urls;
  std::string lastNonce;
  Bytes lastMessage;

  keys::X509Ptr ca;

  Bytes caAnswer() {
    if (!withRa) return der(i2d_X509, ca.get());
    if (!ra_) ra_ = issue("Test RA", rsaKey(2), ca.get(), rsaKey(1), "critical,digitalSignature,keyEncipherment", false);
    STACK_OF(X509)* list = sk_X509_new_null();
    sk_X509_push(list, ra_.get());
    sk_X509_push(list, ca.get());
    const Bytes out = degenerate(list);
    sk_X509_free(list);
    return out;
  }

  Result<HttpResponse> send(const HttpRequest& request) override {
    urls.push_back(request.url);
    if (unreachable) return fail(Reason::Unavailable, "no route");
    if (status != 200) return HttpResponse{status, {}, {}};
    if (request.url.find("GetCACaps") != std::string::npos) return HttpResponse{200, {}, toBytes(capabilities)};
    if (request.url.find("GetCACert") != std::string::npos) return HttpResponse{200, {}, caAnswer()};
    EXPECT_EQ(request.method == "POST", capabilities.find("POST") != std::string::npos);
    return HttpResponse{200, {}, answer(request.body)};
  }

  Bytes answer(ByteView message) {
    lastMessage = toBytes(message);
    const uint8_t* at = message.data();
    const CmsPtr cms(d2i_CMS_ContentInfo(nullptr, &at, static_cast<long>(message.size())));
    EXPECT_TRUE(cms != nullptr);
    const BioPtr content(BIO_new(BIO_s_mem()));
    EXPECT_EQ(CMS_verify(cms.get(), nullptr, nullptr, nullptr, content.get(), CMS_NO_SIGNER_CERT_VERIFY | CMS_BINARY), 1) << "our own signature";
    CMS_SignerInfo* signer = sk_CMS_SignerInfo_value(CMS_get0_SignerInfos(cms.get()), 0);
    STACK_OF(X509)* certificates = CMS_get1_certs(cms.get());
    keys::X509Ptr requester(X509_dup(sk_X509_value(certificates, 0)));
    sk_X509_pop_free(certificates, X509_free);
    const std::string type = attribute(signer, kMessageType, V_ASN1_PRINTABLESTRING);
    const std::string transaction = attribute(signer, kTransactionId, V_ASN1_PRINTABLESTRING);
    lastNonce = attribute(signer, kSenderNonce, V_ASN1_OCTET_STRING);
    types.push_back(type);
    transactions.push_back(transaction);
    const Bytes plain = open(content.get());
    if (type != "20") {
      at = plain.data();
      request_.reset(d2i_X509_REQ(nullptr, &at, static_cast<long>(plain.size())));
      EXPECT_TRUE(request_ != nullptr && X509_REQ_verify(request_.get(), X509_REQ_get0_pubkey(request_.get())) == 1);
      challenges.push_back(challengeOf(request_.get()));
      const bool demanded = type == "19" || challengeInRenewals;
      if (!challenge.empty() && demanded && challenges.back() != challenge) return reply("2", "2", {}, transaction);
    }
    if (!failInfo.empty()) return reply("2", failInfo, {}, transaction);
    if (pendings > 0) {
      --pendings;
      return reply("3", "", {}, transaction);
    }
    EVP_PKEY* key = otherKey ? rsaKey(3) : X509_REQ_get0_pubkey(request_.get());
    const keys::X509Ptr issued = issue("device", key, ca.get(), rsaKey(1), "critical,digitalSignature", false);
    STACK_OF(X509)* list = sk_X509_new_null();
    sk_X509_push(list, issued.get());
    const Bytes bundle = degenerate(list);
    sk_X509_free(list);
    return reply("0", "", encrypt(bundle, requester.get()), transaction);
  }

  Bytes reply(const std::string& pkiStatus, const std::string& info, const Bytes& content, std::string transaction) {
    const keys::X509Ptr stranger = issue("Test CA", rsaKey(3), nullptr, rsaKey(3), "critical,keyCertSign", true);
    X509* certificate = strangerSigns ? stranger.get() : withRa ? ra_.get() : ca.get();
    EVP_PKEY* key = strangerSigns ? rsaKey(3) : withRa ? rsaKey(2) : rsaKey(1);
    constexpr unsigned kFlags = CMS_PARTIAL | CMS_BINARY | CMS_NOSMIMECAP;
    const CmsPtr cms(CMS_sign(nullptr, nullptr, nullptr, nullptr, kFlags));
    CMS_SignerInfo* signer = CMS_add1_signer(cms.get(), certificate, key, sha1 ? EVP_sha1() : EVP_sha256(), kFlags);
    const auto add = [&](const char* oid, int tag, const std::string& value) {
      const Handle<ASN1_OBJECT, ASN1_OBJECT_free> object(OBJ_txt2obj(oid, 1));
      CMS_signed_add1_attr_by_OBJ(signer, object.get(), tag, value.data(), static_cast<int>(value.size()));
    };
    if (wrongTransaction) transaction[0] = transaction[0] == 'A' ? 'B' : 'A';
    add(kMessageType, V_ASN1_PRINTABLESTRING, "3");
    add(kTransactionId, V_ASN1_PRINTABLESTRING, transaction);
    add(kPkiStatus, V_ASN1_PRINTABLESTRING, pkiStatus);
    add(kRecipientNonce, V_ASN1_OCTET_STRING, wrongNonce ? std::string(16, 'x') : lastNonce);
    add(kSenderNonce, V_ASN1_OCTET_STRING, std::string(16, 's'));
    if (!info.empty()) {
      add(kFailInfo, V_ASN1_PRINTABLESTRING, info);
      add("1.3.6.1.5.5.7.24.1", V_ASN1_UTF8STRING, "as the server puts it\n");
    }
    const BioPtr in(BIO_new_mem_buf(content.empty() ? "" : static_cast<const void*>(content.data()), static_cast<int>(content.size())));
    EXPECT_EQ(CMS_final(cms.get(), in.get(), nullptr, kFlags), 1);
    Bytes out = der(i2d_CMS_ContentInfo, cms.get());
    if (tamper) out.back() ^= 1;
    return out;
  }

  static Bytes degenerate(STACK_OF(X509)* list) {
    const CmsPtr cms(CMS_sign(nullptr, nullptr, list, nullptr, CMS_PARTIAL | CMS_BINARY | CMS_DETACHED));
    CMS_final(cms.get(), BioPtr(BIO_new_mem_buf("", 0)).get(), nullptr, CMS_BINARY | CMS_DETACHED);
    return der(i2d_CMS_ContentInfo, cms.get());
  }

 private:
  static std::string attribute(CMS_SignerInfo* signer, const char* oid, int type) {
    const Handle<ASN1_OBJECT, ASN1_OBJECT_free> object(OBJ_txt2obj(oid, 1));
    const auto* value = static_cast<ASN1_STRING*>(CMS_signed_get0_data_by_OBJ(signer, object.get(), -3, type));
    return value == nullptr ? "" : std::string(reinterpret_cast<const char*>(ASN1_STRING_get0_data(value)), static_cast<size_t>(ASN1_STRING_length(value)));
  }
  static std::string challengeOf(X509_REQ* request) {
    const int at = X509_REQ_get_attr_by_NID(request, NID_pkcs9_challengePassword, -1);
    if (at < 0) return "";
    const ASN1_TYPE* value = X509_ATTRIBUTE_get0_type(X509_REQ_get_attr(request, at), 0);
    EXPECT_EQ(value->type, V_ASN1_PRINTABLESTRING);
    return std::string(reinterpret_cast<const char*>(ASN1_STRING_get0_data(value->value.asn1_string)), static_cast<size_t>(ASN1_STRING_length(value->value.asn1_string)));
  }
  Bytes open(BIO* content) const {
    const CmsPtr cms(d2i_CMS_bio(content, nullptr));
    const BioPtr out(BIO_new(BIO_s_mem()));
    EXPECT_EQ(CMS_decrypt(cms.get(), withRa ? rsaKey(2) : rsaKey(1), nullptr, nullptr, out.get(), CMS_BINARY), 1) << "encrypted to another certificate";
    char* data = nullptr;
    const long size = BIO_get_mem_data(out.get(), &data);
    return Bytes(data, data + size);
  }
  Bytes encrypt(const Bytes& content, X509* recipient) const {
    static const keys::LegacyLibrary library = keys::LegacyLibrary::load().value();
    EVP_CIPHER* fetched = EVP_CIPHER_fetch(library.context(), cipher, nullptr);
    STACK_OF(X509)* list = sk_X509_new_null();
    sk_X509_push(list, recipient);
    const BioPtr in(BIO_new_mem_buf(content.data(), static_cast<int>(content.size())));
    const CmsPtr cms(CMS_encrypt_ex(list, in.get(), fetched, CMS_BINARY, library.context(), nullptr));
    sk_X509_free(list);
    EVP_CIPHER_free(fetched);
    return der(i2d_CMS_ContentInfo, cms.get());
  }

  keys::X509Ptr ra_;
  ReqPtr request_;
};

}  // namespace wayleave::enrolment::scep::test
