#include "keychain/explain/declaration.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "keychain/explain/keychain_explanation.h"

namespace wayleave::keychain::explain {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxJsonBytes = 8 * 1024 * 1024;
constexpr int kMaxDepth = 64;  // no declaration nests deeper than a dozen

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

void vpn(DeclarationExplanation& out, const Json& payload, const std::string& name) {
  const Json* authentication = member(payload, "Authentication");
  const std::string asset =
      authentication != nullptr ? textIn(*authentication, "IdentityAssetReference") : std::string();
  if (!asset.empty())
    out.uses.push_back(
        fmt::format("{}: the provider receives the identity of asset {} as protocolConfiguration.identityReference",
                    name, printable(asset)));
  out.notes.push_back(name + (textIn(payload, "SubType") == "com.wayleave.proxy"
                                  ? ": a transparent proxy to Wayleave alone; Macs know none in this declaration"
                                  : ": there is no transparent-proxy provider type in this declaration; on Macs a transparent proxy "
                                    "comes by com.apple.vpn.managed in a legacy profile"));
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
    out.identities.push_back({name, delivery});
    out.notes.push_back(name + ": the credential document at Reference.DataURL holds the rest; explain that file too");
  } else if (type.starts_with("com.apple.configuration.network.vpn.")) {
    vpn(out, payload, name);
  } else if (type == "com.apple.configuration.security.identity") {
    if (const std::string asset = textIn(payload, "CredentialAssetReference"); !asset.empty())
      out.uses.push_back(fmt::format("{}: the identity of asset {} goes into the keychain, for programs that look for it there", name, printable(asset)));
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
  if (!document.is_object()) return fail(Reason::BadInput, "declaration: no JSON object");
  DeclarationExplanation out;
  const auto identity = [&](const char* kind, Delivery delivery) {
    out.identities.push_back({fmt::format("credential document ({})", kind), delivery});
  };
  if (!textIn(document, "Type").empty())
    declaration(out, document);
  else if (member(document, "DirectoryURL") != nullptr)
    identity("com.apple.credential.acme", {.source = DeliverySource::Acme, .hardwareBound = flagIn(document, "HardwareBound"), .attest = flagIn(document, "Attest")});
  else if (member(document, "Identity") != nullptr && member(document, "Password") != nullptr)
    identity("com.apple.credential.identity", {.source = DeliverySource::Pkcs12});
  else if (member(document, "URL") != nullptr && (member(document, "Keysize") != nullptr || member(document, "Challenge") != nullptr || member(document, "Subject") != nullptr))
    identity("com.apple.credential.scep", {.source = DeliverySource::Scep});
  return out;
}

}  // namespace wayleave::keychain::explain
