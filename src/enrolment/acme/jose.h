#pragma once

// The ACME account key and the flattened JWS it signs (RFC 7515, RFC 8555 section 6.2). The account key proves the account,
// never the device: it lives with managementd, one per directory, because it signs every request.

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "base/bytes.h"
#include "base/result.h"
#include "keys/software_key.h"

namespace wayleave::enrolment::acme {

// External account binding (RFC 8555 section 7.3.4): what an administrator got from the CA.
struct ExternalAccount {
  std::string keyIdentifier;
  Secret hmacKey;
};

class AccountKey {
 public:
  // Reads `path`, or makes a P-256 key there (0600) when the file does not exist; any other failure to read is an error and
  // makes nothing.
  static Result<AccountKey> openOrCreate(const std::string& path);

  // RFC 7638: required members only, lexical order, no white space; and its SHA-256 in base64url.
  const std::string& jwk() const { return jwk_; }
  const std::string& thumbprint() const { return thumbprint_; }

  // `payload` empty = POST-as-GET. `accountUrl` empty = signed with jwk. Errors: Internal (OpenSSL).
  Result<std::string> sign(std::string_view url, std::string_view nonce, std::string_view accountUrl,
                           std::string_view payload) const;
  Result<std::string> bindExternalAccount(const ExternalAccount& account, std::string_view newAccountUrl) const;

 private:
  explicit AccountKey(std::unique_ptr<keys::SoftwareKey> key);
  std::unique_ptr<keys::SoftwareKey> key_;
  std::string jwk_, thumbprint_;
};

// A DER ECDSA signature as JOSE has it: R and S, each left-padded to `coordinateBytes`. Errors: BadInput.
Result<Bytes> rawEcdsaSignature(ByteView der, size_t coordinateBytes);

}  // namespace wayleave::enrolment::acme
