#pragma once

// One request on its way through the service. Private to identity_service.cc and its siblings.

#include <nlohmann/json.hpp>

#include "broker/identity_service.h"
#include "localapi/json_reader.h"

namespace wayleave::broker {

struct IdentityService::Call {
  localapi::Request request;
  std::shared_ptr<localapi::Responder> responder;
  std::string subject;  // what the path names: an identity, an installation, a key, a profile
  std::string event;    // the route's, for the audit log
  Verdict verdict;
  std::optional<Entitlements> entitled;
};

struct IdentityService::Route {
  std::string_view method;
  std::string_view before, after;  // the path is before + subject + after; without a subject when `after` is "!"
  std::string_view event;
  Place place;
  Method run;
};

// Answers when a library's result is an error; true when the caller may go on.
template <typename T>
bool IdentityService::parsed(const CallPtr& call, const Result<T>& result) {
  if (result) return true;
  refuse(call, result.error());
  return false;
}

}  // namespace wayleave::broker
