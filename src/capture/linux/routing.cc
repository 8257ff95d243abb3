#include "capture/linux/routing.h"

#include <fmt/format.h>
#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

#include <array>
#include <cerrno>
#include <functional>
#include <vector>

#include "base/owned.h"
#include "capture/linux/names.h"

namespace wayleave::capture::platform {
namespace {

constexpr size_t kMessageBytes = 1024;        // ours are below 150
constexpr size_t kReceiveBytes = 32 * 1024;  // what the kernel fills at most per read of a dump

struct RuleKey {
  uint8_t family = 0;
  uint32_t table = 0, priority = 0, mark = 0;
};
struct RouteKey {
  uint8_t family = 0, type = 0, scope = 0;
  uint32_t table = 0, metric = 0;
  int interface = 0;
};

class Rtnetlink {
 public:
  static Result<Rtnetlink> open() {
    Rtnetlink link;
    link.socket_.reset(mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC));
    if (!link.socket_ || mnl_socket_bind(link.socket_.get(), 0, MNL_SOCKET_AUTOPID) < 0)
      return std::unexpected(errnoError(errno, "open rtnetlink"));
    return link;
  }

  // Sends one request and waits for the kernel's verdict: 0 or an errno.
  int request(nlmsghdr* message) { return exchange(message, NLM_F_ACK, {}); }
  int dump(nlmsghdr* message, const std::function<void(const nlmsghdr*)>& each) {
    return exchange(message, NLM_F_DUMP, each);
  }

 private:
  static int deliver(const nlmsghdr* message, void* context) {
    const auto& each = *static_cast<const std::function<void(const nlmsghdr*)>*>(context);
    if (each) each(message);
    return MNL_CB_OK;
  }
  int exchange(nlmsghdr* message, uint16_t flags, const std::function<void(const nlmsghdr*)>& each) {
    message->nlmsg_flags |= static_cast<uint16_t>(NLM_F_REQUEST | flags);
    message->nlmsg_seq = ++sequence_;
    if (mnl_socket_sendto(socket_.get(), message, message->nlmsg_len) < 0) return errno;
    std::vector<char> buffer(kReceiveBytes);
    for (;;) {
      const ssize_t got = mnl_socket_recvfrom(socket_.get(), buffer.data(), buffer.size());
      if (got < 0) return errno;
      const int verdict = mnl_cb_run(buffer.data(), static_cast<size_t>(got), sequence_,
                                     mnl_socket_get_portid(socket_.get()), &deliver,
                                     const_cast<std::function<void(const nlmsghdr*)>*>(&each));
      if (verdict < 0) return errno;
      if (verdict == MNL_CB_STOP) return 0;
    }
  }
  Handle<mnl_socket, mnl_socket_close> socket_;
  unsigned sequence_ = 0;
};

using Buffer = std::array<char, kMessageBytes>;

nlmsghdr* ruleMessage(Buffer& buffer, uint16_t type, const RuleKey& key) {
  nlmsghdr* message = mnl_nlmsg_put_header(buffer.data());
  message->nlmsg_type = type;
  auto* header = static_cast<fib_rule_hdr*>(mnl_nlmsg_put_extra_header(message, sizeof(fib_rule_hdr)));
  header->family = key.family;
  header->action = FR_ACT_TO_TBL;
  mnl_attr_put_u32(message, FRA_TABLE, key.table);
  mnl_attr_put_u32(message, FRA_PRIORITY, key.priority);
  mnl_attr_put_u32(message, FRA_FWMARK, key.mark);
  mnl_attr_put_u8(message, FRA_PROTOCOL, kRouteProtocol);
  return message;
}

nlmsghdr* routeMessage(Buffer& buffer, uint16_t type, const RouteKey& key) {
  nlmsghdr* message = mnl_nlmsg_put_header(buffer.data());
  message->nlmsg_type = type;
  auto* header = static_cast<rtmsg*>(mnl_nlmsg_put_extra_header(message, sizeof(rtmsg)));
  header->rtm_family = key.family;
  header->rtm_type = key.type;
  header->rtm_scope = key.scope;
  header->rtm_protocol = kRouteProtocol;
  mnl_attr_put_u32(message, RTA_TABLE, key.table);
  mnl_attr_put_u32(message, RTA_OIF, static_cast<uint32_t>(key.interface));
  if (key.metric != 0) mnl_attr_put_u32(message, RTA_PRIORITY, key.metric);
  return message;
}

// Calls `each(type, attribute)` for every attribute after the fixed header of `headerBytes`.
template <typename Each>
void forEachAttribute(const nlmsghdr* message, size_t headerBytes, Each each) {
  const auto* end = static_cast<const char*>(mnl_nlmsg_get_payload_tail(message));
  const auto* attribute = static_cast<const nlattr*>(mnl_nlmsg_get_payload_offset(message, headerBytes));
  while (mnl_attr_ok(attribute, static_cast<int>(end - reinterpret_cast<const char*>(attribute)))) {
    each(mnl_attr_get_type(attribute), attribute);
    attribute = mnl_attr_next(attribute);
  }
}

uint32_t number(const nlattr* attribute) {
  return mnl_attr_get_payload_len(attribute) >= sizeof(uint32_t) ? mnl_attr_get_u32(attribute) : 0;
}

Result<std::vector<RuleKey>> ourRules(Rtnetlink& link, uint8_t family) {
  std::vector<RuleKey> found;
  Buffer buffer{};
  nlmsghdr* message = mnl_nlmsg_put_header(buffer.data());
  message->nlmsg_type = RTM_GETRULE;
  static_cast<fib_rule_hdr*>(mnl_nlmsg_put_extra_header(message, sizeof(fib_rule_hdr)))->family = family;
  const int error = link.dump(message, [&](const nlmsghdr* answer) {
    RuleKey key{.family = family};
    bool ours = false;
    forEachAttribute(answer, sizeof(fib_rule_hdr), [&](uint16_t type, const nlattr* attribute) {
      if (type == FRA_PROTOCOL) ours = mnl_attr_get_u8(attribute) == kRouteProtocol;
      if (type == FRA_TABLE) key.table = number(attribute);
      if (type == FRA_PRIORITY) key.priority = number(attribute);
      if (type == FRA_FWMARK) key.mark = number(attribute);
    });
    if (ours) found.push_back(key);
  });
  if (error != 0) return std::unexpected(errnoError(error, "list routing rules"));
  return found;
}

Result<std::vector<RouteKey>> ourRoutes(Rtnetlink& link, uint8_t family) {
  std::vector<RouteKey> found;
  Buffer buffer{};
  nlmsghdr* message = mnl_nlmsg_put_header(buffer.data());
  message->nlmsg_type = RTM_GETROUTE;
  static_cast<rtmsg*>(mnl_nlmsg_put_extra_header(message, sizeof(rtmsg)))->rtm_family = family;
  const int error = link.dump(message, [&](const nlmsghdr* answer) {
    const auto* header = static_cast<const rtmsg*>(mnl_nlmsg_get_payload(answer));
    if (header->rtm_protocol != kRouteProtocol || header->rtm_dst_len != 0) return;
    RouteKey key{.family = family, .type = header->rtm_type, .scope = header->rtm_scope, .table = header->rtm_table};
    forEachAttribute(answer, sizeof(rtmsg), [&](uint16_t type, const nlattr* attribute) {
      if (type == RTA_TABLE) key.table = number(attribute);
      if (type == RTA_OIF) key.interface = static_cast<int>(number(attribute));
      if (type == RTA_PRIORITY) key.metric = number(attribute);
    });
    found.push_back(key);
  });
  if (error != 0) return std::unexpected(errnoError(error, "list routes"));
  return found;
}

// A family the kernel lacks has no rules of ours.
bool familyMissing(const Error& error) { return error.message.contains("not supported"); }

}  // namespace

