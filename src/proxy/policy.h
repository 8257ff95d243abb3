#pragma once

// What the proxy is told to do: the configurations in the order they are asked. Immutable; a change is a new Policy.

#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "capture/capture.h"
#include "localapi/proxy_configuration.h"
#include "rules/network_rule.h"
#include "tunnel/stream.h"

namespace wayleave::proxy {

struct PolicyEntry {
  std::string id;             // of the configuration; what flow records and drain requests name
  uint64_t generation = 0;    // changes when the gateway or its trust changes: new tunnels, old ones drain
  rules::RuleSet rules;
  localapi::FailurePolicy failurePolicy = localapi::FailurePolicy::Block;
  localapi::ConnectTarget connectTarget = localapi::ConnectTarget::Address;
  std::vector<capture::Endpoint> gateways;  // known addresses; flows to them go direct (no tunnel through itself)
  // Called once per worker, on its loop.
  std::function<std::unique_ptr<tunnel::Opener>(boost::asio::io_context&)> makeOpener;
};

struct Policy {
  std::vector<PolicyEntry> entries;
};

}  // namespace wayleave::proxy
