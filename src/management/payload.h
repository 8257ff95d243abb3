#pragma once

// The payloads that Wayleave understands, typed. Values are checked: a payload that exists obeys the rules that
// docs/profile.md states, and its references name payloads of the same profile by their own spelling.

#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "localapi/proxy_configuration.h"
#include "management/cms_certificate.h"
#include "management/payload_key_rules.h"
#include "plist/value.h"

namespace wayleave::management {

// The keys that every payload has.
struct PayloadHeader {
  size_t index = 0;  // in PayloadContent
  std::string type;
  std::string identifier;
  std::string uuid;  // as the file spells it
  std::string displayName;
  std::string description;
  std::string organization;

  std::string path() const;   // "PayloadContent[2]"
  std::string label() const;  // "com.example.vpn (com.apple.vpn.managed)"
};

// One relative distinguished name: (OID or one of C, L, ST, O, OU, CN; value) pairs, usually one.
using Rdn = std::vector<std::pair<std::string, std::string>>;
using Subject = std::vector<Rdn>;

struct SubjectAltNames {
  std::vector<std::string> rfc822Names;
  std::vector<std::string> dnsNames;
  std::vector<std::string> uris;
  std::vector<std::string> ntPrincipalNames;  // otherName 1.3.6.1.4.1.311.20.2.3
  bool operator==(const SubjectAltNames&) const = default;
  bool empty() const { return *this == SubjectAltNames{}; }
};

// com.apple.security.root, .pkcs1, .pem
struct CertificatePayload {
  std::vector<CertificateInfo> certificates;  // at least one
  std::string fileName;
};

// com.apple.security.pkcs12. Both are secret: a file with an empty password protects nothing.
struct Pkcs12Payload {
  Secret content;
  std::optional<Secret> password;  // absent: to be asked for, or none
  std::string fileName;
  bool allowAllAppsAccess = false;
  bool keyIsExtractable = true;
};

// External account binding (RFC 8555 section 7.3.4); a key of ours, which Apple's payload lacks.
struct AcmeExternalAccount {
  std::string keyIdentifier;
  Secret hmacKey;
};

// com.apple.security.acme
struct AcmePayload {
  std::string directoryUrl;  // https
  std::string clientIdentifier;
  KeyType keyType = KeyType::EcSecPrimeRandom;
  int keySize = 0;  // bits
  bool hardwareBound = false;
  bool attest = false;
  Subject subject;
  SubjectAltNames subjectAltNames;
  std::optional<int> usageFlags;              // 1 signing, 4 encryption
  std::vector<std::string> extendedKeyUsage;  // dotted OIDs
  bool keyIsExtractable = true;
  bool allowAllAppsAccess = false;
  // Keys of ours, which Apple's systems ignore: the attestation CA for this machine's TPM (https, no trailing slash),
  // and the account that some CAs demand.
  std::string attestationUrl;
  std::optional<AcmeExternalAccount> externalAccount;
};

// com.apple.security.scep
struct ScepPayload {
  std::string url;
  std::string name;
  std::optional<Secret> challenge;
  Subject subject;
  SubjectAltNames subjectAltNames;
  int keySize = 1024;
  int keyUsage = 0;     // 1 signing, 4 encryption, 5 both, 0 not stated
  Bytes caFingerprint;  // empty, or the digest that its length tells: 16 MD5, 20 SHA-1, 32 SHA-256, 64 SHA-512
  int retries = 3;
  std::chrono::seconds retryDelay{10};
  bool keyIsExtractable = true;
  bool allowAllAppsAccess = false;
};

// com.apple.declarations: each the JSON text of one declaration, not yet read.
struct DeclarationsPayload {
  std::vector<Bytes> declarations;
};

// com.apple.mdm, the keys that an enrolment needs.
struct MdmPayload {
  std::string identityPayloadUuid;
  std::string topic;
  std::string serverUrl;
  std::string checkInUrl;  // serverUrl when the payload has none
  bool signMessage = false;
  bool checkOutWhenRemoved = false;
  int64_t accessRights = 0;
  std::vector<std::string> serverCapabilities;
  std::vector<std::string> serverPinningPayloadUuids;
  std::vector<std::string> checkInPinningPayloadUuids;
  bool pinningRevocationCheckRequired = false;
  std::string enrollmentMode;  // "", BYOD, ADDE
  std::string managedAppleId;
};

enum class AuthenticationMethod : uint8_t { Password, Certificate, PasswordAndCertificate };
enum class ProviderType : uint8_t { PacketTunnel, AppProxy };

struct OnDemandAction {
  std::vector<std::string> domains;
  bool neverConnect = false;  // else ConnectIfNeeded
  std::vector<std::string> requiredDnsServers;
  std::string requiredUrlProbe;
};
struct OnDemandRule {
  enum class Action : uint8_t { Allow, Connect, Disconnect, EvaluateConnection, Ignore };
  Action action = Action::Connect;
  std::vector<OnDemandAction> actionParameters;
  std::vector<std::string> dnsDomainMatch;
  std::vector<std::string> dnsServerAddressMatch;
  std::string interfaceTypeMatch;  // "", Ethernet, WiFi, Cellular
  std::vector<std::string> ssidMatch;
  std::string urlStringProbe;
};

// The dictionary TransparentProxy of com.apple.vpn.managed.
struct TransparentProxySettings {
  AuthenticationMethod authenticationMethod = AuthenticationMethod::Password;
  std::string identityPayloadUuid;  // "" = none
  std::optional<Secret> password;
  std::string providerBundleIdentifier;
  std::string providerDesignatedRequirement;  // verbatim: comments and quotes in it mean something
  ProviderType providerType = ProviderType::PacketTunnel;
  std::optional<int> order;
  bool disconnectOnIdle = false;
  std::optional<std::chrono::seconds> disconnectOnIdleTimer;
  bool enforceRoutes = false;
  bool onDemandEnabled = false;
  std::vector<OnDemandRule> onDemandRules;
};

// com.apple.vpn.managed
struct VpnPayload {
  std::string type;     // VPNType
  std::string subType;  // VPNSubType
  std::string userDefinedName;
  std::optional<TransparentProxySettings> transparentProxy;  // VPNType TransparentProxy only
  plist::Dictionary vendorConfig;                            // as in the file; passwords taken out
  // Ours (VPNSubType com.wayleave.proxy): what VendorConfig says. identityReference and trustAnchors are empty here;
  // proxyConfigurations() fills the anchors from trustAnchorPayloadUuids, the installer the reference.
  std::optional<localapi::ProxyConfiguration> proxy;
  std::vector<std::string> trustAnchorPayloadUuids;

  // The identity payload's PayloadUUID as that payload spells it; "" = none.
  std::string identityPayloadUuid() const { return transparentProxy ? transparentProxy->identityPayloadUuid : ""; }
};

struct UnknownPayload {};  // reported, never fatal

using PayloadBody = std::variant<UnknownPayload, CertificatePayload, Pkcs12Payload, AcmePayload, ScepPayload,
                                 VpnPayload, DeclarationsPayload, MdmPayload>;

struct Payload {
  PayloadHeader header;
  PayloadBody body;
  // The payload's dictionary as in the file, without its secrets: passwords and challenges read "(removed)", the
  // content of a PKCS#12 payload is empty.
  plist::Dictionary raw;

  template <typename T>
  const T* as() const {
    return std::get_if<T>(&body);
  }
  template <typename T>
  T* as() {
    return std::get_if<T>(&body);
  }
};

// True for the payloads that leave an identity (certificate and key) behind: pkcs12, acme, scep.
bool yieldsIdentity(std::string_view payloadType);
// root, pkcs1, pem
bool yieldsCertificate(std::string_view payloadType);

}  // namespace wayleave::management
