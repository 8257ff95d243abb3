#pragma once

// Where the gateway listens. Literal addresses answer at once; a name is looked up by getaddrinfo on Asio's resolver
// thread, never on the loop, and remembered for a moment so that a burst of dials asks once.

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"

namespace wayleave::tunnel {

class GatewayAddresses {
 public:
  using Endpoints = std::vector<boost::asio::ip::tcp::endpoint>;
  using Done = std::function<void(const Result<Endpoints>&)>;

  GatewayAddresses(boost::asio::io_context& io, std::string host, uint16_t port,
                   const std::vector<std::string>& literals);
  ~GatewayAddresses();

  // `done` runs on the loop, never before this returns, and not at all once this object is gone. Errors: BadInput (a
  // literal that is none), GatewayUnreachable.
  void get(Done done);
  // None of them answered: look the name up again next time.
  void forget();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace wayleave::tunnel
