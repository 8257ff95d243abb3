#pragma once

// What the declarations engine needs of the network and of this machine.

#include <map>
#include <string>

#include <nlohmann/json.hpp>

#include "enrolment/mdm/client.h"
#include "enrolment/mdm/device.h"
#include "management/declarations/server.h"

namespace wayleave::enrolment::mdm {

// Downloads assets; with the management identity where one is asked for. `client` may be null (this machine cannot be
// enrolled) and outlives the fetcher.
management::AssetFetcher assetFetcher(Client* client);

// Status items by Apple's names (device.operating-system.family, …) for subscriptions and predicates.
std::map<std::string, nlohmann::json> statusItems(const Device& device);

}  // namespace wayleave::enrolment::mdm
