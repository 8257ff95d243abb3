// OnDemandRules: read and checked so that a profile can be judged whole; Wayleave's proxy is always on and does not
// evaluate them.

#include <fmt/format.h>

#include "management/payload_reader.h"

namespace wayleave::management {
namespace {

constexpr size_t kMostRules = 1000;

std::vector<OnDemandAction> readParameters(Keys& rule) {
  std::vector<OnDemandAction> out;
  const plist::Array* items = rule.array("ActionParameters");
  if (items == nullptr) return out;
  for (size_t i = 0; i < items->size() && i < kMostRules; ++i) {
    const std::string path = plist::childPath(rule.pathOf("ActionParameters"), i);
    const plist::Dictionary* dictionary = (*items)[i].dictionary();
    if (dictionary == nullptr) {
      rule.report().error(path, "must be a dictionary");
      continue;
    }
    Keys keys(*dictionary, path, rule.report());
    OnDemandAction action;
    action.domains = keys.strings("Domains", Need::Required).value_or(std::vector<std::string>{});
    action.neverConnect =
        keys.choice<bool>("DomainAction", {{"ConnectIfNeeded", false}, {"NeverConnect", true}}, Need::Required)
            .value_or(false);
    action.requiredDnsServers = keys.strings("RequiredDNSServers").value_or(std::vector<std::string>{});
    if (const std::string* probe = keys.string("RequiredURLStringProbe")) action.requiredUrlProbe = *probe;
    if (action.neverConnect && (!action.requiredDnsServers.empty() || !action.requiredUrlProbe.empty()))
      keys.warn("DomainAction", "is NeverConnect: the conditions beside it have no effect");
    keys.finish();
    out.push_back(std::move(action));
  }
  return out;
}

OnDemandRule readRule(Keys& keys) {
  using Action = OnDemandRule::Action;
  OnDemandRule rule;
  rule.action = keys.choice<Action>("Action",
                                    {{"Allow", Action::Allow},
                                     {"Connect", Action::Connect},
                                     {"Disconnect", Action::Disconnect},
                                     {"EvaluateConnection", Action::EvaluateConnection},
                                     {"Ignore", Action::Ignore}},
                                    Need::Required)
                    .value_or(Action::Connect);
  if (rule.action == Action::Allow) keys.warn("Action", "Allow is deprecated");
  rule.actionParameters = readParameters(keys);
  if (rule.action == Action::EvaluateConnection && !keys.has("ActionParameters"))
    keys.warn("ActionParameters", "is missing, but Action is EvaluateConnection");
  if (rule.action != Action::EvaluateConnection && keys.has("ActionParameters"))
    keys.warn("ActionParameters", "has an effect only with Action EvaluateConnection");
  rule.dnsDomainMatch = keys.strings("DNSDomainMatch").value_or(std::vector<std::string>{});
  rule.dnsServerAddressMatch = keys.strings("DNSServerAddressMatch").value_or(std::vector<std::string>{});
  rule.ssidMatch = keys.strings("SSIDMatch").value_or(std::vector<std::string>{});
  if (const std::string* type = keys.string("InterfaceTypeMatch")) {
    if (*type != "Ethernet" && *type != "WiFi" && *type != "Cellular")
      keys.error("InterfaceTypeMatch", "is none of Ethernet, WiFi, Cellular");
    rule.interfaceTypeMatch = *type;
  }
  if (const std::string* probe = keys.string("URLStringProbe")) rule.urlStringProbe = *probe;
  keys.finish();
  return rule;
}

}  // namespace

std::vector<OnDemandRule> readOnDemandRules(Keys& keys) {
  std::vector<OnDemandRule> rules;
  const plist::Array* items = keys.array("OnDemandRules");
  if (items == nullptr) return rules;
  if (items->size() > kMostRules) {
    keys.error("OnDemandRules", fmt::format("has more than {} rules", kMostRules));
    return rules;
  }
  for (size_t i = 0; i < items->size(); ++i) {
    const std::string path = plist::childPath(keys.pathOf("OnDemandRules"), i);
    if (const plist::Dictionary* dictionary = (*items)[i].dictionary()) {
      Keys rule(*dictionary, path, keys.report());
      rules.push_back(readRule(rule));
    } else {
      keys.report().error(path, "must be a dictionary");
    }
  }
  return rules;
}

}  // namespace wayleave::management
