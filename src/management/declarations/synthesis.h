#pragma once

// A configuration and its assets as the profile that means the same, so that the Installer carries it out like any other.

#include <expected>
#include <map>
#include <string>
#include <string_view>

#include "management/declarations/asset.h"
#include "management/declarations/declaration.h"

namespace wayleave::management {

// Every profile made of a declaration is called so; no other profile may be.
inline constexpr std::string_view kDeclaredPrefix = "declared:";

// "declared:mdm:com.example.vpn". `source`: "mdm", or the identifier of the profile that carries the declarations.
std::string declaredIdentifier(std::string_view source, std::string_view configuration);
// RFC 9562 version 8, made of a SHA-256: the same text gives the same UUID.
std::string derivedUuid(std::string_view text);
// The PayloadUUID of an asset's payload in a configuration's profile.
std::string assetPayloadUuid(std::string_view source, std::string_view configuration, std::string_view asset);

struct Ingredient {
  const Declaration* declaration = nullptr;
  FetchedAsset content;
};

// Whether a configuration is carried out as a profile at all; subscriptions and tests are not.
bool becomesProfile(std::string_view configurationType);
// Assets whose content becomes a payload of the profile; an app's passwords and data do not.
bool isIngredient(std::string_view assetType);

// The bytes of the profile. `revision` becomes its PayloadUUID, by which an installed profile is recognised as this one.
// Problems: Error.ConfigurationNotSupported, Error.ConfigurationIsInvalid, Error.AssetCannotBeDeserialized.
std::expected<Secret, AssetProblem> profileOf(std::string_view source, const Declaration& configuration, const std::string& revision,
                                              const std::map<std::string, Ingredient>& assets);
// The same for a legacy configuration, whose profile is there already. Errors also: Error.ConfigurationCannotBeDeserialized.
std::expected<Secret, AssetProblem> legacyProfileOf(std::string_view source, const Declaration& configuration, const std::string& revision,
                                                    ByteView profile, Wall now);

// The identities that an app.managed configuration gives to each composed identifier: name → asset identifier.
std::map<std::string, std::map<std::string, std::string>> managedIdentities(const Declaration& configuration);

}  // namespace wayleave::management
