#pragma once

// How the machine's flows reach us. One Capture per process turns the configurations' rules into whatever the platform
// filters with, so that excluded traffic never leaves the kernel; one FlowSource per worker hands over the flows that were
// caught. `linux/` is nftables and TPROXY; on macOS the same interface stands before NETransparentProxyProvider.
//
// TCP only today. A datagram flow will arrive through the same FlowHandler with `protocol` Udp and a socket that is bound
// to the original destination and connected to the client, so nothing above needs another entrance.

#include <boost/asio/io_context.hpp>
#include <compare>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/owned.h"
#include "base/result.h"
#include "rules/network_rule.h"

namespace wayleave::capture {

struct Endpoint {
  rules::Address address;
  uint16_t port = 0;
  auto operator<=>(const Endpoint&) const = default;
};
std::string text(const Endpoint& endpoint);  // "192.0.2.1:443", "[2001:db8::1]:443"

// Who opened the flow, as the kernel knows it.
struct Owner {
  uint32_t uid = 0;
  uint64_t socketInode = 0;  // processOfSocket() makes a process of it, as long as the socket lives
};

struct CapturedFlow {
  Fd socket;  // non-blocking, connected to the application; closing it is all that is owed
  rules::Protocol protocol = rules::Protocol::Tcp;
  Endpoint destination;  // where the application wanted to go
  Endpoint source;
  std::optional<Owner> owner;
};

class FlowHandler {
 public:
  virtual ~FlowHandler() = default;
  virtual void onFlow(CapturedFlow flow) = 0;
  // Flows wait in the kernel because a resource is short (descriptors, memory); `error` is the errno. The source tries
  // again by itself.
  virtual void onStarved(int error) = 0;
};

// Belongs to one worker's loop. Destroying it stops it.
class FlowSource {
 public:
  virtual ~FlowSource() = default;
  virtual void start(FlowHandler& handler) = 0;  // `handler` outlives the source
  virtual void pause() = 0;                      // flows wait in the kernel's queue
  virtual void resume() = 0;
};

// Everything the platform must know in order to filter.
struct CapturePlan {
  std::vector<rules::RuleSet> ruleSets;  // one per configuration, in the order they are asked
  std::vector<Endpoint> untouched;       // gateways: never captured, from whichever program
  std::vector<uint32_t> exemptUsers;     // user ids whose traffic is never captured (those that enrol this device)
};

enum class OwnerDetail : uint8_t { None, User };

struct CaptureOptions {
  uint16_t listenPort = 0;       // 0: the kernel picks one
  bool fallbackRoute = false;    // catch flows even while the machine has no default route
  OwnerDetail owner = OwnerDetail::User;
};

class Capture {
 public:
  // Opens the means, installs nothing. Errors: Io, Unsupported (the kernel cannot do it).
  static Result<std::unique_ptr<Capture>> open(const CaptureOptions& options);
  virtual ~Capture() = default;  // removes everything that was installed

  // Every source must exist before the first apply(). Errors: Io.
  virtual Result<std::unique_ptr<FlowSource>> makeSource(boost::asio::io_context& loop) = 0;
  // Installs `plan` in place of what is there, in one step; flows already caught are not touched. A plan that catches
  // nothing is the same as remove(). Errors: Conflict (another proxy holds the table), Io, Unsupported.
  virtual Status apply(const CapturePlan& plan) = 0;
  // Catches no new flow, keeps those that live.
  virtual Status drain() = 0;
  virtual Status remove() = 0;

  virtual bool installed() const = 0;
  // The addresses the sources listen on: a flow to one of them is a loop.
  virtual std::vector<Endpoint> listeners() const = 0;
};

// Removes what a crashed process may have left (idempotent, needs no state). Returns how many things were removed.
Result<int> cleanUp();

// Makes the traffic of an unconnected socket invisible to the capture. Errors: Io (CAP_NET_ADMIN is missing).
Status markOwn(int socket);

// Calls `onChange` when addresses, links or routes changed, once per burst of changes, until stopped. Blocks; returns at once
// when the system cannot tell.
void watchNetwork(std::stop_token stop, const std::function<void()>& onChange);

struct OwningProcess {
  int pid = 0;
  std::string executable;
};
// Scans the processes this one may look into (others' need CAP_SYS_PTRACE); milliseconds, never on a data thread.
// Errors: NotFound.
Result<OwningProcess> processOfSocket(uint64_t inode);

// Listens on an ordinary address instead of capturing: every connection is a flow to `destination`. For tests,
// benchmarks and machines where a program is pointed at the proxy. Errors: Io.
Result<std::unique_ptr<FlowSource>> listenPlain(boost::asio::io_context& loop, const Endpoint& listen,
                                                const Endpoint& destination);

}  // namespace wayleave::capture
