// From bytes to a Profile. The order of work, which is also the order of the findings:
//
//   1. unwrap and verify a CMS signature; a broken one ends here, an untrusted signer is only reported
//   2. read the property list; malformed ends here
//   3. top-level keys
//   4. headers of all payloads (references can point forward), uniqueness of identifiers and UUIDs
//   5. each payload by its type's reader
//
// From 3 on nothing stops early: every mistake of the file is reported in one run, and any error at the end means that
// there is no profile. Bytes that are read stay in memory no longer than needed: passwords are moved into Secrets and
// overwritten in what is kept (copies that the XML parser made are beyond reach).

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "management/payload_reader.h"
#include "management/profile.h"
#include "management/profile_secrets.h"

namespace wayleave::management {
namespace {

constexpr size_t kMostPayloads = 1000;
constexpr size_t kLongestName = 1024;  // of identifiers and UUIDs: they become keys of tables and parts of URLs

struct Importer {
  const ImportOptions& options;
  ImportResult& result;
  Report report;

  Importer(const ImportOptions& chosen, ImportResult& out) : options(chosen), result(out), report(out.findings) {}

  // The bytes of the property list, verified if signed; nullopt after reporting.
  std::optional<Secret> unwrap(ByteView bytes);
  std::optional<Profile> read(plist::Document& document);

