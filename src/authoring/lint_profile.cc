// What is legal in a profile and will be regretted. The importer's own findings come first; the pitfalls here are read from
// the property list itself, so that they are told even of a profile that the importer refuses.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "authoring/lint_internal.h"
#include "management/cms.h"
#include "management/profile.h"

namespace wayleave::authoring {
namespace {

using plist::childPath;
using plist::Dictionary;

constexpr std::string_view kPrivateKey = "PRIVATE KEY-----";
constexpr std::array kReferenceKeys{"PayloadCertificateUUID", "IdentityCertificateUUID"};
constexpr std::array kReferenceLists{"TrustAnchorPayloadUUIDs", "ServerURLPinningCertificateUUIDs",
                                     "CheckInURLPinningCertificateUUIDs", "PayloadCertificateAnchorUUID"};

std::string upper(std::string text) {
  for (char& c : text)
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 32);
  return text;
}

// The profile's property list without a signature around it; an unreadable one is the importer's to report.
std::optional<plist::Document> document(const LintInput& input, const LintOptions& options) {
  Bytes unwrapped;
  ByteView bytes = input.bytes;
  if (management::looksLikeCms(bytes)) {
    Result<management::SignedContent> content = management::verifyCms(bytes, {}, options.now);
    if (!content) return std::nullopt;
    unwrapped = std::move(content->content);
    bytes = unwrapped;
  }
  const management::ImportOptions importing;
  Result<plist::Document> read = plist::parse(bytes, {.limits = importing.limits, .recordLines = true});
  if (!read || read->root.dictionary() == nullptr) return std::nullopt;
  return std::move(*read);
}

uint32_t lineOf(const plist::Lines& lines, const std::string& path) {
  const auto found = lines.find(path);
  return found == lines.end() ? 0 : found->second;
}

// Every reference to a PayloadUUID, at any depth, and every private key in the clear.
void walk(const plist::Value& value, const std::string& path, const plist::Lines& lines, ProfileFacts& facts, RuleReport& report) {
  if (const Dictionary* dictionary = value.dictionary()) {
    for (const plist::Entry& entry : dictionary->entries()) {
      const std::string member = childPath(path, management::shown(entry.key));
      if (std::ranges::find(kReferenceKeys, entry.key) != kReferenceKeys.end() && entry.value.string() != nullptr)
        facts.references.push_back({upper(*entry.value.string()), lineOf(lines, member), member});
      if (std::ranges::find(kReferenceLists, entry.key) != kReferenceLists.end() && entry.value.array() != nullptr)
        for (size_t i = 0; i < entry.value.array()->size(); ++i)
          if (const std::string* reference = (*entry.value.array())[i].string())
            facts.references.push_back({upper(*reference), lineOf(lines, childPath(member, i)), childPath(member, i)});
      walk(entry.value, member, lines, facts, report);
    }
  } else if (const plist::Array* items = value.array()) {
    for (size_t i = 0; i < items->size(); ++i) walk((*items)[i], childPath(path, i), lines, facts, report);
  } else {
    const std::string_view text = value.string() != nullptr ? std::string_view(*value.string())
                                  : value.data() != nullptr ? asText(*value.data())
                                                            : std::string_view{};
    if (text.contains(kPrivateKey))
      report.add("private-key", Severity::Error, path, "holds a private key in the clear",
                 "whoever has the profile has the key; deliver identities as pkcs12, scep or acme payloads");
  }
}

void lintIdentifier(const std::string& identifier, const std::string& path, RuleReport& report) {
  if (identifier.empty()) return;
  if (identifier.find_first_of(" \t/\\?#%") != std::string::npos)
    report.add("identifier", Severity::Warning, path, fmt::format("\"{}\" holds characters that identifiers and URLs do not share", management::shown(identifier)),
               "letters, digits, dots and hyphens: com.example.wayleave");
  else if (!identifier.contains('.'))
    report.add("identifier", Severity::Note, path, fmt::format("\"{}\" is not in reverse DNS form", management::shown(identifier)),
               "another author's profile with the same word would replace this one");
}

// Which route can deliver what: no person may install some payloads, no server others.
void lintDelivery(const std::vector<const Dictionary*>& payloads, RuleReport& report) {
  size_t manualOnly = payloads.size(), serverOnly = payloads.size();
  size_t enrolments = 0;
  for (size_t i = 0; i < payloads.size(); ++i) {
    if (payloads[i] == nullptr) continue;
    const std::string type = stringOf(*payloads[i], "PayloadType");
    const std::string path = childPath(childPath("PayloadContent", i), "PayloadType");
    if (type == "com.apple.declarations") {
      manualOnly = i;
      report.add("delivery", Severity::Note, path, "an MDM server cannot install declarations by profile: this one is installed by hand",
                 "a server delivers declarations through declarative management");
    } else if (type == "com.apple.system-extension-policy") {
      serverOnly = i;
      report.add("delivery", Severity::Note, path, "only an MDM server can install this payload; Macs refuse it by hand");
    } else if (type == "com.apple.mdm") {
      if (enrolments++ > 0)
        report.add("delivery", Severity::Error, path, "is the second enrolment of one profile", "a device has one MDM server");
      if (payloads[i]->find("CheckOutWhenRemoved") == nullptr || payloads[i]->find("CheckOutWhenRemoved")->boolean() != true)
        report.add("delivery", Severity::Note, path, "without CheckOutWhenRemoved the server never learns that the device left");
    }
  }
  if (manualOnly < payloads.size() && serverOnly < payloads.size())
    report.add("delivery", Severity::Warning, childPath(childPath("PayloadContent", manualOnly), "PayloadType"),
               fmt::format("can only be installed by hand, and PayloadContent[{}] only by a server: no Mac installs both", serverOnly),
               "make two profiles of it");
}

void lintVpn(const Dictionary& payload, const std::string& path, std::map<int64_t, std::string>& orders, RuleReport& report) {
  const plist::Value* found = payload.find("TransparentProxy");
  const Dictionary* settings = found == nullptr ? nullptr : found->dictionary();
  if (settings == nullptr || stringOf(payload, "VPNType") != "TransparentProxy") return;
  const std::string inside = childPath(path, "TransparentProxy");
  const bool bundle = settings->contains("ProviderBundleIdentifier"), requirement = settings->contains("ProviderDesignatedRequirement");
  if (bundle != requirement)
    report.add("provider", Severity::Warning, childPath(inside, bundle ? "ProviderBundleIdentifier" : "ProviderDesignatedRequirement"),
               fmt::format("is given without {}; a system extension needs both", bundle ? "ProviderDesignatedRequirement" : "ProviderBundleIdentifier"));
  if (const plist::Value* order = settings->find("Order"); order != nullptr && order->integer())
    if (const auto [first, fresh] = orders.emplace(*order->integer(), path); !fresh)
      report.add("order", Severity::Warning, childPath(inside, "Order"),
                 fmt::format("{} is also the order of {}: which proxy sees a flow first is left to chance", *order->integer(), first->second));
  const plist::Value* vendor = payload.find("VendorConfig");
  if (vendor == nullptr || vendor->dictionary() == nullptr || stringOf(payload, "VPNSubType") != "com.wayleave.proxy") return;
  const plist::Value* rules = vendor->dictionary()->find("IncludedNetworkRules");
  if (rules == nullptr || rules->array() == nullptr || stringOf(*vendor->dictionary(), "FailurePolicy") == "direct") return;
  for (size_t i = 0; i < rules->array()->size(); ++i) {
    const Dictionary* rule = (*rules->array())[i].dictionary();
    if (rule != nullptr && !rule->contains("MatchRemoteNetwork") && !rule->contains("MatchRemoteHost") && !rule->contains("MatchRemotePort"))
      report.add("catch-all", Severity::Note, childPath(childPath(childPath(path, "VendorConfig"), "IncludedNetworkRules"), i),
                 "takes all traffic, and FailurePolicy is block: while the gateway is away, the device is offline",
                 "exclude what must work without the gateway, above all the MDM server");
  }
}

// Payloads that nothing of the profile refers to.
void lintUnused(const std::vector<const Dictionary*>& payloads, const ProfileFacts& facts, RuleReport& report) {
  for (size_t i = 0; i < payloads.size(); ++i) {
    if (payloads[i] == nullptr) continue;
    const std::string type = stringOf(*payloads[i], "PayloadType");
    const bool identity = management::yieldsIdentity(type);
    if (!identity && !management::yieldsCertificate(type)) continue;
    const std::string uuid = upper(stringOf(*payloads[i], "PayloadUUID"));
    if (uuid.empty() || std::ranges::find(facts.references, uuid, &ProfileFacts::Named::value) != facts.references.end()) continue;
    report.add("unused", Severity::Note, childPath("PayloadContent", i),
               identity ? "nothing in this profile refers to the identity: it serves only programs with a grant"
                        : "nothing in this profile refers to the certificate, and it does not enter the system's trust store");
  }
}

// The declarations of its com.apple.declarations payloads, which are one set.
std::vector<LintFinding> lintCarried(const std::vector<const Dictionary*>& payloads, const plist::Lines& lines, const std::string& file) {
  std::vector<DeclarationInput> carried;
  for (size_t i = 0; i < payloads.size(); ++i) {
    if (payloads[i] == nullptr || stringOf(*payloads[i], "PayloadType") != "com.apple.declarations") continue;
    const plist::Value* list = payloads[i]->find("Declarations");
    if (list == nullptr || list->array() == nullptr) continue;
    const std::string path = childPath(childPath("PayloadContent", i), "Declarations");
    for (size_t k = 0; k < list->array()->size(); ++k)
      if (const Bytes* json = (*list->array())[k].data()) carried.push_back({file, *json, childPath(path, k), lineOf(lines, childPath(path, k))});
  }
  return lintDeclarations(carried);
}

}  // namespace

