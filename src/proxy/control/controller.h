#pragma once

// Keeps the proxy in step with the rest of the machine: configurations from managementd, identities from identityd, rules in
// the kernel. Everything here may block and fail for as long as it likes; the workers go on with what they last heard.
//
//   configurations   fetched at every (re)connect and at every change; the last known ones stay in force while managementd
//                    is away
//   identities       resolved, and resolved again when the broker says that something changed
//   retry            whatever did not work (identity, rules) is tried again with back-off
//
// None of it delays the start: a proxy whose gateway, broker or managementd cannot be reached is a proxy whose flows fail
// with a reason.

#include <condition_variable>
#include <mutex>
#include <thread>

#include "capture/capture.h"
#include "localapi/client.h"
#include "proxy/control/gateway_identity.h"
#include "proxy/proxy.h"

namespace wayleave::proxy::control {

struct ControllerOptions {
  std::string managementSocket;
  std::string identitySocket;
  std::vector<uint32_t> exemptUsers;
  bool markSockets = true;
};

class Controller {
 public:
  // All outlive it. `capture` may be null (--no-capture).
  Controller(ControllerOptions options, Proxy& proxy, capture::Capture* capture, localapi::IdentityAgent& agent,
             tls::HandshakePool& handshakes);
  ~Controller();

  void start();
  void stop();  // idempotent; the rules stay as they are

  std::string statusJson(const std::string& head) const;  // `head`: members before ours, without braces
  size_t configurations() const;
  bool captureInstalled() const;

 private:
  struct Active {
    localapi::ProxyConfiguration configuration;
    uint64_t generation = 0;
    rules::RuleSet rules;
    std::shared_ptr<GatewayIdentity> identity;
  };

  void followConfigurations(std::stop_token stop);
  Status fetch();
  void followIdentities(std::stop_token stop);
  void retryUntilAllIsWell(std::stop_token stop);
  void wakeRetry();

  void adopt(std::vector<localapi::ProxyConfiguration> configurations);
  void onIdentityEvent(const localapi::IdentityEvent& event);
  void refreshAll(bool onlyUnready);
  void applyChange(const std::string& id, GatewayIdentity& identity, GatewayIdentity::Change change);
  void applyPolicy();   // orders_ held
  void applyCapture();  // orders_ held
  PolicyEntry entryFor(const Active& active) const;
  std::vector<uint32_t> exemptUsers() const;

  const ControllerOptions options_;
  Proxy& proxy_;
  capture::Capture* const capture_;
  localapi::IdentityAgent& agent_;
  tls::HandshakePool& handshakes_;

  std::mutex orders_;          // one change at a time, in order
  mutable std::mutex state_;   // of what follows; held for copies only
  std::vector<Active> active_;
  bool managementReachable_ = false;
  bool captureInstalled_ = false;
  std::string captureError_;
  uint64_t lastGeneration_ = 0;

  std::mutex retryMutex_;
  std::condition_variable_any retryWake_;
  bool retryNow_ = false;
  std::vector<std::jthread> threads_;
};

}  // namespace wayleave::proxy::control
