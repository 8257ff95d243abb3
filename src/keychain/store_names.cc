#include "keychain/store_names.h"

#include <fmt/format.h>
#include <openssl/x509.h>

#include "base/osstatus.h"
#include "keychain/reference.h"
#include "keys/openssl.h"

namespace wayleave::keychain {
namespace {

Result<keys::X509Ptr> decode(ByteView certificate) {
  const uint8_t* at = certificate.data();
  keys::X509Ptr decoded(d2i_X509(nullptr, &at, static_cast<long>(certificate.size())));
  if (!decoded) return std::unexpected(keys::opensslError(Reason::BadInput, "certificate cannot be decoded"));
  if (at != certificate.data() + certificate.size()) {
    return fail(Reason::BadInput,
                fmt::format("{} bytes follow the certificate", certificate.data() + certificate.size() - at));
  }
  return decoded;
}

std::unexpected<Error> notOurs(std::string message) {
  return fail(Reason::NotFound, std::move(message), "wayleave identity list shows the references this machine has",
              errSecItemNotFound);
}

}  // namespace

Result<CertificateName> certificateName(ByteView certificate) {
  const Result<keys::X509Ptr> decoded = decode(certificate);
  if (!decoded) return std::unexpected(decoded.error());

  const unsigned char* name = nullptr;
  size_t nameLength = 0;
  if (X509_NAME_get0_der(X509_get_issuer_name(decoded->get()), &name, &nameLength) != 1)
    return std::unexpected(keys::opensslError(Reason::BadInput, "certificate's issuer"));
  CertificateName out;
  out.issuer.assign(name, name + nameLength);
  Result<Bytes> normalised = normalisedName(out.issuer);
  if (!normalised) return withContext(normalised.error(), "certificate's issuer");
  out.normalisedIssuer = *std::move(normalised);

  // Encoded again rather than taken from the sign and magnitude: that keeps a leading 00 and gives two's complement.
  const ASN1_INTEGER* serial = X509_get0_serialNumber(decoded->get());
  const int length = i2d_ASN1_INTEGER(serial, nullptr);
  if (length < 3) return std::unexpected(keys::opensslError(Reason::BadInput, "certificate's serial number"));
  Bytes encoded(static_cast<size_t>(length));
  uint8_t* at = encoded.data();
  i2d_ASN1_INTEGER(serial, &at);
  // RFC 5280 allows 20 octets; certificates with a few more exist, and one length octet covers them.
  if (encoded[1] >= 0x80) return fail(Reason::BadInput, fmt::format("serial number of {} bytes", length));
  out.serial.assign(encoded.begin() + 2, encoded.end());
  return out;
}

Status checkCertificateHasKey(ByteView certificate, ByteView spki) {
  const Result<keys::X509Ptr> decoded = decode(certificate);
  if (!decoded) return std::unexpected(decoded.error());
  const uint8_t* at = spki.data();
  const keys::EvpPkeyPtr key(d2i_PUBKEY(nullptr, &at, static_cast<long>(spki.size())));
  if (!key) return std::unexpected(keys::opensslError(Reason::BadInput, "public key cannot be decoded"));
  const EVP_PKEY* certified = X509_get0_pubkey(decoded->get());
  if (certified != nullptr && EVP_PKEY_eq(certified, key.get()) == 1) return {};
  Error error = keys::opensslError(Reason::KeyMismatch, "");
  error.message = "the certificate is for another key";
  return std::unexpected(std::move(error));
}

Result<std::variant<FileName, RowUuid>> nameIn(ByteView reference) {
  auto key = lookupKey(reference);
  if (!key && key.error().reason == Reason::Unsupported) return notOurs(std::move(key.error().message));
  if (!key) {
    Error error = std::move(key.error());
    if (error.osStatus == 0) error.osStatus = errSecParam;
    return std::unexpected(std::move(error));
  }
  if (auto* file = std::get_if<FileItemKey>(&*key))
    return FileName{std::move(file->keychainPath), std::move(file->issuer), std::move(file->serial)};
  const auto& row = std::get<DataProtectionItemKey>(*key);
  // There are no identity rows: `idnt` carries the UUID of the certificate's row. A key's row has a UUID of its own.
  if (row.itemClass != ItemClass::Certificate && row.itemClass != ItemClass::Identity)
    return notOurs(fmt::format("a reference of class {}: identities are found by cert or idnt", fourcc(row.itemClass)));
  return row.uuid;
}

}  // namespace wayleave::keychain
