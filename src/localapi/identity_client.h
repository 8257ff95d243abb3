#pragma once

// The typed client of identityd's local API (docs/identity-api.openapi.yaml). Blocking; every call has a deadline; safe
// from any thread. Looking and signing go over connections that are kept open (identityd verifies the caller of every
// request all the same), at most kMostConnections at a time, each process having its own; what changes anything opens a
// connection for itself.
// The abstract class is the seam: proxyd, managementd, the command line and the PKCS#11 module hold an
// `IdentityAgent&`; tests satisfy it in process.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/result.h"

namespace wayleave::localapi {

// An identity as a caller may see it. Public data only.
struct IdentityInfo {
  std::string id;              // our own stable UUID; survives renewal
  std::string label;           // PayloadDisplayName or the certificate's common name
  std::string source;          // "pkcs12", "scep", "acme"
  std::string keychain;        // "file", "data-protection"
  Bytes reference;             // persistent reference, either form; valid across renewal
  std::string accessGroup;     // "com.apple.managed.vpn.shared", …
  std::string keyType;         // "EC P-384", "RSA 2048"
  std::string keyKind;         // "software", "tpm"
  bool attested = false;       // the issuer saw an attestation of this key
  std::string subject;         // RFC 4514
  std::string issuer;
  std::string serial;          // hex
  std::string notBefore, notAfter;  // RFC 3339
  std::string renewAfter;      // RFC 3339, empty when nobody renews it
  std::string sha256;          // fingerprint of the leaf, hex
  std::vector<std::string> schemes;  // text(keys::SignatureScheme)
  std::vector<Bytes> chain;    // DER, leaf first; empty in lists, filled by resolve and show
  Bytes publicKey;             // SPKI DER
  std::string profileIdentifier, payloadUuid;  // what brought it
  std::string state;           // "active", "staged", "expired", "lost"
  std::string stateDetail;     // why, and what to do, when not active
};

// The handshake a signature is for. Signing is not a raw oracle (docs/architecture.md, "Signatures").
struct TlsSignRequest {
  Bytes reference;
  std::string scheme;
  bool tls13 = true;
  // TLS 1.3: the complete CertificateVerify content (RFC 8446 4.4.3: 64 spaces, context string, NUL, transcript hash).
  // TLS 1.2: the ready digest of the handshake messages.
  Bytes content;
};

// Where an imported identity will live and who owns it.
struct ImportRequest {
  std::string installation;  // id of a pending installation, made by beginInstallation
  std::string profileIdentifier, payloadIdentifier, payloadUuid, label;
  std::string accessGroup;
  Bytes pkcs12;
  Secret password;          // empty and `hasPassword` false: tried as missing, then as empty
  bool hasPassword = false;
};

struct KeyRequest {
  std::string installation;
  std::string payloadUuid;
  std::string keyType;  // "EC P-256", "EC P-384", "EC P-521", "RSA"
  int keySize = 0;      // RSA modulus bits; ignored for EC
  bool hardwareBound = false;
};
struct KeyInfo {
  std::string key;  // id
  std::string keyType, keyKind;
  Bytes publicKey;  // SPKI DER
  bool existed = false;  // the same request was made before (crash and resume): the same key comes back
};
// What a `tpm` attestation statement needs (WebAuthn 8.3 as changed by draft-ietf-acme-device-attest).
struct KeyAttestation {
  std::vector<Bytes> akChain;  // DER, AK certificate first
  Bytes signature;             // TPMT_SIGNATURE
  Bytes certifyInfo;           // TPMS_ATTEST
  Bytes publicArea;            // TPMT_PUBLIC of the key
  int algorithm = -7;          // COSE number of the AK's signature
};
// What a SCEP server encrypted for a key of identityd's.
struct OpenedReply {
  Bytes content;       // certificates: a degenerate SignedData
  std::string cipher;  // "AES-128-CBC", …
  bool weak = false;   // single DES
};
struct BindRequest {
  std::string installation;
  std::string key;
  std::string source;  // "acme", "scep"
  std::string profileIdentifier, payloadIdentifier, payloadUuid, label, accessGroup;
  std::vector<Bytes> chain;  // DER, leaf first
  bool attested = false;
};
// First half of an enrolment of the attestation key with an attestation CA (facts: POST /attest).
struct AkEnrolment {
  bool chainValid = false;  // an AK chain is stored and still good: nothing to do
  std::string manufacturer, model, firmwareVersion;
  Bytes ek;                    // SPKI DER
  std::vector<Bytes> ekCertificates;
  Bytes akPublic, createData, createAttestation, createSignature;
};

struct IdentityEvent {
  uint64_t sequence = 0;
  std::string kind;  // "identity-added", "identity-renewed", "identity-removed", "identity-lost"
  std::string identity;
  Bytes reference;
};

// What a declaration gives one program (com.apple.configuration.app.managed): identities under names that the program's
// developer chose. Which local program the composed identifier stands for, the administrator says (broker/grants.h).
struct DeclaredApplication {
  std::string composedIdentifier;  // "com.example.agent (TEAM123456)", or "com.example.agent" for any team
  std::string declaration;         // the declaration's identifier; shown, never compared
  struct Item {
    std::string identifier;    // "client-certificate": what the program asks for
    std::string identity;      // id of an identity; empty: there is none (yet)
    std::string problem = {};  // why there is none: what the server of the asset answered
    bool operator==(const Item&) const = default;
  };
  std::vector<Item> identities;
  bool operator==(const DeclaredApplication&) const = default;
};

class IdentityAgent {
 public:
  virtual ~IdentityAgent() = default;

