#include "keychain/explain/reference_explanation.h"

#include <fmt/format.h>

namespace wayleave::keychain::explain {
namespace {

using namespace dispatch;

constexpr const char* kThread = "https://developer.apple.com/forums/thread/836496";
constexpr const char* kTn3137 = "https://developer.apple.com/documentation/technotes/tn3137-on-mac-keychains";

std::vector<Call> callsFor(const Bytes& reference, bool file) {
  const Query base = Query{}.with("kSecValuePersistentRef", reference).with("kSecReturnRef", true);
  const std::string searchList = "[System.keychain]";
  std::vector<Call> calls = {
      {"SecItemCopyMatching: the reference alone", Api::CopyMatching, base},
      {"… + kSecClass = kSecClassIdentity", Api::CopyMatching, base.with("kSecClass", std::string("idnt"))},
      {"… + kSecUseDataProtectionKeychain = true", Api::CopyMatching, base.with("kSecUseDataProtectionKeychain", true)},
      {"… + kSecMatchSearchList", Api::CopyMatching, base.with("kSecMatchSearchList", searchList)},
      {"kSecMatchItemList = [reference], class identity, kSecMatchSearchList", Api::CopyMatching,
       Query{}
           .with("kSecMatchItemList", std::vector<Bytes>{reference})
           .with("kSecClass", std::string("idnt"))
           .with("kSecMatchSearchList", searchList)
           .with("kSecReturnRef", true)},
      {"SecKeychainItemCopyFromPersistentReference", Api::CopyFromPersistentReference, base},
  };
  if (!file) {
    calls.push_back({"… + kSecAttrAccessGroup = com.apple.managed.vpn.shared", Api::CopyMatching,
                     base.with("kSecAttrAccessGroup", std::string(kVpnSharedGroup))});
    calls.push_back({"… + kSecUseSystemKeychainAlways = true (SPI)", Api::CopyMatching,
                     base.with("kSecUseSystemKeychainAlways", true)});
  }
  return calls;
}

Reference mainReference(const Query& query) {
  if (const Bytes* bytes = query.reference())
    if (Result<Decoded> decoded = decodeReference(*bytes, {.lenient = true})) return std::move(decoded->reference);
  if (const Value* value = query.find("kSecMatchItemList"))
    if (const auto* list = std::get_if<std::vector<Bytes>>(value); list != nullptr && !list->empty())
      if (Result<Decoded> decoded = decodeReference(list->front(), {.lenient = true}))
        return std::move(decoded->reference);
  return UuidReference{};
}

Cell predicted(Api api, const Query& query, const Caller& caller, const Reference& reference) {
  const bool file = std::holds_alternative<FileReference>(reference);
  return {predict(api, query, caller, worldWith(reference, file ? Home::FileKeychain : Home::UserKeychain)),
          predict(api, query, caller, worldWith(reference, file ? Home::FileKeychain : Home::SystemKeychain))};
}

std::vector<const Caller*> orAll(const std::vector<const Caller*>& callers) {
  if (!callers.empty()) return callers;
  std::vector<const Caller*> all;
  for (const Caller& caller : contexts()) all.push_back(&caller);
  return all;
}

void describeFile(ReferenceExplanation& out, const FileReference& file) {
  out.form = file.item.recordType == RecordType::Certificate
                 ? file.identityMarker ? "file keychain (ssui), certificate, made from an identity"
                                       : "file keychain (ssui), certificate"
                 : fmt::format("file keychain (ssui), {}", text(file.item.recordType));
  for (const Field& field : out.decoded.fields)
    if (!field.value.empty() && !field.name.ends_with(" header") && !field.name.ends_with(" length"))
      out.values.emplace_back(field.name, field.value);
  out.values.emplace_back("identity marker", file.identityMarker ? "present" : "absent");

  const bool system = file.keychainPath.starts_with("/Library/Keychains/");
  out.where.push_back(
      {"In a file keychain, at the path that the reference carries. The path is opened as it stands; `~` is the home "
       "of "
       "whoever resolves it.",
       Certainty::Code, "OSX/libsecurity_keychain/lib/Item.cpp"});
  if (system)
    out.where.push_back(
        {"System.keychain is in reach of root daemons and system extensions, and before login; it is their only search "
         "list and "
         "their default keychain.",
         Certainty::Documented, kTn3137});
  else
    out.where.push_back({"A keychain of one user: a root process resolves `~` to its own home and does not find it.",
                         Certainty::Code, "OSX/libsecurityd/lib/dictionary.cpp"});
  if (file.item.recordType != RecordType::Certificate) return;
  out.notes.push_back({"The name is the certificate's issuer, normalised, not its subject.", Certainty::Code,
                       "OSX/libsecurity_keychain/lib/Certificate.cpp populateAttributes"});
  out.notes.push_back(
      {"The last bytes are the certificate's serial number (its length, then the INTEGER's contents). 20 of them look "
       "like a SHA-1 "
       "digest and are none.",
       Certainty::Files, "OSX/libsecurity_keychain/lib/PrimaryKey.cpp"});
  out.notes.push_back({"The 16 bytes after `ssui` are the constant GUID of the CSP/DL plug-in, not an id of the item.",
                       Certainty::Code, "OSX/libsecurity_cssm/lib/guids.cpp"});
  out.notes.push_back(
      {file.identityMarker
           ? "`idnt` says that the reference was made from an identity: the old function returns an identity."
           : "Without `idnt` the reference names the certificate; with kSecClass = kSecClassIdentity the private key "
             "is paired with it "
             "by public-key hash. No `idnt` does not prove that it was made from a certificate.",
       Certainty::Code, "OSX/libsecurity_keychain/lib/SecItem.cpp FilterCandidateItem"});
  if (byteOrderOf(file) == ByteOrder::Big)
    out.notes.push_back(
        {"CertType stands in big-endian order: written on PowerPC. Apple's comparison on today's Macs is by bytes.",
         Certainty::Inferred,
         {}});
}

void describeDataProtection(ReferenceExplanation& out) {
  ItemClass itemClass = ItemClass::Certificate;
  if (const auto* uuid = std::get_if<UuidReference>(&out.decoded.reference)) {
    itemClass = uuid->itemClass;
    out.form = "data protection keychain, class and UUID of the row (20 bytes)";
    out.values = {{"class", std::string(fourcc(itemClass))}, {"UUID of the row", formatUuid(uuid->uuid)}};
    out.notes.push_back(
        {"The UUID is random and means something inside one database only: no checksum, no path, no keychain's name.",
         Certainty::Code, "keychain/securityd/SecItemServer.c SecServerUUIDDataCreate"});
  } else if (const auto* row = std::get_if<RowReference>(&out.decoded.reference)) {
    itemClass = row->itemClass;
    out.form = "data protection keychain, class and row id (12 bytes)";
    out.values = {{"class", std::string(fourcc(itemClass))}, {"SQLite row id", fmt::format("{}", row->rowId)}};
    out.notes.push_back({"Made when static references are off, or for a row without a UUID.", Certainty::Code,
                         "OSX/sec/Security/SecItem.m"});
  } else if (const auto* token = std::get_if<TokenReference>(&out.decoded.reference)) {
    itemClass = token->itemClass;
    out.form = "CryptoTokenKit token (tkpr)";
    out.values = {{"class", std::string(fourcc(itemClass))}};
    for (const Field& field : out.decoded.fields)
      if (field.name == "token ID" || field.name == "object ID") out.values.emplace_back(field.name, field.value);
  }
  if (itemClass == ItemClass::Certificate)
    out.notes.push_back(
        {"The reference names the certificate's row. On the data protection side kSecClassIdentity with it is -25306; "
         "ask for the "
         "certificate and pair the key, or put `idnt` in place of `cert` (same 16 bytes).",
         Certainty::Code, "keychain/securityd/SecDbQuery.c query_set_class"});
  if (itemClass == ItemClass::Identity)
    out.notes.push_back({"There are no identity rows: `idnt` carries the certificate's UUID or row id.",
                         Certainty::Code, "SecItem.m explode_identity"});
  out.notes.push_back(
      {"Beside the reference no attribute may stand, not even an allowed access group: that is -50; a group not held "
       "is -34018.",
       Certainty::Code, "keychain/securityd/SecItemServer.c"});
  out.where.push_back(
      {"In a data protection keychain; the bytes do not say in which.", Certainty::Code, "OSX/sec/Security/SecItem.m"});
  out.where.push_back(
      {"Either the user's (secd, only in a login session: ~/Library/Keychains/<hardware UUID>/keychain-2.db) …",
       Certainty::Code, "OSX/sec/ipc/com.apple.secd.plist"});
  out.where.push_back(
      {"… or, since macOS 14, the system's (securityd_system: /Library/Keychains/system-keychain-2.db), which only "
       "processes with "
       "com.apple.private.system-keychain may ask.",
       Certainty::Code, "OSX/sec/ipc/macos/com.apple.securityd.system.plist"});
  out.where.push_back(
      {"That an identity from a device-channel ACME payload is in the system's one is plausible, and not established.",
       Certainty::Inferred, kThread});
  out.advice = waysOutOfTheDaemon();
}

}  // namespace

const std::vector<Advice>& waysOutOfTheDaemon() {
  static const std::vector<Advice> all = {
      {"Deliver the identity by PKCS#12 or SCEP into System.keychain: an ssui reference resolves in a daemon and "
       "before login.",
       "A software key: not bound to the hardware, not attested. That a signature works in a system extension is not "
       "shown; SCEP is inferred.",
       Certainty::Documented, kThread},
      {"Ask a broker: a process in which the identity resolves holds it and signs; the daemon gets a chain and "
       "signatures. Wayleave's "
       "identityd is that process on Linux, where it resolves both forms of reference with nobody logged in.",
       "On macOS the broker runs in a login session: not before login, one choice per user; whether a third-party "
       "agent may use an MDM key is "
       "not proven.",
       Certainty::Inferred, "https://developer.apple.com/forums/thread/744290"},
      {"Let the system extension make its own Secure Enclave key with CryptoKit and enrol it.",
       "P-256 only; the attestation by device management is lost; before login only with AccessibleAlways; statements "
       "about support conflict.",
       Certainty::Inferred, "https://developer.apple.com/forums/thread/804612"},
      {"Package the provider as an app extension: user context, with the capability for com.apple.managed.vpn.shared.",
       "Works only after login, per user; needs an Apple-managed entitlement; not with Developer ID.",
       Certainty::Documented, "https://github.com/firezone/firezone/pull/15004"},
      {"macOS 27: provision the identity to the extension by a managed app's ExtensionConfigs and the ManagedApp "
       "framework.",
       "Nothing says that a system extension may call it.", Certainty::Unknown,
       "https://developer.apple.com/documentation/managedapp"},
      {"Ask Apple: the rule by which iOS lets a network extension use the item behind a reference it holds is compiled "
       "out on macOS.",
       "A feedback report, and time.", Certainty::Code,
       "keychain/securityd/SecItemServer.c canAccessNetworkExtensionAccessGroups"},
  };
  return all;
}

Result<ReferenceExplanation> explainReference(ByteView bytes, bool lenient, const std::vector<const Caller*>& callers) {
  Result<Decoded> decoded = decodeReference(bytes, {.lenient = lenient, .fields = true});
  if (!decoded) return propagate(decoded.error());
  ReferenceExplanation out;
  out.bytes = toBytes(bytes);
  out.decoded = std::move(*decoded);
  const auto* file = std::get_if<FileReference>(&out.decoded.reference);
  if (file != nullptr)
    describeFile(out, *file);
  else
    describeDataProtection(out);
  out.calls = callsFor(out.bytes, file != nullptr);
  for (const Caller* caller : orAll(callers)) {
    MatrixRow row{caller, {}};
    for (const Call& call : out.calls)
      row.cells.push_back(predicted(call.api, call.query, *caller, out.decoded.reference));
    out.matrix.push_back(std::move(row));
  }
  return out;
}

QueryExplanation explainQuery(Api api, const Query& query, const std::vector<const Caller*>& callers) {
  QueryExplanation out{api, query, {}};
  const Reference reference = mainReference(query);
  for (const Caller* caller : orAll(callers)) out.rows.push_back({caller, {predicted(api, query, *caller, reference)}});
  return out;
}

}  // namespace wayleave::keychain::explain