Result<int> removeRouting() {
  auto link = Rtnetlink::open();
  if (!link) return propagate(link.error());
  int removed = 0;
  for (const uint8_t family : {uint8_t{AF_INET}, uint8_t{AF_INET6}}) {
    auto rules = ourRules(*link, family);
    if (!rules && family == AF_INET6 && familyMissing(rules.error())) continue;
    if (!rules) return propagate(rules.error());
    for (const RuleKey& key : *rules) {
      Buffer buffer{};
      if (const int error = link->request(ruleMessage(buffer, RTM_DELRULE, key)); error != 0 && error != ENOENT)
        return std::unexpected(errnoError(error, "remove our routing rule"));
      ++removed;
    }
    auto routes = ourRoutes(*link, family);
    if (!routes) return propagate(routes.error());
    for (const RouteKey& key : *routes) {
      Buffer buffer{};
      if (const int error = link->request(routeMessage(buffer, RTM_DELROUTE, key)); error != 0 && error != ESRCH)
        return std::unexpected(errnoError(error, "remove our route"));
      ++removed;
    }
  }
  return removed;
}

Status installRouting(const RoutingOptions& options) {
  if (auto clean = removeRouting(); !clean) return withContext(clean.error(), "before installing routes");
  auto link = Rtnetlink::open();
  if (!link) return propagate(link.error());
  const int loopback = static_cast<int>(::if_nametoindex("lo"));
  if (loopback == 0) return std::unexpected(errnoError(errno, "find the loopback interface"));

  const auto create = [&](nlmsghdr* message, std::string_view what) -> Status {
    message->nlmsg_flags |= NLM_F_CREATE | NLM_F_EXCL;
    if (const int error = link->request(message); error != 0) return std::unexpected(errnoError(error, what));
    return {};
  };
  for (const uint8_t family : {uint8_t{AF_INET}, uint8_t{AF_INET6}}) {
    if (family == AF_INET6 && !options.v6) continue;
    Buffer buffer{};
    const RouteKey local{.family = family, .type = RTN_LOCAL, .scope = RT_SCOPE_HOST, .table = kRouteTable, .interface = loopback};
    if (auto ok = create(routeMessage(buffer, RTM_NEWROUTE, local), "add the local route"); !ok) return ok;
    buffer.fill(0);
    const RuleKey rule{.family = family, .table = kRouteTable, .priority = kRulePriority, .mark = kCaptureMark};
    if (auto ok = create(ruleMessage(buffer, RTM_NEWRULE, rule), "add the routing rule"); !ok) return ok;
    if (!options.fallbackRoute) continue;
    // connect() fails with ENETUNREACH before the output hook when there is no route at all.
    buffer.fill(0);
    const RouteKey fallback{.family = family, .type = RTN_UNICAST, .scope = RT_SCOPE_LINK, .table = RT_TABLE_MAIN,
                            .metric = kFallbackRouteMetric, .interface = loopback};
    if (auto ok = create(routeMessage(buffer, RTM_NEWROUTE, fallback), "add the fallback route"); !ok) return ok;
  }
  return {};
}

}  // namespace wayleave::capture::platform
