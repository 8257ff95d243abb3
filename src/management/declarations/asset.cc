#include "management/declarations/asset.h"

#include <algorithm>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "management/declarations/declaration_types.h"
#include "management/declarations/json_document.h"
#include "management/documents/credential_document.h"

namespace wayleave::management {
namespace {

std::unexpected<AssetProblem> problem(std::string code, const std::string& sentence, bool mayPass = false) {
  return std::unexpected(AssetProblem{{std::move(code), sentence, {{"Error", sentence}}}, mayPass});
}
std::unexpected<AssetProblem> unreadable(const std::string& sentence) { return problem("Error.AssetCannotBeDeserialized", sentence); }

// RFC 2397: data:[media type][;base64],content. Only the base64 form.
Result<FetchedAsset> inlineContent(std::string_view url) {
  const std::string_view rest = url.substr(std::string_view("data:").size());
  const size_t comma = rest.find(',');
  constexpr std::string_view kBase64 = ";base64";
  if (comma == std::string_view::npos || !rest.substr(0, comma).ends_with(kBase64))
    return fail(Reason::BadInput, "the data: URL is not of the form data:TYPE;base64,…");
  Result<Bytes> body = fromBase64(rest.substr(comma + 1));
  if (!body) return withContext(body.error(), "the data: URL");
  return FetchedAsset{Secret(std::move(*body)), std::string(rest.substr(0, comma - kBase64.size()))};
}

std::string mediaType(std::string_view header) {
  std::string out(header.substr(0, header.find(';')));
  while (out.ends_with(' ')) out.pop_back();
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  return out;
}

bool comesBack(Reason reason) {
  return reason == Reason::Unavailable || reason == Reason::DeadlineExceeded || reason == Reason::Busy || reason == Reason::ServerError ||
         reason == Reason::RateLimited || reason == Reason::Cancelled || reason == Reason::Io;
}

// JSON has no data: base64 strings stand for it.
bool decodeData(plist::Dictionary& dictionary, std::string_view key) {
  plist::Value* value = dictionary.find(key);
  if (value == nullptr || value->string() == nullptr) return true;
  Result<Bytes> bytes = fromBase64(*value->string());
  if (!bytes) return false;
  dictionary.set(std::string(key), std::move(*bytes));
  return true;
}

std::expected<plist::Dictionary, AssetProblem> document(const FetchedAsset& content) {
  Result<JsonDocument> json = readJson(content.body.view());
  if (!json) return unreadable(json.error().message);
  if (json->root.dictionary() == nullptr) return unreadable("is no JSON object");
  return std::move(*json->root.dictionary());
}

std::optional<CredentialKind> credentialKindFor(std::string_view assetType) {
  if (assetType == kAcmeAsset) return CredentialKind::Acme;
  if (assetType == kScepAsset) return CredentialKind::Scep;
  if (assetType == kIdentityAsset) return CredentialKind::Identity;
  return std::nullopt;
}

std::expected<plist::Dictionary, AssetProblem> identityPayload(plist::Dictionary fields) {
  const plist::Value* identity = fields.find("Identity");
  const plist::Value* password = fields.find("Password");
  if (identity == nullptr || identity->string() == nullptr) return unreadable("has no Identity");
  if (password == nullptr || password->string() == nullptr) return unreadable("has no Password");
  Result<Bytes> pkcs12 = fromBase64(*identity->string());
  if (!pkcs12) return unreadable("Identity is not base64: " + pkcs12.error().message);
  plist::Dictionary out;
  out.set("PayloadType", "com.apple.security.pkcs12");
  out.set("Password", *password->string());
  out.set("PayloadContent", std::move(*pkcs12));
  return out;
}

}  // namespace

std::expected<FetchedAsset, AssetProblem> obtainAsset(const Declaration& asset, const AssetFetcher& fetch, bool offline,
                                                      const std::vector<std::string>& trustAnchors, std::stop_token stop) {
  if (!asset.source) return problem("Error.InvalidPayload", "has no Reference");
  const AssetSource& source = *asset.source;
  if (lacksInlineSecret(asset))
    return problem("Error.MissingState", offline ? "what it carried is not kept: install the profile again"
                                                 : "what it carried is not kept: it is asked for again at the next synchronisation");
  Result<FetchedAsset> content = [&]() -> Result<FetchedAsset> {
    if (source.isInline()) return inlineContent(source.url);
    if (!fetch) return fail(Reason::Unsupported, "this daemon was started without a network");
    const bool withIdentity = source.authentication == "MDM" || (source.authentication.empty() && !offline);
    return fetch({source.url, withIdentity, kMostAssetBytes, trustAnchors}, std::move(stop));
  }();
  if (!content) return problem("Error.AssetCannotBeDownloaded", describe(content.error()), comesBack(content.error().reason));
  const ByteView body = content->body.view();
  if (body.size() > kMostAssetBytes) return problem("Error.AssetCannotBeVerified", fmt::format("has {} bytes, more than {}", body.size(), kMostAssetBytes));
  if (source.size && *source.size != body.size())
    return problem("Error.AssetCannotBeVerified", fmt::format("has {} bytes, the declaration says {}", body.size(), *source.size));
  if (!source.sha256.empty() && source.size.value_or(1) != 0 && toHex(sha256(body)) != source.sha256)
    return problem("Error.AssetCannotBeVerified", "has another SHA-256 than the declaration says");
  if (!source.contentType.empty() && mediaType(content->contentType) != mediaType(source.contentType))
    return problem("Error.AssetCannotBeVerified",
                   fmt::format("is of the type \"{}\", the declaration says {}", content->contentType, source.contentType));
  return std::move(*content);
}

std::expected<plist::Dictionary, AssetProblem> payloadOf(const Declaration& asset, const FetchedAsset& content) {
  if (asset.type == kCertificateAsset) {
    plist::Dictionary out;
    const bool pem = asText(content.body.view()).contains("-----BEGIN");
    out.set("PayloadType", pem ? "com.apple.security.pem" : "com.apple.security.pkcs1");
    out.set("PayloadContent", toBytes(content.body.view()));
    return out;
  }
  auto fields = document(content);
  if (!fields) return fields;
  if (const std::optional<CredentialKind> kind = credentialKindFor(asset.type)) {
    std::vector<Finding> findings;
    Report report(findings);
    checkCredentialDocument(*kind, *fields, report);
    if (const auto wrong = std::ranges::find(findings, Severity::Error, &Finding::severity); wrong != findings.end()) return unreadable(describe(*wrong));
  }
  if (asset.type == kIdentityAsset) return identityPayload(std::move(*fields));
  if (asset.type == kAcmeAsset) {
    if (plist::Value* account = fields->find("ExternalAccountBinding"); account != nullptr && account->dictionary() != nullptr)
      if (!decodeData(*account->dictionary(), "HMACKey")) return unreadable("HMACKey is not base64");
    fields->set("PayloadType", "com.apple.security.acme");
    return fields;
  }
  if (asset.type == kScepAsset) {
    if (!decodeData(*fields, "CAFingerprint")) return unreadable("CAFingerprint is not base64");
    plist::Dictionary out;
    out.set("PayloadType", "com.apple.security.scep");
    out.set("PayloadContent", std::move(*fields));
    return out;
  }
  return unreadable(fmt::format("{} is no credential that becomes a payload", asset.type));
}

}  // namespace wayleave::management