  void readTopLevel(const plist::Dictionary& root, Profile& profile);
  void readDates(Keys& keys, Profile& profile);
  void readConsent(Keys& keys, Profile& profile);
  std::vector<PayloadHeader> readHeaders(const plist::Array& contents, std::string_view profileUuid);
  void requireUnique(const std::vector<PayloadHeader>& headers, std::string_view profileUuid);
  PayloadBody readBody(const plist::Dictionary& dictionary, const PayloadHeader& header, const Resolver& resolver);
  PayloadBody skipUnknown(const plist::Dictionary& dictionary, const PayloadHeader& header);
};

constexpr std::array<std::string_view, 7> kCommonKeys = {
    "PayloadType",        "PayloadVersion",     "PayloadIdentifier",  "PayloadUUID",
    "PayloadDisplayName", "PayloadDescription", "PayloadOrganization"};

bool hasControlCharacter(std::string_view text) {
  return std::ranges::any_of(text, [](char c) { return static_cast<uint8_t>(c) < 0x20 || c == 0x7f; });
}

// RFC 9562 section 4: 8-4-4-4-12 hexadecimal digits.
bool looksLikeUuid(std::string_view text) {
  constexpr std::string_view kForm = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
  return text.size() == kForm.size() && std::ranges::equal(text, kForm, [](char c, char form) {
           const bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
           return form == '-' ? c == '-' : hex;
         });
}

std::string readName(Keys& keys, std::string_view key) {
  const std::string* text = keys.string(key, Need::Required);
  if (text == nullptr) return "";
  if (text->size() > kLongestName) keys.error(key, fmt::format("is longer than {} bytes", kLongestName));
  if (hasControlCharacter(*text)) keys.error(key, "holds a control character");
  return *text;
}

std::string readUuid(Keys& keys) {
  std::string uuid = readName(keys, "PayloadUUID");
  if (!uuid.empty() && !looksLikeUuid(uuid))
    keys.warn("PayloadUUID", fmt::format("\"{}\" is not a UUID", shown(uuid)), "uuidgen makes one");
  return uuid;
}

std::string optionalText(Keys& keys, std::string_view key) {
  const std::string* text = keys.string(key);
  return text == nullptr ? "" : *text;
}

// 1 is the only version there is. Real files also write <real>1</real>; <string>1</string> is a template generator's
// mistake and refused.
void checkVersion(Keys& keys, const plist::Dictionary& dictionary) {
  const plist::Value* value = dictionary.find("PayloadVersion");
  if (value != nullptr && value->real() == 1.0) {
    keys.known({"PayloadVersion"});
    keys.warn("PayloadVersion", "is <real>1</real>, should be <integer>1</integer>");
    return;
  }
  if (const auto version = keys.integer("PayloadVersion", Need::Required); version && *version != 1)
    keys.error("PayloadVersion", fmt::format("is {}, must be 1", *version));
}

std::string trustSentence(const Signer& signer) {
  switch (signer.trust) {
    case Trust::NotEvaluated: return "";
    case Trust::Trusted: return "";
    case Trust::Expired: return "the signer's certificate chain is outside its dates: " + signer.trustProblem;
    case Trust::Untrusted: return "the signer is not trusted: " + signer.trustProblem;
  }
  return "";
}

std::optional<Secret> Importer::unwrap(ByteView bytes) {
  if (bytes.size() > options.limits.bytes) {
    report.error("",
                 fmt::format("the file has {} bytes, more than the limit of {}", bytes.size(), options.limits.bytes));
    return std::nullopt;
  }
  if (!looksLikeCms(bytes)) return Secret(toBytes(bytes));
  Result<SignedContent> content = verifyCms(bytes, options.signerTrust, options.now);
  if (!content) {
    const Error& error = content.error();
    report.error("", error.message, error.hint, error.reason);
    return std::nullopt;
  }
  result.signature.isSigned = true;
  result.signature.signers = std::move(content->signers);
  for (const Signer& signer : result.signature.signers) {
    const CertificateInfo& leaf = signer.chain.front();
    report.note("", fmt::format("signed by {}, issued by {}", shown(leaf.subject), shown(leaf.issuer)));
    if (!signer.weakness.empty()) report.warn("", fmt::format("the signature is weak: {}", signer.weakness));
    if (const std::string sentence = trustSentence(signer); !sentence.empty()) report.warn("", sentence);
    if (signer.trust == Trust::NotEvaluated && leaf.notAfter < options.now)
      report.warn("", fmt::format("the signer's certificate expired at {}", rfc3339(leaf.notAfter)));
  }
  return Secret(std::move(content->content));
}

void Importer::readDates(Keys& keys, Profile& profile) {
  const auto wall = [&](std::string_view key) -> std::optional<Wall> {
    const auto date = keys.date(key);
    if (!date) return std::nullopt;
    const auto moment = date->wall();
    if (!moment) keys.warn(key, "is too far away to be observed");
    return moment;
  };
  profile.removalDate = wall("RemovalDate");
  if (const auto seconds = keys.number("DurationUntilRemoval")) {
    constexpr double kMost = 1e10;  // three centuries
    if (!(*seconds >= 0 && *seconds <= kMost))
      keys.error("DurationUntilRemoval", "is not a number of seconds to wait");
    else
      profile.durationUntilRemoval = std::chrono::seconds(static_cast<int64_t>(*seconds));
  }
  profile.expirationDate = wall("PayloadExpirationDate");
  if (profile.removalDate && *profile.removalDate <= options.now)
    keys.warn("RemovalDate", fmt::format("{} has passed", rfc3339(*profile.removalDate)));
  if (profile.expirationDate && *profile.expirationDate <= options.now)
    keys.warn("PayloadExpirationDate",
              fmt::format("{} has passed: ask for a newer profile", rfc3339(*profile.expirationDate)));
}

// Apple's schema nests one level more than its documentation and real files do; both are read.
void Importer::readConsent(Keys& keys, Profile& profile) {
  const plist::Dictionary* texts = keys.dictionary("ConsentText");
  if (texts == nullptr) return;
  for (const plist::Entry& entry : texts->entries()) {
    const std::string path = plist::childPath(keys.pathOf("ConsentText"), shown(entry.key));
    if (const std::string* text = entry.value.string()) {
      profile.consentText[entry.key] = *text;
    } else if (const plist::Dictionary* nested = entry.value.dictionary()) {
      for (const plist::Entry& inner : nested->entries()) {
        if (const std::string* innerText = inner.value.string())
          profile.consentText[inner.key] = *innerText;
        else
          report.error(plist::childPath(path, shown(inner.key)), "must be a string");
      }
    } else {
      report.error(path, "must be a string");
    }
  }
  if (!profile.consentText.empty()) keys.note("ConsentText", "the person installing the profile must agree to a text");
}

void Importer::readTopLevel(const plist::Dictionary& root, Profile& profile) {
  Keys keys(root, "", report);
  if (const std::string* type = keys.string("PayloadType", Need::Required); type != nullptr && *type != "Configuration")
    keys.error("PayloadType", fmt::format("is \"{}\", must be Configuration", shown(*type)),
               "the payload's own type belongs in its dictionary in PayloadContent");
  checkVersion(keys, root);
  profile.identifier = readName(keys, "PayloadIdentifier");
  profile.uuid = readUuid(keys);
  profile.displayName = optionalText(keys, "PayloadDisplayName");
  profile.description = optionalText(keys, "PayloadDescription");
  profile.organization = optionalText(keys, "PayloadOrganization");
  profile.scope =
      keys.choice<Scope>("PayloadScope", {{"System", Scope::System}, {"User", Scope::User}}).value_or(Scope::System);
  if (profile.scope == Scope::User) keys.warn("PayloadScope", "is User; Wayleave installs for the device");
  profile.removalDisallowed = keys.boolean("PayloadRemovalDisallowed").value_or(false);
  if (keys.boolean("HasRemovalPasscode").value_or(false))
    keys.warn("HasRemovalPasscode", "a passcode for removal is not supported: administrators can remove the profile");
  readDates(keys, profile);
  if (const auto device = keys.integer("TargetDeviceType", Need::Optional, 0, 6)) {
    profile.targetDeviceType = static_cast<int>(*device);
    constexpr std::string_view kDevices[] = {
        "any device", "iPhone, iPad or iPod touch", "Apple Watch", "HomePod", "Apple TV", "Mac", "Vision Pro"};
    if (*device != 0 && *device != 5)
      keys.warn("TargetDeviceType", fmt::format("is {}: the profile is meant for {}", *device, kDevices[*device]));
  }
  readConsent(keys, profile);
  const bool encrypted = keys.boolean("IsEncrypted").value_or(false);
  keys.known({"EncryptedPayloadContent", "PayloadContent"});
  if (encrypted || keys.has("EncryptedPayloadContent"))
    keys.error(keys.has("EncryptedPayloadContent") ? "EncryptedPayloadContent" : "IsEncrypted",
               "the payloads are encrypted to a device identity", "install the decrypted profile", Reason::Unsupported);
  keys.finish();
  for (const plist::Entry& entry : root.entries())
    if (entry.key != "PayloadContent" && entry.value.string() != nullptr) {
      if (const auto variable = templateVariable(*entry.value.string()))
        report.warn(
            shown(entry.key),
            fmt::format("holds {}, which looks like a template variable that was not filled in", shown(*variable)));
    }
}

std::vector<PayloadHeader> Importer::readHeaders(const plist::Array& contents, std::string_view profileUuid) {
  std::vector<PayloadHeader> headers;
  for (size_t i = 0; i < contents.size(); ++i) {
    PayloadHeader header;
    header.index = i;
    const plist::Dictionary* dictionary = contents[i].dictionary();
    if (dictionary == nullptr) {
      report.error(header.path(), fmt::format("is {}, must be a dictionary", contents[i].typeName()));
      headers.push_back(std::move(header));
      continue;
    }
    if (const plist::Value* type = dictionary->find("PayloadType"); type != nullptr && type->string() != nullptr)
      header.type = *type->string();
    if (const plist::Value* name = dictionary->find("PayloadIdentifier"); name != nullptr && name->string() != nullptr)
      header.identifier = *name->string();
    report.setPayload(header.label());
    Keys keys(*dictionary, header.path(), report);
    header.type = readName(keys, "PayloadType");
    checkVersion(keys, *dictionary);
    header.identifier = readName(keys, "PayloadIdentifier");
    header.uuid = readUuid(keys);
    header.displayName = optionalText(keys, "PayloadDisplayName");
    header.description = optionalText(keys, "PayloadDescription");
    header.organization = optionalText(keys, "PayloadOrganization");
    headers.push_back(std::move(header));
  }
  report.setPayload("");
  requireUnique(headers, profileUuid);
  return headers;
}

void Importer::requireUnique(const std::vector<PayloadHeader>& headers, std::string_view profileUuid) {
  const auto folded = [](std::string text) {
    for (char& c : text)
      if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 32);
    return text;
  };
  std::map<std::string, std::string> uuids;  // folded → where it was seen first
  std::map<std::string, std::string> identifiers;
  if (!profileUuid.empty()) uuids.emplace(folded(std::string(profileUuid)), "the profile itself");
  for (const PayloadHeader& header : headers) {
    report.setPayload(header.label());
    if (!header.uuid.empty())
      if (const auto [first, fresh] = uuids.emplace(folded(header.uuid), header.path()); !fresh)
        report.error(plist::childPath(header.path(), "PayloadUUID"),
                     fmt::format("{} is also the UUID of {}", shown(header.uuid), first->second),
                     "every payload needs its own");
    if (!header.identifier.empty())
      if (const auto [first, fresh] = identifiers.emplace(header.identifier, header.path()); !fresh)
        report.error(plist::childPath(header.path(), "PayloadIdentifier"),
                     fmt::format("{} is also the identifier of {}", shown(header.identifier), first->second),
                     "every payload needs its own");
  }
  report.setPayload("");
}

PayloadBody Importer::skipUnknown(const plist::Dictionary& dictionary, const PayloadHeader& header) {
  constexpr size_t kShownKeys = 12;
  std::string keys;
  size_t count = 0;
  for (const plist::Entry& entry : dictionary.entries()) {
    if (std::ranges::find(kCommonKeys, entry.key) != kCommonKeys.end()) continue;
    if (count < kShownKeys) keys += (count == 0 ? "" : ", ") + shown(entry.key);
    ++count;
  }
  if (count > kShownKeys) keys += fmt::format(" and {} more", count - kShownKeys);
  if (!header.type.empty())
    report.warn(plist::childPath(header.path(), "PayloadType"),
                fmt::format("{} is not a payload type that Wayleave carries out; the payload is skipped{}",
                            shown(header.type), count == 0 ? "" : fmt::format(" with its keys {}", keys)));
  return UnknownPayload{};
}

PayloadBody Importer::readBody(const plist::Dictionary& dictionary, const PayloadHeader& header,
                               const Resolver& resolver) {
  Keys keys(dictionary, header.path(), report);
  keys.known(kCommonKeys);
  const ReadContext context{header, resolver, report, options.now};
  const std::string_view type = header.type;
  if (type.starts_with("com.apple.")) {
    const bool isKnown = yieldsCertificate(type) || yieldsIdentity(type) || type == "com.apple.vpn.managed" ||
                         type == "com.apple.declarations" || type == "com.apple.mdm";
    if (isKnown) reportTemplateVariables(dictionary, header.path(), report);
  }
  if (yieldsCertificate(type)) return readCertificatePayload(keys, context);
  if (type == "com.apple.security.pkcs12") return readPkcs12Payload(keys, context);
  if (type == "com.apple.security.acme") return readAcmePayload(keys, context);
  if (type == "com.apple.security.scep") return readScepPayload(keys, context);
  if (type == "com.apple.vpn.managed") return readVpnPayload(keys, context);
  if (type == "com.apple.declarations") return readDeclarationsPayload(keys, context);
  if (type == "com.apple.mdm") return readMdmPayload(keys, context);
  return skipUnknown(dictionary, header);
}

// What is kept of a payload beside its typed form.
plist::Dictionary withoutSecrets(plist::Dictionary dictionary, const PayloadHeader& header) {
  removeSecrets(dictionary);
  if (header.type == "com.apple.security.pkcs12") dictionary.set("PayloadContent", Bytes{});
  return dictionary;
}

std::optional<Profile> Importer::read(plist::Document& document) {
  for (const std::string& warning : document.warnings) report.warn("", warning);
  report.useLines(std::move(document.lines));
  plist::Dictionary* root = document.root.dictionary();
  if (root == nullptr) {
    report.error("", fmt::format("a property list, but not a profile: the root is {}, not a dictionary",
                                 document.root.typeName()));
    return std::nullopt;
  }
  const bool looksLikeProfile =
      std::ranges::any_of(std::initializer_list<std::string_view>{"PayloadType", "PayloadContent", "PayloadIdentifier",
                                                                  "PayloadUUID", "PayloadVersion"},
                          [&](std::string_view key) { return root->contains(key); });
  if (!looksLikeProfile) {
    report.error("", "a property list, but not a configuration profile: it has none of a profile's keys");
    return std::nullopt;
  }
  Profile profile;
  readTopLevel(*root, profile);

  plist::Value* content = root->find("PayloadContent");
  plist::Array none;
  plist::Array* payloads = content == nullptr ? nullptr : content->array();
  if (payloads == nullptr) {
    payloads = &none;
    if (content != nullptr)
      report.error("PayloadContent", fmt::format("is {}, must be an array of dictionaries", content->typeName()));
    else if (!root->contains("EncryptedPayloadContent"))
      report.error("PayloadContent", "is missing");
  } else if (payloads->empty()) {
    report.warn("PayloadContent", "is empty: there is nothing to install");
  } else if (payloads->size() > kMostPayloads) {
    report.error("PayloadContent", fmt::format("has {} payloads, more than {}", payloads->size(), kMostPayloads));
    payloads = &none;
  }

  const std::vector<PayloadHeader> headers = readHeaders(*payloads, profile.uuid);
  const Resolver resolver(headers);
  for (const PayloadHeader& header : headers) {
    plist::Dictionary* dictionary = (*payloads)[header.index].dictionary();
    if (dictionary == nullptr) continue;
    report.setPayload(header.label());
    PayloadBody body = readBody(*dictionary, header, resolver);
    if (auto* vpn = std::get_if<VpnPayload>(&body)) removeSecrets(vpn->vendorConfig);
    profile.payloads.push_back(Payload{header, std::move(body), withoutSecrets(std::move(*dictionary), header)});
  }
  report.setPayload("");
  for (plist::Entry const& entry : root->entries())
    if (entry.key != "PayloadContent") profile.topLevel.add(entry.key, entry.value);
  removeSecrets(profile.topLevel);
  if (hasErrors(result.findings)) return std::nullopt;
  return profile;
}

}  // namespace

