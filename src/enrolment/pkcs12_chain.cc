#include "enrolment/pkcs12_chain.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "keys/openssl.h"
#include "keys/software_key.h"

namespace wayleave::enrolment {
namespace {

using keys::EvpPkeyPtr;
using keys::SoftwareKey;
using keys::X509Ptr;

Result<std::vector<X509Ptr>> decodeAll(const std::vector<BagCertificate>& certificates) {
  std::vector<X509Ptr> out;
  for (const BagCertificate& certificate : certificates) {
    const uint8_t* at = certificate.der.data();
    X509Ptr decoded(d2i_X509(nullptr, &at, static_cast<long>(certificate.der.size())));
    if (!decoded) {
      Error error = keys::opensslError(Reason::BadInput, "a certificate in the file cannot be decoded");
      error.hint = "the file is damaged: fetch or export it again";
      return std::unexpected(std::move(error));
    }
    out.push_back(std::move(decoded));
  }
  return out;
}

// Certificates of `key`, the best one first.
std::vector<size_t> certificatesOf(const BagKey& key, const EVP_PKEY* publicKey,
                                   const std::vector<BagCertificate>& bags, const std::vector<X509Ptr>& decoded) {
  std::vector<size_t> out;
  for (size_t i = 0; i < decoded.size(); ++i) {
    const EVP_PKEY* certified = X509_get0_pubkey(decoded[i].get());
    if (certified != nullptr && EVP_PKEY_eq(certified, publicKey) == 1) out.push_back(i);
  }
  ERR_clear_error();  // certificates with key types OpenSSL does not know are somebody else's
  const auto better = [&](size_t a, size_t b) {
    const bool namedA = !key.localKeyId.empty() && bags[a].localKeyId == key.localKeyId;
    const bool namedB = !key.localKeyId.empty() && bags[b].localKeyId == key.localKeyId;
    if (namedA != namedB) return namedA;
    return ASN1_TIME_compare(X509_get0_notAfter(decoded[a].get()), X509_get0_notAfter(decoded[b].get())) > 0;
  };
  // One pass instead of a sort: dates that do not decode compare with nothing, and a sort may not be given such an
  // order.
  for (size_t i = 1; i < out.size(); ++i)
    if (better(out[i], out[0])) std::swap(out[0], out[i]);
  return out;
}

bool issued(X509* issuer, X509* subject) {
  const bool did = X509_check_issued(issuer, subject) == X509_V_OK && X509_get0_pubkey(issuer) != nullptr &&
                   X509_verify(subject, X509_get0_pubkey(issuer)) == 1;
  ERR_clear_error();
  return did;
}

// Each certificate is used once, so a ring of cross-signed authorities ends.
std::vector<size_t> chainFrom(size_t leaf, const std::vector<X509Ptr>& decoded) {
  std::vector<size_t> chain{leaf};
  for (;;) {
    X509* const last = decoded[chain.back()].get();
    if (issued(last, last)) return chain;  // a root
    std::optional<size_t> next;
    for (size_t i = 0; i < decoded.size() && !next; ++i)
      if (std::ranges::find(chain, i) == chain.end() && issued(decoded[i].get(), last)) next = i;
    if (!next) return chain;
    chain.push_back(*next);
  }
}

struct Pair {
  size_t key;
  std::vector<size_t> certificates;
};

}  // namespace

Result<ChosenIdentity> chooseIdentity(const std::vector<BagKey>& keys,
                                      const std::vector<BagCertificate>& certificates) {
  if (keys.empty()) {
    return fail(Reason::BadInput, "the PKCS#12 file holds no private key",
                "export the certificate together with its private key");
  }
  if (certificates.empty()) {
    return fail(Reason::BadInput, "the PKCS#12 file holds no certificate",
                "export the private key together with its certificate");
  }
  const Result<std::vector<X509Ptr>> decoded = decodeAll(certificates);
  if (!decoded) return std::unexpected(decoded.error());

  std::vector<Pair> pairs;
  std::optional<Error> refused;
  for (size_t i = 0; i < keys.size(); ++i) {
    const auto key = SoftwareKey::fromPkcs8(keys[i].pkcs8);
    if (!key) {
      if (!refused) refused = key.error();
      continue;
    }
    const Bytes& spki = (*key)->publicKey().spki;
    const uint8_t* at = spki.data();
    const EvpPkeyPtr publicKey(d2i_PUBKEY(nullptr, &at, static_cast<long>(spki.size())));
    auto matching = certificatesOf(keys[i], publicKey.get(), certificates, *decoded);
    if (!matching.empty()) pairs.push_back({i, std::move(matching)});
  }
  if (pairs.empty()) {
    if (refused) return withContext(std::move(*refused), "the PKCS#12 file");
    return fail(Reason::KeyMismatch,
                fmt::format("none of the {} certificate(s) in the PKCS#12 file belongs to its private key",
                            certificates.size()),
                "export the private key together with the certificate that was issued for it");
  }

  ChosenIdentity out;
  out.key = pairs.front().key;
  out.certificate = pairs.front().certificates.front();
  const std::vector<size_t> chain = chainFrom(out.certificate, *decoded);
  for (const size_t i : chain) out.chain.push_back(certificates[i].der);

  if (pairs.size() > 1)
    out.warnings.push_back(fmt::format("the file holds {} identities: the first is used", pairs.size()));
  if (keys.size() > pairs.size())
    out.warnings.push_back(
        fmt::format("{} private key(s) without a certificate were left out", keys.size() - pairs.size()));
  const size_t sameKey = pairs.front().certificates.size();
  if (sameKey > 1)
    out.warnings.push_back(fmt::format("the file holds {} certificates for its key: the best match is used", sameKey));
  size_t unrelated = 0;
  for (size_t i = 0; i < certificates.size(); ++i) unrelated += std::ranges::find(chain, i) == chain.end() ? 1 : 0;
  if (unrelated > 0)
    out.warnings.push_back(fmt::format("{} certificate(s) outside the chain were left out", unrelated));
  return out;
}

}  // namespace wayleave::enrolment
