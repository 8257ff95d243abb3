#pragma once

// proxy.sock: what the proxy does, for reading only. Sums and states are for everybody. Where flows lead to is for the user who
// opened them and for administrators: on a machine of several users one must not read the others' destinations.

#include <memory>
#include <optional>
#include <string>

#include "localapi/server.h"
#include "observe/flow_journal.h"
#include "proxy/control/controller.h"
#include "proxy/proxy.h"

namespace wayleave::proxy::control {

class Api {
 public:
  // `administrators`: the group whose members may see everybody's flows, as root may.
  Api(const Proxy& proxy, observe::FlowJournal& journal, const Controller& controller, std::optional<gid_t> administrators);
  // On the server's thread.
  void handle(const localapi::Request& request, localapi::Responder& responder);

 private:
  localapi::Response status() const;
  localapi::Response flows(const localapi::Request& request) const;
  // The user whose flows the peer may see; nothing: everybody's.
  std::optional<uint32_t> limitedTo(const localapi::Request& request) const;
  localapi::Response metrics() const;

  const Proxy& proxy_;
  observe::FlowJournal& journal_;
  const Controller& controller_;
  const std::optional<gid_t> administrators_;
  const Steady started_ = std::chrono::steady_clock::now();
};

}  // namespace wayleave::proxy::control
