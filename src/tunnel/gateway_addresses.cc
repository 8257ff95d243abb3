#include "tunnel/gateway_addresses.h"

#include <fmt/format.h>

#include <boost/asio/post.hpp>

namespace wayleave::tunnel {
namespace {

using boost::asio::ip::tcp;

// getaddrinfo tells no lifetime. Long enough for a burst, short enough to follow a gateway that moves.
constexpr std::chrono::seconds kRemember{30};

}  // namespace

struct GatewayAddresses::State {
  State(boost::asio::io_context& loop, std::string name, uint16_t number)
      : io(loop), resolver(loop), host(std::move(name)), port(number) {}

  boost::asio::io_context& io;
  tcp::resolver resolver;
  std::string host;
  uint16_t port;
  Result<Endpoints> known;
  Steady knownUntil{};
  bool asking = false;
  std::vector<Done> waiting;

  void answer(const Result<Endpoints>& result) {
    for (Done& done : std::exchange(waiting, {})) done(result);
  }
};

GatewayAddresses::GatewayAddresses(boost::asio::io_context& io, std::string host, uint16_t port,
                                   const std::vector<std::string>& literals)
    : state_(std::make_shared<State>(io, std::move(host), port)) {
  std::vector<std::string> texts = literals;
  boost::system::error_code code;
  if (texts.empty()) {
    boost::asio::ip::make_address(state_->host, code);
    if (code) return;  // a name
    texts.push_back(state_->host);
  }
  state_->knownUntil = Steady::max();
  for (const std::string& text : texts) {
    const auto address = boost::asio::ip::make_address(text, code);
    if (code) {
      state_->known = fail(Reason::BadInput, fmt::format("\"{}\" is not a gateway address", text));
      return;
    }
    state_->known->emplace_back(address, port);
  }
}

GatewayAddresses::~GatewayAddresses() {
  state_->waiting.clear();
  state_->resolver.cancel();
}

void GatewayAddresses::get(Done done) {
  state_->waiting.push_back(std::move(done));
  if (state_->asking) return;
  state_->asking = true;
  if (Steady::clock::now() < state_->knownUntil) {
    boost::asio::post(state_->io, [state = state_] {
      state->asking = false;
      state->answer(Result<Endpoints>(state->known));
    });
    return;
  }
  state_->resolver.async_resolve(
      state_->host, std::to_string(state_->port), tcp::resolver::numeric_service,
      [state = state_](const boost::system::error_code& code, const tcp::resolver::results_type& results) {
        state->asking = false;
        if (code) {
          state->answer(fail(Reason::GatewayUnreachable,
                             fmt::format("look up gateway {}: {}", state->host, code.message()),
                             "check the gateway's host name in the profile and this machine's name service"));
          return;
        }
        Endpoints endpoints;
        for (const auto& entry : results) endpoints.push_back(entry.endpoint());
        state->known = std::move(endpoints);
        state->knownUntil = Steady::clock::now() + kRemember;
        state->answer(Result<Endpoints>(state->known));
      });
}

void GatewayAddresses::forget() {
  if (state_->knownUntil != Steady::max()) state_->knownUntil = {};
}

}  // namespace wayleave::tunnel
