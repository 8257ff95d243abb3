// com.apple.security.acme and com.apple.security.scep: identities that the device enrols for.

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "management/payload_reader.h"

namespace wayleave::management {
namespace {

bool isHttpUrl(std::string_view url, std::string_view scheme) {
  return url.starts_with(scheme) && url.size() > scheme.size() && url[scheme.size()] != '/' &&
         url.find_first_of(" \t\r\n\"<>\\") == std::string_view::npos;
}

// UsageFlags and Key Usage: bit 1 signing, bit 4 encryption.
std::optional<int> readUsage(Keys& keys, std::string_view key) {
  const auto bits = keys.integer(key, Need::Optional, 0, INT32_MAX);
  if (!bits) return std::nullopt;
  if ((*bits & ~int64_t{5}) != 0) {
    keys.error(key, fmt::format("is {}; only the bits 1 (signing) and 4 (encryption) have a meaning", *bits));
    return std::nullopt;
  }
  return static_cast<int>(*bits);
}

// Ours: {KeyIdentifier: string, HMACKey: data}.
std::optional<AcmeExternalAccount> readExternalAccount(Keys& keys) {
  const plist::Dictionary* dictionary = keys.dictionary("ExternalAccountBinding");
  if (dictionary == nullptr) return std::nullopt;
  Keys inner(*dictionary, keys.pathOf("ExternalAccountBinding"), keys.report());
  const std::string* identifier = inner.string("KeyIdentifier", Need::Required);
  const Bytes* hmacKey = inner.data("HMACKey", Need::Required);
  inner.finish();
  if (identifier == nullptr || hmacKey == nullptr) return std::nullopt;
  return AcmeExternalAccount{*identifier, Secret(*hmacKey)};
}

// Who may use and export the key. A declaration says it in the configuration, not in the credential's document.
template <typename Payload>
void readAccess(Keys& keys, Payload& payload, bool ofProfile) {
  if (!ofProfile) {
    for (const std::string_view key : {"KeyIsExtractable", "AllowAllAppsAccess"})
      keys.mistaken(key, "it is a key of profiles and of com.apple.configuration.security.identity");
    return;
  }
  payload.keyIsExtractable = keys.boolean("KeyIsExtractable").value_or(true);
  payload.allowAllAppsAccess = keys.boolean("AllowAllAppsAccess").value_or(false);
}

}  // namespace

AcmePayload readAcmePayload(Keys& keys, const ReadContext&, AcmeForm form) {
  AcmePayload payload;
  if (const std::string* url = keys.string("DirectoryURL", Need::Required)) {
    payload.directoryUrl = *url;
    if (!isHttpUrl(*url, "https://")) keys.error("DirectoryURL", "is not an https URL");
  }
  if (const std::string* identifier = keys.string("ClientIdentifier", Need::Required))
    payload.clientIdentifier = *identifier;

  const auto size = keys.integer("KeySize", Need::Required, 0, 65536);
  const auto type = keys.choice<KeyType>(
      "KeyType", {{"RSA", KeyType::Rsa}, {"ECSECPrimeRandom", KeyType::EcSecPrimeRandom}}, Need::Required);
  const auto hardwareBound = keys.boolean("HardwareBound", Need::Required);
  const auto attest = keys.boolean("Attest");
  if (size && type && hardwareBound) {
    const AcmeKeyRequest request{*type, *size, *hardwareBound, attest.value_or(false)};
    for (AcmeKeyRefusal& refusal : checkAcmeKey(request, form))
      keys.error(refusal.key, std::move(refusal.message), std::move(refusal.hint));
    if (*type == KeyType::Rsa && *size < 2048) keys.warn("KeySize", "RSA keys below 2048 bits are refused by most CAs");
    if (*type == KeyType::EcSecPrimeRandom && *size == 192 && form == AcmeForm::ProfilePayload)
      keys.warn("KeySize", "P-192 is allowed, but refused by most CAs and absent from declarations");
    payload.keyType = *type;
    payload.keySize = static_cast<int>(*size);
    payload.hardwareBound = *hardwareBound;
  }
  payload.attest = attest.value_or(false);

  payload.subject = readSubject(keys, Need::Required);
  payload.subjectAltNames = readSubjectAltNames(keys);
  payload.usageFlags = readUsage(keys, "UsageFlags");
  if (auto usages = keys.strings("ExtendedKeyUsage")) {
    for (size_t i = 0; i < usages->size(); ++i)
      if (!isDottedOid((*usages)[i]))
        keys.report().error(plist::childPath(keys.pathOf("ExtendedKeyUsage"), i),
                            fmt::format("\"{}\" is not a dotted OID", shown((*usages)[i])),
                            "client authentication is 1.3.6.1.5.5.7.3.2");
    payload.extendedKeyUsage = std::move(*usages);
  }
  readAccess(keys, payload, form == AcmeForm::ProfilePayload);
  if (const std::string* url = keys.string("AttestationURL")) {
    payload.attestationUrl = *url;
    while (payload.attestationUrl.ends_with('/')) payload.attestationUrl.pop_back();
    if (!isHttpUrl(*url, "https://")) keys.error("AttestationURL", "is not an https URL");
  } else if (payload.attest) {
    keys.warn("AttestationURL",
              "is missing: Apple's devices need no such key, but here Attest needs the attestation CA "
              "that vouches for this machine's TPM");
  }
  payload.externalAccount = readExternalAccount(keys);
  keys.mistaken("KeyUsage", "ACME payloads call it UsageFlags");
  keys.mistaken("Key Usage", "ACME payloads call it UsageFlags");
  keys.mistaken("URL", "ACME payloads call it DirectoryURL");
  keys.mistaken("Keysize", "ACME payloads call it KeySize");
  keys.finish();
  return payload;
}

namespace {

void readFingerprint(Keys& keys, ScepPayload& payload) {
  const Bytes* fingerprint = keys.data("CAFingerprint");
  if (fingerprint == nullptr) return;
  constexpr std::array<size_t, 6> kLengths{16, 20, 28, 32, 48, 64};
  if (std::ranges::find(kLengths, fingerprint->size()) == kLengths.end())
    keys.error("CAFingerprint", fmt::format("has {} bytes, which no digest has", fingerprint->size()),
               "the SHA-256 of the CA certificate in DER has 32");
  else if (fingerprint->size() <= 20)
    keys.warn("CAFingerprint", fingerprint->size() == 16 ? "is an MD5 digest" : "is a SHA-1 digest", "use SHA-256");
  payload.caFingerprint = *fingerprint;
}

}  // namespace

void readScepContent(Keys& keys, ScepPayload& payload, bool ofProfile) {
  if (const std::string* url = keys.string("URL", Need::Required)) {
    payload.url = *url;
    if (isHttpUrl(*url, "http://")) {
      if (!keys.has("CAFingerprint"))
        keys.warn("URL",
                  "is plain http: the challenge is encrypted to the CA, but the CA's certificate is not authenticated "
                  "without CAFingerprint",
                  "add the SHA-256 of the CA's certificate as CAFingerprint");
    } else if (!isHttpUrl(*url, "https://")) {
      keys.error("URL", "is neither an http nor an https URL");
    }
  }
  if (const std::string* name = keys.string("Name")) payload.name = *name;
  if (const std::string* challenge = keys.string("Challenge")) payload.challenge = Secret::copyOf(*challenge);
  payload.subject = readSubject(keys, Need::Optional);
  payload.subjectAltNames = readSubjectAltNames(keys);
  if (const auto size = keys.integer("Keysize", Need::Optional, 0, 65536)) {
    if (*size != 1024 && *size != 2048 && *size != 4096)
      keys.error("Keysize", fmt::format("is {}, must be 1024, 2048 or 4096", *size));
    payload.keySize = static_cast<int>(*size);
  }
  if (payload.keySize == 1024)
    keys.warn(
        "Keysize",
        keys.has("Keysize") ? "RSA keys of 1024 bits are weak" : "is missing, and the default of 1024 bits is weak",
        "use 2048");
  if (const std::string* type = keys.string("Key Type"); type != nullptr && *type != "RSA")
    keys.error("Key Type", fmt::format("is \"{}\"; SCEP keys are always RSA", shown(*type)));
  payload.keyUsage = readUsage(keys, "Key Usage").value_or(0);
  readFingerprint(keys, payload);
  payload.retries = static_cast<int>(keys.integer("Retries", Need::Optional, 0, 1000).value_or(3));
  payload.retryDelay = std::chrono::seconds(keys.integer("RetryDelay", Need::Optional, 0, 86400).value_or(10));
  readAccess(keys, payload, ofProfile);
  keys.mistaken("KeyType", "SCEP payloads spell it with a space: Key Type");
  keys.mistaken("KeyUsage", "SCEP payloads spell it with a space: Key Usage");
  keys.mistaken("KeySize", "SCEP payloads spell it Keysize");
  keys.mistaken("ExtendedKeyUsage", "the SCEP server decides the extended key usage");
  keys.mistaken("GetCACaps", "the server is asked for its capabilities");
  keys.finish();
}

ScepPayload readScepPayload(Keys& keys, const ReadContext& context) {
  ScepPayload payload;
  const plist::Dictionary* content = keys.dictionary("PayloadContent", Need::Required);
  for (const std::string_view key : {"URL", "Challenge", "Keysize", "Subject", "Name"})
    keys.mistaken(key, "SCEP settings stand inside the dictionary PayloadContent");
  keys.finish();
  if (content == nullptr) return payload;
  Keys inner(*content, keys.pathOf("PayloadContent"), context.report);
  readScepContent(inner, payload, true);
  return payload;
}

}  // namespace wayleave::management
