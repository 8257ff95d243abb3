#pragma once

// identityd's local API (docs/identity-api.openapi.yaml): what callers may ask of the identities, and who may ask it.
//
// A request goes: the server's thread finds the route and hands it to a clerk (a worker thread); the clerk has the
// caller verified and looks up what the grants give it; then the request is served there, or, when it makes keys or
// reads PKCS#12, by the one thread for slow work; signatures go to their key's own queue. The server's thread never
// waits.
//
// Of identities that no grant of the caller covers nothing is said: not their names, not that they exist.

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "broker/application_streams.h"
#include "broker/applications.h"
#include "broker/audit.h"
#include "broker/caller.h"
#include "broker/certificate_view.h"
#include "broker/grants.h"
#include "broker/key_ring.h"
#include "broker/memo.h"
#include "broker/signing_queue.h"
#include "broker/token_bucket.h"
#include "broker/watchers.h"
#include "broker/workers.h"
#include "keychain/store.h"
#include "localapi/server.h"

namespace wayleave::broker {

struct ServiceParts {  // all outlive the service
  keychain::Store& store;
  KeyRing& keys;
  CallerVerifier& callers;
  GrantTable& grants;
  AuditLog& audit;
  const Clock& clock;
  std::string auditFolder;
  SigningLimits signing = {};
};

class IdentityService {
 public:
  explicit IdentityService(ServiceParts parts);
  ~IdentityService();
  IdentityService(const IdentityService&) = delete;
  IdentityService& operator=(const IdentityService&) = delete;

  // The handler for localapi::Server; never blocks. Bodies of requests are bounded by kMostBodyBytes beside the
  // server's limit.
  void handle(localapi::Request request, std::shared_ptr<localapi::Responder> responder);

  // Looks once whether the TPM is the one the stored keys were made in: identities whose keys are gone become "lost"
  // (and watchers hear it), those that work again "active". Runs in the background; the service serves meanwhile.
  void examineTpmKeys();
  // For SIGHUP. Watch streams end, so that their readers come back under the new grants.
  std::vector<GrantProblem> reloadGrants();
  // Answers everything still waiting; afterwards handle() refuses. Before the server is destroyed.
  void stop();

  // A PKCS#12 file is at most 1 MiB; base64 makes it 1.34 MiB.
  static constexpr size_t kMostBodyBytes = 2 * 1024 * 1024;

 private:
  struct Call;
  using CallPtr = std::shared_ptr<Call>;
  using Method = void (IdentityService::*)(const CallPtr&);
  enum class Place : uint8_t { Clerk, Slow };
  struct Route;
  static const std::vector<Route>& routes();

  void serve(const CallPtr& call, const Route& route);
  // Answers, each exactly once.
  void answer(const CallPtr& call, const nlohmann::json& body);
  void refuse(const CallPtr& call, const Error& error);
  // Refuses, with the caller's conditions in the answer and a line in the audit log.
  void refuseEntitlement(const CallPtr& call, const Error& error, const keychain::IdentityRecord* identity = nullptr);
  // The grant for `usage` over `accessGroup` (empty: over any), or null after having refused.
  const Grant* need(const CallPtr& call, Usage usage, std::string_view accessGroup = {});
  // The body as JSON, or nullopt after having refused.
  std::optional<nlohmann::json> body(const CallPtr& call);
  template <typename T>
  bool parsed(const CallPtr& call, const Result<T>& result);

  // service_read.cc
  void status(const CallPtr& call);
  void describeTpm(const CallPtr& call);
  void list(const CallPtr& call);
  void show(const CallPtr& call);
  void resolve(const CallPtr& call);
  void watch(const CallPtr& call);
  void caller(const CallPtr& call);
  void checkCaller(const CallPtr& call);
  void auditTail(const CallPtr& call);
  void auditVerify(const CallPtr& call);
  void grantsReload(const CallPtr& call);
  // service_sign.cc
  void signTls(const CallPtr& call);
  void signMessage(const CallPtr& call);
  void signRequest(const CallPtr& call);
  // service_scep.cc
  void makeScepSigner(const CallPtr& call);
  void signScepMessage(const CallPtr& call);
  void openScepReply(const CallPtr& call);
  struct Signature;
  // For the three: the grant, the key that the path names, and the one member of the body; nullopt after having refused.
  std::optional<Signature> scepUse(const CallPtr& call, const char* member, std::string_view usage);
  void sign(const CallPtr& call, Signature signature);
  void signatureDone(const CallPtr& call, const Signature& signature, Result<Bytes> result);
  std::optional<keychain::IdentityRecord> usableIdentity(const CallPtr& call, ByteView reference);
  bool withinRate(const CallPtr& call, const Grant& grant);
  void markLost(const keychain::IdentityRecord& identity, const Error& why);
  // service_install.cc
  void beginInstallation(const CallPtr& call);
  void pendingInstallations(const CallPtr& call);
  void importPkcs12(const CallPtr& call);
  void createKey(const CallPtr& call);
  void bindCertificate(const CallPtr& call);
  void commitInstallation(const CallPtr& call);
  void abortInstallation(const CallPtr& call);
  void removeProfile(const CallPtr& call);
  void renewCertificate(const CallPtr& call);
  // A renewal names the identity whose key it certifies again: managementd never learns the key's id.
  Result<keychain::KeyRecord> keyNamed(std::string_view keyOrIdentity);
  void attestKey(const CallPtr& call);
  void beginAk(const CallPtr& call);
  void activateAk(const CallPtr& call);
  void storeAkChain(const CallPtr& call);
  void announceRemoved(const std::vector<keychain::IdentityRecord>& before, const std::vector<std::string>& removed);

  // service_application.cc
  void declareApplications(const CallPtr& call);
  void showApplications(const CallPtr& call);
  void followApplication(const CallPtr& call);
  void applicationIdentity(const CallPtr& call);
  // Is the caller an application of the grants? False after having refused.
  bool needApplication(const CallPtr& call);
  // As refuse(), and which of ManagedApp's three errors it is.
  void refuseApplication(const CallPtr& call, const Error& error);
  std::optional<std::string> versionOf(const std::string& identity);
  // To watchers and applications.
  void announce(std::string kind, const keychain::IdentityRecord& identity);
  // The identity a reference names for this caller.
  Result<keychain::IdentityRecord> resolveFor(const Call& call, ByteView reference);

  // The identity as this caller may see it; `whole` adds the chain.
  nlohmann::json view(const keychain::IdentityRecord& record, bool whole);
  AuditEntry entryFor(const Call& call, std::string event) const;
  // Recorded before the answer leaves; false after having refused because it could not be.
  bool record(const CallPtr& call, AuditEntry entry);
  // At most a few refusals per user and minute get lines of their own: else a stranger could push the log's history
  // out.
  void recordRefusal(const Call& call, const Error& error, const keychain::IdentityRecord* identity);

  ServiceParts parts_;
  Watchers watchers_;
  ApplicationTable applications_;
  ApplicationStreams streams_;
  Memo<CertificateView> certificates_;
  Memo<keys::PublicKey> publicKeys_;
  std::mutex bucketsMutex_;
  std::map<std::string, TokenBucket> signatureBuckets_;
  std::map<uid_t, TokenBucket> refusalBuckets_;
  uint64_t unrecordedRefusals_ = 0;
  // Last, so that they end first: their work uses everything above.
  Workers clerks_;
  Workers slow_;
  SigningQueue signing_;
};

}  // namespace wayleave::broker
