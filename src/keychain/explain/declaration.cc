#include "keychain/explain/declaration.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "keychain/explain/keychain_explanation.h"

namespace wayleave::keychain::explain {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxJsonBytes = 8 * 1024 * 1024;
constexpr int kMaxDepth = 64;  // no declaration nests deeper than a dozen
constexpr size_t kMaxDeclarations = 1000;

std::string textIn(const Json& object, const char* key) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}
const Json* member(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}
bool flagIn(const Json& object, const char* key) {
  const Json* value = member(object, key);
  return value != nullptr && value->is_boolean() && value->get<bool>();
}

// com.apple.credential.acme: the key rules of the declaration's document.
void acmeDocument(DeclarationExplanation& out, const Json& document, const std::string& name) {
  Delivery delivery{.source = DeliverySource::Acme,
                    .hardwareBound = flagIn(document, "HardwareBound"),
                    .attest = flagIn(document, "Attest")};
  const std::string keyType = textIn(document, "KeyType");
  const Json* size = member(document, "KeySize");
  const int64_t bits = size != nullptr && size->is_number_integer() ? size->get<int64_t>() : 0;
  const auto mistake = [&](std::string text) { out.mistakes.push_back(name + ": " + std::move(text)); };
  for (const char* required : {"DirectoryURL", "ClientIdentifier", "KeyType", "KeySize", "HardwareBound", "Subject"})
    if (member(document, required) == nullptr) mistake(fmt::format("{} is missing", required));
  if (!textIn(document, "DirectoryURL").empty() && !textIn(document, "DirectoryURL").starts_with("https://"))
    mistake("DirectoryURL is not https");
  if (keyType == "RSA" && delivery.hardwareBound) mistake("HardwareBound must be false for RSA keys");
  if (keyType == "RSA" && size != nullptr && (bits < 1024 || bits > 4096 || bits % 8 != 0))
    mistake("KeySize of an RSA key is a multiple of 8 from 1024 to 4096");
  if (keyType == "ECSECPrimeRandom" && size != nullptr && bits != 256 && bits != 384 && bits != 521)
    mistake("KeySize of an ECSECPrimeRandom key is 256, 384 or 521 here");
  if (keyType == "ECSECPrimeRandom" && delivery.hardwareBound && bits != 256 && bits != 384)
    mistake("HardwareBound needs a KeySize of 256 or 384");
  if (!keyType.empty() && keyType != "RSA" && keyType != "ECSECPrimeRandom")
    mistake("KeyType is RSA or ECSECPrimeRandom");
  if (delivery.attest && !delivery.hardwareBound) mistake("Attest needs HardwareBound");
  for (const char* absent : {"KeyIsExtractable", "AllowAllAppsAccess"})
    if (member(document, absent) != nullptr)
      mistake(fmt::format("{} is a key of the profile payload, not of this document", absent));
  out.identities.push_back({name, delivery});
}

void vpn(DeclarationExplanation& out, const Json& payload, const std::string& name) {
  const Json* authentication = member(payload, "Authentication");
  const std::string asset =
      authentication != nullptr ? textIn(*authentication, "IdentityAssetReference") : std::string();
  if (!asset.empty())
    out.uses.push_back(
        fmt::format("{}: the provider receives the identity of asset {} as protocolConfiguration.identityReference",
                    name, printable(asset)));
  const std::string method = authentication != nullptr ? textIn(*authentication, "Method") : std::string();
  if (method.find("Certificate") != std::string::npos && asset.empty())
    out.mistakes.push_back(name + ": Method asks for a certificate and IdentityAssetReference is missing");
  out.notes.push_back(name +
                      ": there is no transparent-proxy provider type in this declaration; a transparent proxy comes by "
                      "com.apple.vpn.managed in a legacy profile");
}