  // For every granted caller.
  virtual Result<std::vector<IdentityInfo>> list() = 0;
  virtual Result<IdentityInfo> show(std::string_view id) = 0;
  // Either reference form, one call. Errors: NotFound (-25300), NotEntitled (-34018), IdentityLost, BadInput (-50).
  virtual Result<IdentityInfo> resolve(ByteView reference) = 0;
  virtual Result<Bytes> signTls(const TlsSignRequest& request, Steady deadline) = 0;
  virtual Result<Bytes> signMessage(ByteView reference, std::string_view scheme, ByteView message, Steady deadline) = 0;

  // For managementd's grant alone. An installation is the unit of all-or-nothing: what is brought under it is staged,
  // invisible to everyone else, until commit; commit and abort are idempotent.
  virtual Status beginInstallation(std::string_view installation) = 0;
  virtual Result<IdentityInfo> importPkcs12(ImportRequest request) = 0;
  virtual Result<KeyInfo> createKey(const KeyRequest& request) = 0;
  virtual Result<KeyAttestation> attestKey(std::string_view key, ByteView qualifyingData) = 0;
  // `certificationRequestInfo`: DER of the CSR's to-be-signed part; its public key must be this key's.
  virtual Result<Bytes> signCertificationRequest(std::string_view key, std::string_view scheme,
                                                 ByteView certificationRequestInfo) = 0;
  // SCEP (RFC 8894), for RSA keys in software. `key`: a key, or an identity for its key. Errors: BadInput (not of SCEP's
  // shape), Unsupported (another kind of key; an agent that does not enrol).
  // A self-signed certificate for the key, with which a request is signed when there is none yet. `subject`: DER name.
  virtual Result<Bytes> makeScepSigner(std::string_view key, ByteView subject);
  // `attributes`: DER of the signed attributes of a SCEP request, and nothing else; PKCS #1 with SHA-256.
  virtual Result<Bytes> signScepMessage(std::string_view key, ByteView attributes);
  // `envelope`: EnvelopedData for this key; opened only if certificates alone are in it. Errors: also KeyMismatch (it does
  // not open; never says why).
  virtual Result<OpenedReply> openScepReply(std::string_view key, ByteView envelope);
  virtual Result<IdentityInfo> bindCertificate(const BindRequest& request) = 0;
  // A renewed certificate for an active identity: same key, same reference.
  virtual Result<IdentityInfo> renewCertificate(std::string_view identity, const std::vector<Bytes>& chain) = 0;
  // Activates what is staged under `installation` and retires every active identity owned by the profiles in
  // `replacedProfiles`, in one transaction.
  virtual Status commitInstallation(std::string_view installation, const std::vector<std::string>& replacedProfiles) = 0;
  virtual Status abortInstallation(std::string_view installation) = 0;
  virtual Status removeProfileIdentities(std::string_view profileIdentifier) = 0;
  virtual Result<std::vector<std::string>> pendingInstallations() = 0;

  // The whole set, replacing the one before at once; kept by identityd across restarts. An identity may still be
  // staged: the name appears when it becomes active. Errors: BadInput (a malformed or repeated identifier, too many),
  // NotFound (no such identity; nothing was changed). An agent without applications need not override it.
  virtual Status declareApplications(const std::vector<DeclaredApplication>& all);

  virtual Result<AkEnrolment> beginAkEnrolment() = 0;
  virtual Result<Bytes> activateCredential(ByteView credential, ByteView secret) = 0;  // returns the secret
  virtual Status storeAkChain(const std::vector<Bytes>& chain) = 0;
};

// Of one agent, for looking and signing; further calls wait for one of them to end. Half of what one user may have open.
inline constexpr size_t kMostConnections = 32;

// The agent over identityd's socket. Errors of every call: Unavailable when nobody listens, with the hint to start it.
std::unique_ptr<IdentityAgent> makeIdentityClient(std::string socketPath,
                                                  std::chrono::milliseconds timeout = std::chrono::seconds{30});

// Follows GET /v1/watch until stopped, reconnecting with back-off; `onEvent` runs on the calling thread. After a
// reconnect `onReconnect` runs first: events may have been missed, so look at everything again. It runs also, once, when the
// broker no longer lets this caller watch: a grant was withdrawn, and what was seen under it may not be used any more.
void watchIdentities(const std::string& socketPath, std::stop_token stop,
                     const std::function<void(const IdentityEvent&)>& onEvent, const std::function<void()>& onReconnect);

}  // namespace wayleave::localapi
