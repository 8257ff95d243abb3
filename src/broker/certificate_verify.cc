#include "broker/certificate_verify.h"

#include <fmt/format.h>
#include <openssl/asn1.h>
#include <openssl/err.h>
#include <openssl/x509.h>

#include <algorithm>
#include <array>

#include "base/osstatus.h"
#include "base/owned.h"

namespace wayleave::broker {
namespace {

constexpr size_t kPadding = 64;
constexpr std::string_view kClientContext = "TLS 1.3, client CertificateVerify";
constexpr std::string_view kServerContext = "TLS 1.3, server CertificateVerify";

std::unexpected<Error> refuse(Reason reason, std::string message) {
  return fail(reason, std::move(message),
              "sign/tls signs the CertificateVerify of a TLS 1.3 client only; other messages need the usage 'sign'",
              errSecParam);
}

// For the sentence in the refusal and in the audit log: attempts are worth recognising.
std::string_view looksLike(ByteView content) {
  const std::string_view text = asText(content);
  if (text.starts_with("eyJ")) return "a JSON web token";
  if (!content.empty() && content[0] == 0x30) return "a DER structure, such as a certification request";
  if (std::ranges::all_of(content, [](uint8_t byte) { return byte >= 0x20 && byte < 0x7f; })) return "a text";
  if (content.size() == 32 || content.size() == 48 || content.size() == 64) return "a bare digest";
  return "another message";
}

bool allowedInTls13(keys::SignatureScheme scheme) {
  switch (scheme) {
    case keys::SignatureScheme::EcdsaSecp256r1Sha256:
    case keys::SignatureScheme::EcdsaSecp384r1Sha384:
    case keys::SignatureScheme::EcdsaSecp521r1Sha512:
    case keys::SignatureScheme::RsaPssRsaeSha256:
    case keys::SignatureScheme::RsaPssRsaeSha384:
    case keys::SignatureScheme::RsaPssRsaeSha512: return true;
    case keys::SignatureScheme::EcdsaSha256:
    case keys::SignatureScheme::RsaPkcs1Sha256:
    case keys::SignatureScheme::RsaPkcs1Sha384:
    case keys::SignatureScheme::RsaPkcs1Sha512: return false;
  }
  return false;
}

// Real requests are 200 octets to 4 KiB.
constexpr size_t kMostRequestBytes = 64 * 1024;

using RequestInfo = Handle<X509_REQ_INFO, X509_REQ_INFO_free>;

}  // namespace

Status checkClientCertificateVerify(keys::SignatureScheme scheme, ByteView content) {
  if (!allowedInTls13(scheme))
    return refuse(Reason::Unsupported,
                  fmt::format("TLS 1.3 does not allow {} in CertificateVerify", keys::text(scheme)));
  const size_t prefix = kPadding + kClientContext.size() + 1;
  const bool padded = content.size() >= kPadding &&
                      std::ranges::all_of(content.first(kPadding), [](uint8_t byte) { return byte == 0x20; });
  if (!padded)
    return refuse(Reason::BadInput, fmt::format("not a CertificateVerify of TLS 1.3 but {}", looksLike(content)));
  const std::string_view afterPadding = asText(content.subspan(kPadding));
  if (afterPadding.starts_with(kServerContext))
    return refuse(Reason::NotEntitled,
                  "this is the CertificateVerify of a TLS server: a device identity never acts as a server");
  if (!afterPadding.starts_with(kClientContext) || content.size() <= prefix - 1 || content[prefix - 1] != 0)
    return refuse(Reason::BadInput, "the context string is not \"TLS 1.3, client CertificateVerify\"");
  const size_t hash = content.size() - prefix;
  if (hash != 32 && hash != 48)
    return refuse(Reason::BadInput, fmt::format("the transcript hash is {} octets long; TLS 1.3 has 32 or 48", hash));
  return {};
}

Status checkDigest(keys::SignatureScheme scheme, ByteView digest) {
  if (digest.size() != keys::digestLength(scheme))
    return refuse(Reason::BadInput, fmt::format("{} signs a digest of {} octets, these are {}", keys::text(scheme),
                                                keys::digestLength(scheme), digest.size()));
  return {};
}

Status checkCertificationRequestInfo(ByteView der, ByteView spki) {
  const auto malformed = [](std::string why) {
    return fail(Reason::BadInput, "this is not the DER of a CertificationRequestInfo: " + std::move(why), {},
                errSecDecode);
  };
  if (der.empty() || der.size() > kMostRequestBytes) return malformed(fmt::format("{} octets", der.size()));
  const uint8_t* cursor = der.data();
  const RequestInfo info(reinterpret_cast<X509_REQ_INFO*>(
      ASN1_item_d2i(nullptr, &cursor, static_cast<long>(der.size()), ASN1_ITEM_rptr(X509_REQ_INFO))));
  ERR_clear_error();
  if (!info) return malformed("it does not parse");
  if (cursor != der.data() + der.size())
    return malformed(fmt::format("{} octets follow it", der.data() + der.size() - cursor));

  // OpenSSL's accessors want a whole request: the info with an empty ecdsa-with-SHA256 signature behind it.
  constexpr std::array<uint8_t, 15> kEmptySignature = {0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
                                                       0x3d, 0x04, 0x03, 0x02, 0x03, 0x01, 0x00};
  Bytes whole = {0x30, 0x83};
  const size_t length = der.size() + kEmptySignature.size();
  whole.push_back(static_cast<uint8_t>(length >> 16));
  appendU16(whole, static_cast<uint16_t>(length));
  append(whole, der);
  append(whole, kEmptySignature);
  cursor = whole.data();
  const Handle<X509_REQ, X509_REQ_free> request(d2i_X509_REQ(nullptr, &cursor, static_cast<long>(whole.size())));
  ERR_clear_error();
  if (!request) return malformed("it does not parse within a request");
  if (X509_REQ_get_version(request.get()) != X509_REQ_VERSION_1) return malformed("its version is not 0");
  uint8_t* encoded = nullptr;
  const int encodedLength = i2d_X509_PUBKEY(X509_REQ_get_X509_PUBKEY(request.get()), &encoded);
  const Handle<uint8_t, [](uint8_t* bytes) { OPENSSL_free(bytes); }> owned(encoded);
  if (encodedLength <= 0) return malformed("it carries no public key");
  if (!std::ranges::equal(ByteView(encoded, static_cast<size_t>(encodedLength)), spki))
    return fail(Reason::KeyMismatch, "the certification request is for another key than the one asked to sign it");
  return {};
}

}  // namespace wayleave::broker