void managedApp(DeclarationExplanation& out, const Json& payload, const std::string& name) {
  const auto identities = [&](const Json& config, const std::string& who) {
    const Json* list = member(config, "Identities");
    if (list == nullptr || !list->is_array()) return;
    for (const Json& one : *list)
      out.uses.push_back(fmt::format("{}: {} asks the ManagedApp framework for `{}` (asset {})", name, printable(who),
                                     printable(textIn(one, "Identifier")), printable(textIn(one, "AssetReference"))));
  };
  if (const Json* app = member(payload, "AppConfig")) identities(*app, "the app");
  if (const Json* extensions = member(payload, "ExtensionConfigs"); extensions != nullptr && extensions->is_object())
    for (const auto& [id, config] : extensions->items()) identities(config, id);
  out.notes.push_back(name +
                      ": AppConfig and ExtensionConfigs need macOS 27; whether a system extension may call the "
                      "framework is not documented");
}

void declaration(DeclarationExplanation& out, const Json& one) {
  const std::string type = textIn(one, "Type");
  const std::string name = printable(fmt::format("{} ({})", textIn(one, "Identifier"), type));
  const Json empty = Json::object();
  const Json& payload = member(one, "Payload") != nullptr ? *member(one, "Payload") : empty;
  for (const char* required : {"Identifier", "ServerToken"})
    if (textIn(one, required).empty()) out.mistakes.push_back(fmt::format("{}: {} is missing", name, required));
  constexpr std::string_view kAsset = "com.apple.asset.credential.";
  if (type.starts_with(kAsset)) {
    const std::string_view kind = std::string_view(type).substr(kAsset.size());
    Delivery delivery;
    if (kind == "acme")
      delivery = {.source = DeliverySource::Acme, .hardwareBoundKnown = false};
    else if (kind == "scep")
      delivery.source = DeliverySource::Scep;
    else if (kind != "identity")
      return;
    const Json* reference = member(payload, "Reference");
    const std::string url = reference != nullptr ? textIn(*reference, "DataURL") : std::string();
    if (!url.starts_with("https://")) out.mistakes.push_back(name + ": Reference.DataURL is missing or not https");
    out.identities.push_back({name, delivery});
    out.notes.push_back(name + ": the credential document at Reference.DataURL holds the rest; explain that file too");
  } else if (type.starts_with("com.apple.configuration.network.vpn.")) {
    vpn(out, payload, name);
  } else if (type == "com.apple.configuration.app.managed") {
    managedApp(out, payload, name);
  } else if (type.starts_with("com.apple.configuration.legacy")) {
    out.notes.push_back(name + ": brings a profile by its URL or asset; explain that profile");
  }
}

}  // namespace

Result<DeclarationExplanation> explainDeclaration(ByteView bytes) {
  if (bytes.size() > kMaxJsonBytes) return fail(Reason::BadInput, "declaration: larger than what is read");
  bool tooDeep = false;
  const Json document = Json::parse(
      bytes.begin(), bytes.end(),
      [&](int depth, Json::parse_event_t, Json&) {
        tooDeep = tooDeep || depth > kMaxDepth;
        return !tooDeep;
      },
      false);
  if (tooDeep || document.is_discarded())
    return fail(Reason::BadInput, tooDeep ? "declaration: nested too deep" : "declaration: not JSON");
  DeclarationExplanation out;
  if (document.is_array()) {
    if (document.size() > kMaxDeclarations) return fail(Reason::BadInput, "declaration: too many in one file");
    for (const Json& one : document) declaration(out, one);
  } else if (!textIn(document, "Type").empty()) {
    declaration(out, document);
  } else if (member(document, "DirectoryURL") != nullptr) {
    acmeDocument(out, document, "credential document (com.apple.credential.acme)");
  } else if (member(document, "Identity") != nullptr && member(document, "Password") != nullptr) {
    out.identities.push_back(
        {"credential document (com.apple.credential.identity)", {.source = DeliverySource::Pkcs12}});
  } else if (member(document, "URL") != nullptr &&
             (member(document, "Keysize") != nullptr || member(document, "Challenge") != nullptr)) {
    out.identities.push_back({"credential document (com.apple.credential.scep)", {.source = DeliverySource::Scep}});
  }
  if (out.identities.empty() && out.uses.empty() && out.mistakes.empty() && out.notes.empty())
    return fail(Reason::BadInput, "declaration: neither a declaration nor a credential document about identities");
  return out;
}

}  // namespace wayleave::keychain::explain
