#pragma once

// proxy.sock: what the proxy does, for reading only.

#include <memory>
#include <string>

#include "localapi/server.h"
#include "observe/flow_journal.h"
#include "proxy/control/controller.h"
#include "proxy/proxy.h"

namespace wayleave::proxy::control {

class Api {
 public:
  Api(const Proxy& proxy, observe::FlowJournal& journal, const Controller& controller);
  // On the server's thread.
  void handle(const localapi::Request& request, localapi::Responder& responder);

 private:
  localapi::Response status() const;
  localapi::Response flows(const localapi::Request& request) const;
  localapi::Response metrics() const;

  const Proxy& proxy_;
  observe::FlowJournal& journal_;
  const Controller& controller_;
  const Steady started_ = std::chrono::steady_clock::now();
};

}  // namespace wayleave::proxy::control