std::string stringOf(const Dictionary& dictionary, std::string_view key) {
  const plist::Value* value = dictionary.find(key);
  return value == nullptr || value->string() == nullptr ? std::string{} : *value->string();
}

LintedProfile lintProfile(const LintInput& input, const LintOptions& options) {
  LintedProfile out;
  out.facts.file = input.name;
  management::ImportOptions importing;
  importing.now = options.now;
  for (const management::Finding& finding : management::importProfile(input.bytes, importing).findings)
    out.findings.push_back(toLintFinding(finding, input.name, "profile"));
  const std::optional<plist::Document> read = document(input, options);
  if (!read) return out;

  const Dictionary& root = *read->root.dictionary();
  RuleReport report(read->lines);
  out.facts.identifier = stringOf(root, "PayloadIdentifier");
  out.facts.identifierLine = lineOf(read->lines, "PayloadIdentifier");
  lintIdentifier(out.facts.identifier, "PayloadIdentifier", report);
  if (stringOf(root, "PayloadDisplayName").empty())
    report.add("display-name", Severity::Note, "PayloadDisplayName", "is missing: people will see the identifier instead");

  std::vector<const Dictionary*> payloads;
  if (const plist::Value* content = root.find("PayloadContent"); content != nullptr && content->array() != nullptr)
    for (const plist::Value& payload : *content->array()) payloads.push_back(payload.dictionary());
  const auto addUuid = [&](const Dictionary& dictionary, const std::string& path) {
    if (const std::string uuid = stringOf(dictionary, "PayloadUUID"); !uuid.empty())
      out.facts.uuids.push_back({upper(uuid), lineOf(read->lines, childPath(path, "PayloadUUID")), childPath(path, "PayloadUUID")});
  };
  addUuid(root, "");
  std::map<int64_t, std::string> orders;
  for (size_t i = 0; i < payloads.size(); ++i) {
    if (payloads[i] == nullptr) continue;
    const std::string path = childPath("PayloadContent", i);
    const std::string type = stringOf(*payloads[i], "PayloadType");
    report.setPayload(fmt::format("{} ({})", management::shown(stringOf(*payloads[i], "PayloadIdentifier")), management::shown(type)));
    addUuid(*payloads[i], path);
    lintIdentifier(stringOf(*payloads[i], "PayloadIdentifier"), childPath(path, "PayloadIdentifier"), report);
    if (management::yieldsIdentity(type)) lintIdentityPayload(*payloads[i], path, report, options.now);
    if (management::yieldsCertificate(type)) lintCertificatePayload(*payloads[i], path, report, options.now);
    if (type == "com.apple.vpn.managed") lintVpn(*payloads[i], path, orders, report);
  }
  report.setPayload("");
  walk(read->root, "", read->lines, out.facts, report);
  lintDelivery(payloads, report);
  lintUnused(payloads, out.facts, report);
  std::ranges::move(report.take(input.name), std::back_inserter(out.findings));
  std::ranges::move(lintCarried(payloads, read->lines, input.name), std::back_inserter(out.findings));
  return out;
}

