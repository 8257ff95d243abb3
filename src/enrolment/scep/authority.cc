#include "enrolment/scep/authority.h"

#include <fmt/format.h>
#include <openssl/cms.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <array>

namespace wayleave::enrolment::scep {
namespace {

using keys::opensslError;
using keys::X509Ptr;

// A CA, its issuers and two RA certificates are five.
constexpr size_t kMostCertificates = 16;
constexpr int kMostDepth = 8;

Bytes derOf(X509* certificate) {
  uint8_t* encoded = nullptr;
  const int length = i2d_X509(certificate, &encoded);
  Bytes out(encoded, encoded + std::max(length, 0));
  OPENSSL_free(encoded);
  return out;
}

bool issued(X509* issuer, X509* subject) {
  EVP_PKEY* key = X509_get0_pubkey(issuer);
  const bool yes = key != nullptr && X509_check_issued(issuer, subject) == X509_V_OK && X509_verify(subject, key) == 1;
  ERR_clear_error();
  return yes;
}

bool selfIssued(X509* certificate) {
  return X509_NAME_cmp(X509_get_subject_name(certificate), X509_get_issuer_name(certificate)) == 0;
}

const EVP_MD* digestOfLength(size_t bytes) {
  switch (bytes) {
    case 16: return EVP_md5();
    case 20: return EVP_sha1();
    case 28: return EVP_sha224();
    case 32: return EVP_sha256();
    case 48: return EVP_sha384();
    case 64: return EVP_sha512();
    default: return nullptr;
  }
}

bool hasDigest(X509* certificate, ByteView fingerprint) {
  std::array<uint8_t, EVP_MAX_MD_SIZE> digest{};
  unsigned length = 0;
  const EVP_MD* type = digestOfLength(fingerprint.size());
  return type != nullptr && X509_digest(certificate, type, digest.data(), &length) == 1 &&
         std::ranges::equal(fingerprint, ByteView(digest.data(), length));
}

// `anchors` or issued under them by certificates of `all`.
bool isUnder(X509* certificate, const std::vector<X509*>& anchors, const std::vector<X509Ptr>& all, int depth = 0) {
  for (X509* anchor : anchors)
    if (X509_cmp(anchor, certificate) == 0 || issued(anchor, certificate)) return true;
  if (depth >= kMostDepth) return false;
  return std::ranges::any_of(all, [&](const X509Ptr& issuer) {
    return issuer.get() != certificate && !selfIssued(certificate) && issued(issuer.get(), certificate) &&
           isUnder(issuer.get(), anchors, all, depth + 1);
  });
}

bool fromThisMachine(std::string_view url) {
  const size_t start = url.find("://");
  if (start == std::string_view::npos) return false;
  const std::string_view host = url.substr(start + 3, url.find_first_of("/?", start + 3) - start - 3);
  const std::string_view name = host.starts_with('[') ? host.substr(0, host.find(']') + 1) : host.substr(0, host.find(':'));
  return name == "localhost" || name == "127.0.0.1" || name == "[::1]";
}

bool isRsa(X509* certificate) {
  EVP_PKEY* key = X509_get0_pubkey(certificate);
  return key != nullptr && EVP_PKEY_is_a(key, "RSA") == 1;
}

bool lowerEquals(std::string_view text, std::string_view lower) {
  return std::ranges::equal(text, lower, [](char a, char b) { return (a >= 'A' && a <= 'Z' ? a + 32 : a) == b; });
}

std::vector<X509Ptr> readAnchors(const std::vector<std::string>& pems) {
  std::vector<X509Ptr> out;
  for (const std::string& pem : pems) {
    const Handle<BIO, BIO_free_all> in(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
    if (X509Ptr one(in ? PEM_read_bio_X509(in.get(), nullptr, nullptr, nullptr) : nullptr); one) out.push_back(std::move(one));
  }
  ERR_clear_error();
  return out;
}

// The certificate to encrypt to. An RA (no CA, allowed to encipher) before the CA; of several CAs the one that issued none of
// the others. A single certificate serves for everything, whatever its keyUsage says: real CAs have certSign alone.
Result<size_t> chooseRecipient(const std::vector<X509Ptr>& list) {
  for (size_t i = 0; i < list.size(); ++i)
    if (X509_check_ca(list[i].get()) == 0 && isRsa(list[i].get()) && (X509_get_key_usage(list[i].get()) & KU_KEY_ENCIPHERMENT) != 0) return i;
  for (size_t i = 0; i < list.size(); ++i) {
    const bool issuesAnother = std::ranges::any_of(
        list, [&](const X509Ptr& other) { return other != list[i] && X509_check_ca(other.get()) != 0 && issued(list[i].get(), other.get()); });
    if (isRsa(list[i].get()) && X509_check_ca(list[i].get()) != 0 && !issuesAnother) return i;
  }
  for (size_t i = 0; i < list.size(); ++i)
    if (isRsa(list[i].get())) return i;
  return fail(Reason::Unsupported, "the SCEP server's certificates have no RSA key, and SCEP encrypts to RSA keys alone",
              "use ACME, or give the CA an RSA key for SCEP");
}

}  // namespace

Capabilities parseCapabilities(std::string_view text) {
  Capabilities out;
  while (!text.empty()) {
    const size_t end = text.find_first_of("\r\n");
    std::string_view word = text.substr(0, end);
    while (word.ends_with(' ')) word.remove_suffix(1);
    if (lowerEquals(word, "aes")) out.aes = true;
    if (lowerEquals(word, "sha-256")) out.sha256 = true;
    if (lowerEquals(word, "postpkioperation")) out.post = true;
    if (lowerEquals(word, "renewal")) out.renewal = true;
    if (lowerEquals(word, "scepstandard")) out.aes = out.sha256 = out.post = true;
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return out;
}

Bytes Authority::recipientDigest() const { return sha256(derOf(encryptTo())); }

Result<std::vector<Bytes>> readCertificates(ByteView answer) {
  const uint8_t* at = answer.data();
  if (const X509Ptr one(d2i_X509(nullptr, &at, static_cast<long>(answer.size()))); one && at == answer.data() + answer.size())
    return std::vector<Bytes>{toBytes(answer)};
  at = answer.data();
  const Handle<CMS_ContentInfo, CMS_ContentInfo_free> cms(d2i_CMS_ContentInfo(nullptr, &at, static_cast<long>(answer.size())));
  if (!cms || OBJ_obj2nid(CMS_get0_type(cms.get())) != NID_pkcs7_signed) {
    ERR_clear_error();
    return fail(Reason::BadInput, fmt::format("{} bytes that are neither a certificate nor a list of certificates", answer.size()));
  }
  STACK_OF(X509)* list = CMS_get1_certs(cms.get());
  std::vector<Bytes> out;
  const int count = std::max(sk_X509_num(list), 0);
  if (static_cast<size_t>(count) <= kMostCertificates)
    for (int i = 0; i < count; ++i) out.push_back(derOf(sk_X509_value(list, i)));
  sk_X509_pop_free(list, X509_free);
  ERR_clear_error();
  if (out.empty()) return fail(Reason::BadInput, fmt::format("a list of {} certificates", count));
  return out;
}

Result<Authority> judgeAuthority(const std::vector<Bytes>& certificates, const Trust& trust) {
  std::vector<X509Ptr> all;
  for (const Bytes& bytes : certificates) {
    const uint8_t* at = bytes.data();
    all.emplace_back(d2i_X509(nullptr, &at, static_cast<long>(bytes.size())));
    if (!all.back()) return std::unexpected(opensslError(Reason::BadInput, "a certificate of the CA"));
  }
  Authority out;
  const std::vector<X509Ptr> profileCertificates = readAnchors(trust.trustAnchorsPem);
  std::vector<X509*> anchors;
  if (!trust.fingerprint.empty()) {
    for (const X509Ptr& one : all)
      if (hasDigest(one.get(), trust.fingerprint)) anchors.push_back(one.get());
    if (anchors.empty())
      return fail(Reason::Untrusted, fmt::format("the SCEP server's CA certificate (SHA-256 {}) is not the one of CAFingerprint {}",
                                                 toHex(sha256(certificates.front())), toHex(trust.fingerprint)),
                  "compare CAFingerprint with the CA's certificate, or look who answers at this address");
  } else {
    for (const X509Ptr& one : profileCertificates) anchors.push_back(one.get());
    const bool vouched = std::ranges::any_of(all, [&](const X509Ptr& one) { return isUnder(one.get(), anchors, all); });
    if (!vouched) {
      anchors.clear();
      const bool https = trust.url.starts_with("https://");
      if (!https && !fromThisMachine(trust.url)) {
        if (trust.hasChallenge)
          return fail(Reason::Untrusted,
                      "the CA's certificate came over plain http and nothing vouches for it: the challenge would go to whoever answers",
                      "add CAFingerprint to the SCEP payload, deliver the CA's certificate in a com.apple.security.root payload, or use https");
        out.warnings.emplace_back("the CA's certificate came over plain http and nothing vouches for it; add CAFingerprint");
      }
      for (const X509Ptr& one : all) anchors.push_back(one.get());
    }
  }
  std::vector<X509Ptr> believed;
  for (const X509Ptr& one : all) {
    if (!isUnder(one.get(), anchors, all)) continue;
    X509_up_ref(one.get());
    believed.emplace_back(one.get());
  }
  out.certificates = std::move(believed);
  const auto recipient = chooseRecipient(out.certificates);
  if (!recipient) return propagate(recipient.error());
  out.recipient = *recipient;
  // Who issues: the recipient itself when it is a CA, else its issuer.
  X509* chosen = out.encryptTo();
  const X509_NAME* issuer = X509_check_ca(chosen) != 0 ? X509_get_subject_name(chosen) : X509_get_issuer_name(chosen);
  uint8_t* name = nullptr;
  const int length = i2d_X509_NAME(issuer, &name);
  out.issuerName.assign(name, name + std::max(length, 0));
  OPENSSL_free(name);
  if (X509_cmp_current_time(X509_get0_notAfter(chosen)) < 0) out.warnings.emplace_back("the CA's certificate has expired");
  return out;
}

}  // namespace wayleave::enrolment::scep
