#include "tls/tls_error.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>

#include <array>

#include <string>

namespace wayleave::tls {
namespace {

// The alert the gateway sent, if that is why the call failed: OpenSSL reports alert N as reason 1000 + N.
std::optional<int> receivedAlert(unsigned long code) {
  if (ERR_GET_LIB(code) != ERR_LIB_SSL) return std::nullopt;
  const int reason = ERR_GET_REASON(code);
  if (reason < SSL_AD_REASON_OFFSET || reason > SSL_AD_REASON_OFFSET + 255) return std::nullopt;
  return reason - SSL_AD_REASON_OFFSET;
}

bool speaksOfOurCertificate(int alert) {
  switch (alert) {
    case SSL_AD_NO_CERTIFICATE:  // NOLINT: one list of alerts, RFC 8446 section 6.2
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_REVOKED:
    case SSL_AD_CERTIFICATE_EXPIRED:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_UNKNOWN_CA:
    case SSL_AD_ACCESS_DENIED:
    case SSL_AD_CERTIFICATE_REQUIRED: return true;
    default: return false;
  }
}

Error untrusted(SSL* connection, long verdict) {
  std::string message = fmt::format("the gateway's certificate does not verify: {}", X509_verify_cert_error_string(verdict));
  const auto* subject = static_cast<const std::string*>(SSL_get_app_data(connection));
  if (subject != nullptr && !subject->empty()) message += fmt::format(" ({})", *subject);
  std::string hint;
  if (verdict == X509_V_ERR_HOSTNAME_MISMATCH || verdict == X509_V_ERR_IP_ADDRESS_MISMATCH)
    hint = "use the name in the gateway's certificate as the gateway's host";
  else if (verdict == X509_V_ERR_CERT_HAS_EXPIRED || verdict == X509_V_ERR_CERT_NOT_YET_VALID)
    hint = "check this machine's clock and the gateway's certificate";
  else
    hint = "the profile must carry the authority that issued the gateway's certificate";
  return {Reason::GatewayUntrusted, std::move(message), std::move(hint)};
}

}  // namespace

int rememberRejected(int accepted, X509_STORE_CTX* store) {
  if (accepted == 1) return 1;
  auto* connection = static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  auto* subject = connection != nullptr ? static_cast<std::string*>(SSL_get_app_data(connection)) : nullptr;
  X509* certificate = X509_STORE_CTX_get_current_cert(store);
  if (subject != nullptr && certificate != nullptr) {
    std::array<char, 256> text{};
    X509_NAME_oneline(X509_get_subject_name(certificate), text.data(), static_cast<int>(text.size()));
    *subject = text.data();
  }
  return 0;
}

Error tlsError(SSL* connection, std::string_view during, std::optional<Error> signError) {
  const unsigned long code = ERR_peek_last_error();
  ERR_clear_error();
  if (signError) return *std::move(signError);
  if (const auto alert = receivedAlert(code)) {
    const char* words = SSL_alert_desc_string_long(*alert);
    if (speaksOfOurCertificate(*alert)) {
      return {Reason::GatewayRefusedCertificate,
              fmt::format("the gateway refused the device's certificate: TLS alert \"{}\"", words),
              "check that the gateway trusts the authority that issued the identity, and that it has not expired"};
    }
    return {Reason::GatewayTlsFailed, fmt::format("{}: the gateway sent TLS alert \"{}\"", during, words), {}};
  }
  if (const long verdict = SSL_get_verify_result(connection);
      verdict != X509_V_OK && ERR_GET_LIB(code) == ERR_LIB_SSL && ERR_GET_REASON(code) == SSL_R_CERTIFICATE_VERIFY_FAILED)
    return untrusted(connection, verdict);
  const char* words = code != 0 ? ERR_reason_error_string(code) : nullptr;
  return {Reason::GatewayTlsFailed, fmt::format("{}: {}", during, words != nullptr ? words : "unknown TLS failure"), {}};
}

}  // namespace wayleave::tls
