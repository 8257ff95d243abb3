#include <fmt/format.h>

#include <algorithm>

#include "management/payload_reader.h"

namespace wayleave::management {
namespace {

bool equalIgnoringCase(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  return std::ranges::equal(a, b, {}, lower, lower);
}

}  // namespace

std::string PayloadHeader::path() const { return fmt::format("PayloadContent[{}]", index); }

std::string PayloadHeader::label() const {
  const std::string name = identifier.empty() ? path() : shown(identifier);
  return type.empty() ? name : fmt::format("{} ({})", name, shown(type));
}

bool yieldsIdentity(std::string_view type) {
  return type == "com.apple.security.pkcs12" || type == "com.apple.security.acme" || type == "com.apple.security.scep";
}

bool yieldsCertificate(std::string_view type) {
  return type == "com.apple.security.root" || type == "com.apple.security.pkcs1" || type == "com.apple.security.pem";
}

void Resolver::require(const std::string& reference, const std::string& keyPath, Report& report) const {
  if (reference.empty())
    report.error(keyPath, "is empty", "name the PayloadUUID of a payload of this profile, or leave the key out");
  else if (std::ranges::none_of(headers_, [&](const PayloadHeader& header) { return equalIgnoringCase(header.uuid, reference); }))
    report.error(keyPath, fmt::format("no payload of this profile has the PayloadUUID {}", shown(reference)), "references work within one profile only",
                 Reason::NotFound);
}

std::string Resolver::resolve(const std::string& reference, Kind kind, const std::string& keyPath,
                              Report& report) const {
  if (reference.empty()) {
    report.error(keyPath, "is empty", "name the PayloadUUID of a payload of this profile, or leave the key out");
    return "";
  }
  auto found = std::ranges::find(headers_, reference, &PayloadHeader::uuid);
  const bool exact = found != headers_.end();
  if (!exact)
    found =
        std::ranges::find_if(headers_, [&](const PayloadHeader& h) { return equalIgnoringCase(h.uuid, reference); });
  if (found == headers_.end()) {
    report.error(keyPath, fmt::format("no payload of this profile has the PayloadUUID {}", shown(reference)),
                 "references work within one profile only", Reason::NotFound);
    return "";
  }
  const bool fits = kind == Kind::Identity ? yieldsIdentity(found->type) : yieldsCertificate(found->type);
  if (!fits) {
    const bool activeDirectory = found->type == "com.apple.ADCertificate.managed";
    report.error(keyPath,
                 fmt::format("names {}, which {}", found->label(),
                             activeDirectory          ? "is an identity that Wayleave cannot enrol"
                             : kind == Kind::Identity ? "is not an identity"
                                                      : "is not a certificate"),
                 kind == Kind::Identity ? "name a pkcs12, acme or scep payload" : "name a root, pkcs1 or pem payload",
                 activeDirectory ? Reason::Unsupported : Reason::BadInput);
    return "";
  }
  if (!exact)
    report.warn(keyPath, fmt::format("matches {} only when letter case is ignored", found->label()),
                fmt::format("write it as {}", shown(found->uuid)));
  return found->uuid;
}

}  // namespace wayleave::management
