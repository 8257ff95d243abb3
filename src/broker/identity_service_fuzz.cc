// Any request at all, by a caller with every grant: the service must answer each exactly once, and live. The HTTP
// framing is localapi's (local_api_fuzz.cc); here the input is method, path, query and body. One identity is there, so
// that references are resolved, shapes are judged and signatures made: kReference, which the seeds name.

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <mutex>

#include "base/log.h"
#include "broker/certificate_test_support.h"
#include "broker/identity_service.h"
#include "keychain/reference.h"
#include "keys/software_key.h"
#include "localapi/url.h"

namespace {

using namespace wayleave;

// Everybody is this verified caller: verification itself costs too much per input, and has tests of its own.
class TrustingWitness final : public broker::Witness {
 public:
  Result<broker::Observation> observe(uid_t, pid_t, int, ino_t) override {
    broker::Observation seen;
    seen.alive = true;
    seen.executable = "/bin/true";
    seen.tracer = 0;
    seen.sameUserNamespace = true;
    seen.connection = broker::ConnectionFinding::Own;
    return seen;
  }
  Result<std::string> glance(uid_t, pid_t, int) override { return std::string(); }
};

class Answer final : public localapi::Responder {
 public:
  void respond(localapi::Response response) override {
    if (response.status < 200 || response.status > 599) __builtin_trap();
    finish();
  }
  std::shared_ptr<localapi::EventStream> openStream() override {
    finish();
    struct Gone final : localapi::EventStream {
      bool send(std::string) override { return false; }
      bool isOpen() const override { return false; }
    };
    return std::make_shared<Gone>();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return answers_ > 0; });
    if (answers_ != 1) __builtin_trap();
  }

 private:
  void finish() {
    const std::lock_guard lock(mutex_);
    if (++answers_ != 1) __builtin_trap();
    done_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable done_;
  int answers_ = 0;
};

// "certAAAAAAAAAAAAAAAA", in base64 Y2VydEFBQUFBQUFBQUFBQUFBQUE=.
constexpr std::array<uint8_t, 16> kUuid = {'A', 'A', 'A', 'A', 'A', 'A', 'A', 'A', 'A', 'A', 'A', 'A', 'A', 'A', 'A', 'A'};

// Under a profile's name that no input will hit upon, or it would soon be removed.
bool install(keychain::Store& store, broker::KeyRing& keys) {
  const auto made = keys.create("resident", keys::KeyType::EcP384, 0, false);
  if (!made || !store.beginInstallation("resident")) return false;
  keychain::IdentityRecord identity;
  identity.id = identity.keyId = identity.installation = identity.payloadUuid = "resident";
  identity.keychain = keychain::KeychainKind::DataProtection;
  identity.uuid = kUuid;
  identity.reference = keychain::mintDataProtectionReference(keychain::ItemClass::Certificate, kUuid);
  identity.source = "pkcs12";
  identity.accessGroup = "g";
  identity.profileIdentifier = toHex(randomBytes(16));
  identity.payloadIdentifier = "resident";
  identity.chain = {broker::certificateForSpki(made->spki, 5)};
  return store.addKey({.id = "resident", .installation = "resident", .payloadUuid = "resident", .kind = made->kind,
                       .spki = made->spki, .blob = made->blob}) &&
         store.addIdentity(identity) && store.commit("resident", {}) && store.resolve(identity.reference);
}

struct World {
  std::string folder = [] {
    std::string name = (std::filesystem::temp_directory_path() / "wayleave-fuzz.XXXXXX").string();
    return std::string(::mkdtemp(name.data()));
  }();
  ~World() { std::filesystem::remove_all(folder); }
  SystemClock clock;
  std::unique_ptr<keychain::Store> store = keychain::Store::open(folder + "/identities.db").value();
  broker::MachineKeys keys{*store, keys::Sealer::withKey(Secret(Bytes(32, 1))), nullptr, clock};
  TrustingWitness witness;
  broker::CallerVerifier callers{witness, clock};
  broker::GrantTable grants{
      folder + "/none",
      {},
      "[[grant]]\nname='all'\nuser=" + std::to_string(::getuid()) +
          "\naccess-groups='*'\nusages=['tls-client','digest','sign','list','manage','inspect']\nsignatures-per-minute=1000000\n"};
  std::unique_ptr<broker::AuditLog> audit =
      broker::AuditLog::open(folder, clock, {.fileBytes = 65536, .files = 1}).value();
  broker::IdentityService service{{*store, keys, callers, grants, *audit, clock, folder}};
  std::shared_ptr<const localapi::Peer> peer = [] {
    auto made = std::make_shared<localapi::Peer>();
    made->pid = ::getpid();
    made->uid = ::getuid();
    made->pidfd = Fd::adopt(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
    return made;
  }();
};

// Up to the next NUL.
std::string_view take(std::string_view& rest) {
  const size_t end = rest.find('\0');
  const std::string_view part = rest.substr(0, end);
  rest = end == std::string_view::npos ? std::string_view{} : rest.substr(end + 1);
  return part;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World* world = [] {
    log::start("fuzz", log::Level::Error);
    static World made;
    (void)made.service.reloadGrants();
    if (!install(*made.store, made.keys)) __builtin_trap();
    return &made;
  }();
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  localapi::Request request;
  const std::string_view method = take(rest);
  request.method = method == "P" ? "POST" : method == "D" ? "DELETE" : method == "G" ? "GET" : std::string(method);
  const Result<localapi::Target> target = localapi::parseTarget(take(rest));
  if (!target) return 0;
  request.path = target->path;
  request.query = target->query;
  request.contentType = "application/json";
  request.body = std::string(rest);
  request.peer = world->peer;
  const auto answer = std::make_shared<Answer>();
  world->service.handle(std::move(request), answer);
  answer->wait();
  return 0;
}
