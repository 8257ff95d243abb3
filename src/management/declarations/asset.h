#pragma once

// What an asset refers to, obtained and verified, and the payload that it becomes.

#include <expected>
#include <stop_token>

#include "management/declarations/declaration.h"
#include "management/declarations/server.h"

namespace wayleave::management {

// Apple's limit for the data of an app's configuration; a credential document is far smaller.
inline constexpr size_t kMostAssetBytes = 1024 * 1024;

struct AssetProblem {
  DeclarationReason reason;
  bool mayPass = false;  // worth another try later: a server that did not answer
};

// The content, checked against Size, Hash-SHA-256 and ContentType. `offline`: the declaration came without a server, so an
// asset that says nothing about authentication is fetched without the device's identity.
// Problems: Error.AssetCannotBeDownloaded, Error.AssetCannotBeVerified, Error.MissingState (it was carried inline, and what
// was carried is not kept).
std::expected<FetchedAsset, AssetProblem> obtainAsset(const Declaration& asset, const AssetFetcher& fetch, bool offline,
                                                      const std::vector<std::string>& trustAnchors, std::stop_token stop);

// The payload of a profile that means what the asset's document says; without its header.
// Problems: Error.AssetCannotBeDeserialized.
std::expected<plist::Dictionary, AssetProblem> payloadOf(const Declaration& asset, const FetchedAsset& content);

}  // namespace wayleave::management
