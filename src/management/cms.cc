#include "management/cms.h"

#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/cms.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/objects.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>

#include <algorithm>
#include <array>
#include <ctime>

#include "base/owned.h"

namespace wayleave::management {
namespace {

using BioHandle = Handle<BIO, BIO_free_all>;
using CmsHandle = Handle<CMS_ContentInfo, CMS_ContentInfo_free>;
using StoreHandle = Handle<X509_STORE, X509_STORE_free>;
using StoreContext = Handle<X509_STORE_CTX, X509_STORE_CTX_free>;
using X509Handle = Handle<X509, X509_free>;
struct FreeStack {
  void operator()(STACK_OF(X509) * stack) const { sk_X509_pop_free(stack, X509_free); }
};
using Certificates = std::unique_ptr<STACK_OF(X509), FreeStack>;

constexpr size_t kLongestChain = 10;
constexpr int kMostSigners = 16;
constexpr int kMostCertificates = 64;

std::string lastOpenSslError() {
  const unsigned long code = ERR_peek_last_error();
  const char* reason = code == 0 ? nullptr : ERR_reason_error_string(code);
  ERR_clear_error();
  return reason == nullptr ? "unknown reason" : reason;
}

std::string objectName(const X509_ALGOR* algorithm) {
  const ASN1_OBJECT* object = nullptr;
  X509_ALGOR_get0(&object, nullptr, nullptr, algorithm);
  const int nid = OBJ_obj2nid(object);
  if (nid != NID_undef) return OBJ_nid2sn(nid);
  char dotted[80] = "?";
  OBJ_obj2txt(dotted, sizeof dotted, object, 1);
  return dotted;
}

std::string weaknessOf(const std::string& digest, const std::string& algorithm, X509& certificate) {
  for (const char* weak : {"MD2", "MD4", "MD5", "SHA1"})
    if (digest == weak || algorithm.ends_with(weak))
      return fmt::format("{} digest", weak == std::string_view("SHA1") ? "SHA-1" : weak);
  const EVP_PKEY* key = X509_get0_pubkey(&certificate);
  constexpr int kLeastRsaBits = 2048;
  if (key != nullptr && EVP_PKEY_get_base_id(key) == EVP_PKEY_RSA && EVP_PKEY_get_bits(key) < kLeastRsaBits)
    return fmt::format("RSA key of {} bits", EVP_PKEY_get_bits(key));
  return "";
}

std::optional<Wall> signingTimeOf(const CMS_SignerInfo* signer) {
  const int at = CMS_signed_get_attr_by_NID(signer, NID_pkcs9_signingTime, -1);
  if (at < 0) return std::nullopt;
  X509_ATTRIBUTE* attribute = CMS_signed_get_attr(signer, at);
  const ASN1_TYPE* value = X509_ATTRIBUTE_get0_type(attribute, 0);
  std::tm parts{};
  if (value == nullptr || (value->type != V_ASN1_UTCTIME && value->type != V_ASN1_GENERALIZEDTIME) ||
      ASN1_TIME_to_tm(value->value.asn1_string, &parts) != 1)
    return std::nullopt;
  constexpr int64_t kFits = 9'000'000'000;
  const int64_t seconds = ::timegm(&parts);
  if (seconds < -kFits || seconds > kFits) return std::nullopt;
  return Wall{std::chrono::seconds{seconds}};
}

// The leaf and then, as long as the file carries it, the certificate that issued the one before.
std::vector<X509*> chainOf(X509* leaf, STACK_OF(X509) * pool) {
  std::vector<X509*> chain{leaf};
  while (chain.size() < kLongestChain) {
    X509* last = chain.back();
    if (X509_check_issued(last, last) == X509_V_OK) break;
    X509* issuer = nullptr;
    for (int i = 0; i < sk_X509_num(pool) && issuer == nullptr; ++i) {
      X509* candidate = sk_X509_value(pool, i);
      if (X509_check_issued(candidate, last) != X509_V_OK) continue;
      const bool seen = std::ranges::any_of(chain, [&](X509* c) { return X509_cmp(c, candidate) == 0; });
      if (!seen) issuer = candidate;
    }
    if (issuer == nullptr) break;
    chain.push_back(issuer);
  }
  return chain;
}

// Everything that is wrong with a chain, not just the first thing. Plain storage: it is filled from a C callback.
struct ChainProblems {
  std::array<int, 16> codes{};
  size_t count = 0;
};

int collectProblem(int ok, X509_STORE_CTX* context) {
  auto* problems = static_cast<ChainProblems*>(X509_STORE_CTX_get_app_data(context));
  if (ok == 0 && problems->count < problems->codes.size())
    problems->codes[problems->count++] = X509_STORE_CTX_get_error(context);
  return 1;
}

bool isAboutDates(int code) { return code == X509_V_ERR_CERT_HAS_EXPIRED || code == X509_V_ERR_CERT_NOT_YET_VALID; }

Result<StoreHandle> makeStore(const TrustOptions& options) {
  StoreHandle store(X509_STORE_new());
  if (!store) return fail(Reason::Internal, "no memory for a trust store");
  if (options.useSystemStore) X509_STORE_set_default_paths(store.get());  // an absent store trusts nobody: no error
  for (const std::string& pem : options.anchorsPem) {
    const BioHandle in(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
    int read = 0;
    for (;; ++read) {
      const X509Handle anchor(PEM_read_bio_X509(in.get(), nullptr, nullptr, nullptr));
      if (!anchor) break;
      X509_STORE_add_cert(store.get(), anchor.get());
    }
    if (read == 0) return fail(Reason::BadInput, "a trust anchor for profile signers is not a PEM certificate");
  }
  ERR_clear_error();
  return store;
}

void evaluateTrust(Signer& signer, X509* leaf, STACK_OF(X509) * pool, X509_STORE* store, Wall now) {
  const StoreContext context(X509_STORE_CTX_new());
  if (!context || X509_STORE_CTX_init(context.get(), store, leaf, pool) != 1) return;
  X509_VERIFY_PARAM* parameters = X509_STORE_CTX_get0_param(context.get());
  X509_VERIFY_PARAM_set_purpose(parameters, X509_PURPOSE_ANY);  // real signers have every kind of extended key usage
  X509_VERIFY_PARAM_set_time(parameters, std::chrono::system_clock::to_time_t(now));
  ChainProblems problems;
  X509_STORE_CTX_set_app_data(context.get(), &problems);
  X509_STORE_CTX_set_verify_cb(context.get(), collectProblem);
  const bool finished = X509_verify_cert(context.get()) == 1;
  ERR_clear_error();
  const auto codes = std::span(problems.codes).first(problems.count);
  if (finished && codes.empty()) {
    signer.trust = Trust::Trusted;
    return;
  }
  const auto worse = std::ranges::find_if_not(codes, isAboutDates);
  signer.trust = finished && worse == codes.end() ? Trust::Expired : Trust::Untrusted;
  const int shown =
      worse != codes.end() ? *worse : (codes.empty() ? X509_STORE_CTX_get_error(context.get()) : codes[0]);
  signer.trustProblem = X509_verify_cert_error_string(shown);
}

Result<Signer> describeSigner(CMS_SignerInfo* info, STACK_OF(X509) * pool) {
  EVP_PKEY* key = nullptr;
  X509* leaf = nullptr;
  X509_ALGOR* digest = nullptr;
  X509_ALGOR* algorithm = nullptr;
  CMS_SignerInfo_get0_algs(info, &key, &leaf, &digest, &algorithm);
  if (leaf == nullptr) return fail(Reason::SignatureInvalid, "a signer without a certificate");
  Signer signer;
  for (X509* certificate : chainOf(leaf, pool)) {
    Bytes der(static_cast<size_t>(std::max(0, i2d_X509(certificate, nullptr))));
    unsigned char* out = der.data();
    i2d_X509(certificate, &out);
    Result<CertificateInfo> described = readCertificate(der);
    if (!described) return withContext(described.error(), "certificate of the signer");
    signer.chain.push_back(std::move(*described));
  }
  signer.digest = objectName(digest);
  signer.algorithm = objectName(algorithm);
  signer.signingTime = signingTimeOf(info);
  signer.weakness = weaknessOf(signer.digest, signer.algorithm, *leaf);
  return signer;
}

}  // namespace

std::string_view text(Trust trust) {
  switch (trust) {
    case Trust::NotEvaluated: return "not-evaluated";
    case Trust::Trusted: return "trusted";
    case Trust::Expired: return "expired";
    case Trust::Untrusted: return "untrusted";
  }
  return "?";
}

bool looksLikeCms(ByteView bytes) { return bytes.size() >= 2 && bytes[0] == 0x30 && bytes[1] >= 0x20; }

Result<SignedContent> verifyCms(ByteView bytes, const TrustOptions& trust, Wall now) {
  if (bytes.size() > size_t{INT32_MAX}) return fail(Reason::BadInput, "signed file beyond 2 GiB");
  ERR_clear_error();
  const BioHandle in(BIO_new_mem_buf(bytes.data(), static_cast<int>(bytes.size())));
  const CmsHandle cms(d2i_CMS_bio(in.get(), nullptr));
  if (!cms) return fail(Reason::BadInput, "not a CMS structure: " + lastOpenSslError());
  const auto rest = bytes.last(BIO_pending(in.get()));
  if (std::ranges::any_of(rest, [](uint8_t byte) { return byte != 0 && byte != '\n' && byte != '\r'; }))
    return fail(Reason::BadInput, fmt::format("{} bytes follow the signed structure", rest.size()));

  switch (OBJ_obj2nid(CMS_get0_type(cms.get()))) {
    case NID_pkcs7_signed: break;
    case NID_pkcs7_enveloped:
      return fail(Reason::Unsupported, "the profile is encrypted to a device identity",
                  "install the decrypted profile; encrypted profiles are not supported");
    default: return fail(Reason::Unsupported, "a CMS structure that is not SignedData");
  }
  STACK_OF(CMS_SignerInfo)* infos = CMS_get0_SignerInfos(cms.get());
  const int count = infos == nullptr ? 0 : sk_CMS_SignerInfo_num(infos);
  if (count < 1) return fail(Reason::SignatureInvalid, "the signed structure has no signature");
  if (count > kMostSigners) return fail(Reason::BadInput, fmt::format("more than {} signers", kMostSigners));
  const Certificates pool(CMS_get1_certs(cms.get()));
  if (pool && sk_X509_num(pool.get()) > kMostCertificates)
    return fail(Reason::BadInput, fmt::format("more than {} certificates", kMostCertificates));
  ASN1_OCTET_STRING** content = CMS_get0_content(cms.get());
  if (content == nullptr || *content == nullptr)
    return fail(Reason::BadInput, "the signature is detached: the file holds no profile",
                "sign with the content included (openssl cms -sign -nodetach)");

  const BioHandle out(BIO_new(BIO_s_mem()));
  if (CMS_verify(cms.get(), nullptr, nullptr, nullptr, out.get(), CMS_NO_SIGNER_CERT_VERIFY | CMS_BINARY) != 1)
    return fail(Reason::SignatureInvalid, "the signature does not fit the profile: " + lastOpenSslError(),
                "the file was changed after signing; get it again from its source");
  ERR_clear_error();

  SignedContent result;
  char* data = nullptr;
  const long length = BIO_get_mem_data(out.get(), &data);
  result.content.assign(data, data + length);
  const bool evaluate = trust.useSystemStore || !trust.anchorsPem.empty();
  StoreHandle store;
  if (evaluate) {
    Result<StoreHandle> made = makeStore(trust);
    if (!made) return propagate(made.error());
    store = std::move(*made);
  }
  for (int i = 0; i < count; ++i) {
    CMS_SignerInfo* info = sk_CMS_SignerInfo_value(infos, i);
    Result<Signer> signer = describeSigner(info, pool.get());
    if (!signer) return propagate(signer.error());
    X509* leaf = nullptr;
    CMS_SignerInfo_get0_algs(info, nullptr, &leaf, nullptr, nullptr);
    if (store) evaluateTrust(*signer, leaf, pool.get(), store.get(), now);
    result.signers.push_back(std::move(*signer));
  }
  return result;
}

}  // namespace wayleave::management