// What happens when two of these profiles meet on one device.
std::vector<LintFinding> lintAcross(const std::vector<ProfileFacts>& profiles) {
  std::vector<LintFinding> out;
  std::map<std::string, std::string> identifiers;         // → the file that had it first
  std::map<std::string, const ProfileFacts*> uuids;       // → the profile that had it first
  std::map<std::string, std::string> all;                 // every PayloadUUID → its file
  for (const ProfileFacts& profile : profiles)
    for (const ProfileFacts::Named& uuid : profile.uuids) all.emplace(uuid.value, profile.file);
  for (const ProfileFacts& profile : profiles) {
    if (!profile.identifier.empty())
      if (const auto [first, fresh] = identifiers.emplace(profile.identifier, profile.file); !fresh)
        out.push_back({Severity::Warning, profile.file, profile.identifierLine, 0, "same-identifier", "PayloadIdentifier",
                       fmt::format("{} is also the identifier of {}: on a device, one replaces the other",
                                   management::shown(profile.identifier), first->second), ""});
    for (const ProfileFacts::Named& uuid : profile.uuids)
      if (const auto [first, fresh] = uuids.emplace(uuid.value, &profile);
          !fresh && first->second != &profile && first->second->identifier != profile.identifier)  // else said above
        out.push_back({Severity::Warning, profile.file, uuid.line, 0, "same-uuid", uuid.where,
                       fmt::format("{} is also used in {}", management::shown(uuid.value), first->second->file),
                       "uuidgen makes a fresh one"});
    for (const ProfileFacts::Named& reference : profile.references) {
      const auto found = all.find(reference.value);
      if (found != all.end() && found->second != profile.file &&
          std::ranges::find(profile.uuids, reference.value, &ProfileFacts::Named::value) == profile.uuids.end())
        out.push_back({Severity::Note, profile.file, reference.line, 0, "cross-reference", reference.where,
                       fmt::format("{} has a payload with this UUID, but a reference reaches only its own profile", found->second),
                       "put both payloads into one profile"});
    }
  }
  return out;
}

}  // namespace wayleave::authoring
