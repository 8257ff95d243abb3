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
  std::string_view before, after;  // the path is before + subject + after; without a subject when `after` is "!"; "*": the subject is the rest, slashes and all
  std::string_view event;
  Place place;
  Method run;
};

// One use of a private key, on its way through that key's queue.
struct IdentityService::Signature {
  keychain::KeyRecord key;
  std::optional<keychain::IdentityRecord> identity;  // none: for managementd, which names a key
  std::string grant;
  std::string_view usage;
  keys::SignatureScheme scheme = keys::SignatureScheme::EcdsaSecp256r1Sha256;
  Bytes content;
  bool isDigest = false;
  Steady deadline{};
  // In place of signing `content`, and of answering {"signature"}; may be empty.
  std::function<Result<Bytes>(keys::PrivateKey&)> work = {};
  std::function<nlohmann::json(const Bytes&)> render = {};
};

// Answers when a library's result is an error; true when the caller may go on.
template <typename T>
bool IdentityService::parsed(const CallPtr& call, const Result<T>& result) {
  if (result) return true;
  refuse(call, result.error());
  return false;
}

}  // namespace wayleave::broker