const Payload* Profile::findPayload(std::string_view wanted) const {
  const auto found = std::ranges::find_if(payloads, [&](const Payload& p) { return p.header.uuid == wanted; });
  return found == payloads.end() ? nullptr : &*found;
}

ImportResult importProfile(ByteView bytes, const ImportOptions& options) {
  ImportResult result;
  Importer importer(options, result);
  const std::optional<Secret> content = importer.unwrap(bytes);
  if (!content) return result;
  Result<plist::Document> document = plist::parse(content->view(), {.limits = options.limits, .recordLines = true});
  if (!document && asText(content->view()).starts_with("-----BEGIN ")) {
    importer.report.error("", "is PEM text, not a profile", "a signed profile is DER: openssl cms -outform DER");
    return result;
  }
  if (!document) {
    importer.report.error("", document.error().message, document.error().hint, document.error().reason);
    return result;
  }
  result.profile = importer.read(*document);
  return result;
}

std::vector<localapi::ProxyConfiguration> proxyConfigurations(const Profile& profile) {
  std::vector<localapi::ProxyConfiguration> out;
  for (const Payload& payload : profile.payloads) {
    const VpnPayload* vpn = payload.as<VpnPayload>();
    if (vpn == nullptr || !vpn->proxy) continue;
    localapi::ProxyConfiguration configuration = *vpn->proxy;
    configuration.profileIdentifier = profile.identifier;
    for (const std::string& uuid : vpn->trustAnchorPayloadUuids) {
      const Payload* anchor = profile.findPayload(uuid);
      const CertificatePayload* certificates = anchor == nullptr ? nullptr : anchor->as<CertificatePayload>();
      if (certificates == nullptr) continue;  // cannot be: the importer resolved it
      for (const CertificateInfo& certificate : certificates->certificates)
        configuration.trustAnchors.push_back(toPem(certificate.der));
    }
    out.push_back(std::move(configuration));
  }
  return out;
}

}  // namespace wayleave::management
