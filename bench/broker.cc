// wayleave-bench-broker: what the broker costs. Resolve and sign round trips with a number of callers at once: through
// identityd's socket, with the same kind of key in this very process, and through any PKCS#11 module (p11-kit's remoting
// of SoftHSM, for example); for broker.py.
//
//   install SOCKET PKCS12                                            with an empty password; prints the reference
//   broker SOCKET REFERENCE resolve|sign --clients N --seconds S     REFERENCE in base64
//   process --clients N --seconds S
//   pkcs11 MODULE PIN LABEL --clients N --seconds S                  CKM_ECDSA over a ready digest
//
// Prints: operations, seconds, p50 and p99 in microseconds, failures.

#include <dlfcn.h>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cstring>
#include <functional>
#include <thread>

#include <p11-kit/pkcs11.h>

#include "base/file.h"
#include "keys/software_key.h"
#include "localapi/identity_client.h"

namespace wayleave {
namespace {

using std::chrono::steady_clock;
using Operation = std::function<bool()>;

struct Options {
  std::string socket, reference, what, module, pin, label;
  size_t clients = 1;
  double seconds = 3;
};

[[noreturn]] void stop(const std::string& why) {
  fmt::print(stderr, "{}\n", why);
  std::exit(1);
}

// The content of a client's CertificateVerify with a SHA-384 transcript hash.
Bytes clientContent() {
  Bytes out(64, 0x20);
  append(out, asBytes("TLS 1.3, client CertificateVerify"));
  out.push_back(0);
  out.insert(out.end(), 48, 0x42);
  return out;
}

// Every client runs `makeOperation` for itself, then all begin together; what is under way at the end counts.
void measure(const Options& options, const std::function<Operation()>& makeOperation) {
  std::vector<std::vector<float>> times(options.clients);
  std::atomic<uint64_t> failures = 0;
  std::barrier ready(static_cast<std::ptrdiff_t>(options.clients) + 1);
  std::atomic<steady_clock::time_point> end{};
  std::vector<std::jthread> threads;
  for (size_t client = 0; client < options.clients; ++client)
    threads.emplace_back([&, client] {
      const Operation operation = makeOperation();
      if (!operation()) ++failures;  // connections, caches and code pages are warm before the count
      ready.arrive_and_wait();
      ready.arrive_and_wait();
      while (steady_clock::now() < end.load()) {
        const auto start = steady_clock::now();
        if (!operation()) ++failures;
        times[client].push_back(std::chrono::duration<float, std::micro>(steady_clock::now() - start).count());
      }
    });
  ready.arrive_and_wait();
  const auto start = steady_clock::now();
  end = start + std::chrono::duration_cast<steady_clock::duration>(std::chrono::duration<double>(options.seconds));
  ready.arrive_and_wait();
  threads.clear();
  const double took = std::chrono::duration<double>(steady_clock::now() - start).count();
  std::vector<float> all;
  for (const auto& own : times) all.insert(all.end(), own.begin(), own.end());
  if (all.empty()) stop("nothing was measured");
  std::ranges::sort(all);
  fmt::print("{} {:.3f} {:.1f} {:.1f} {}\n", all.size(), took, all[all.size() / 2], all[all.size() * 99 / 100],
             failures.load());
}

void throughBroker(const Options& options) {
  const Result<Bytes> reference = fromBase64(options.reference);
  if (!reference) stop(describe(reference.error()));
  const auto agent = localapi::makeIdentityClient(options.socket, std::chrono::seconds{60});
  const auto reported = std::make_shared<std::once_flag>();
  const auto good = [reported](const auto& result) {
    if (!result) std::call_once(*reported, [&] { fmt::print(stderr, "{}\n", describe(result.error())); });
    return result.has_value();
  };
  if (options.what == "resolve")
    return measure(options, [&] { return [&] { return good(agent->resolve(*reference)); }; });
  measure(options, [&] {
    return [&] {
      return good(agent->signTls({*reference, "ecdsa_secp384r1_sha384", true, clientContent()},
                                 steady_clock::now() + std::chrono::seconds{60}));
    };
  });
}

void install(const Options& options) {
  const auto agent = localapi::makeIdentityClient(options.socket);
  const Result<Bytes> file = readFile(options.module, 1024 * 1024);
  if (!file) stop(describe(file.error()));
  localapi::ImportRequest request;
  request.installation = request.profileIdentifier = request.payloadIdentifier = request.payloadUuid = "bench";
  request.accessGroup = "bench";
  request.pkcs12 = *file;
  request.hasPassword = true;
  if (Status begun = agent->beginInstallation("bench"); !begun) stop(describe(begun.error()));
  const Result<localapi::IdentityInfo> made = agent->importPkcs12(std::move(request));
  if (!made) stop(describe(made.error()));
  if (Status done = agent->commitInstallation("bench", {}); !done) stop(describe(done.error()));
  fmt::print("{}\n", toBase64(made->reference));
}

void inProcess(const Options& options) {
  auto made = keys::SoftwareKey::generate(keys::KeyType::EcP384);
  if (!made) stop(describe(made.error()));
  const std::shared_ptr<keys::PrivateKey> key = std::move(*made);
  measure(options, [&] {
    return [&] {
      return key->sign(keys::SignatureScheme::EcdsaSecp384r1Sha384, clientContent(),
                       steady_clock::now() + std::chrono::seconds{60})
          .has_value();
    };
  });
}

void throughPkcs11(const Options& options) {
  void* library = ::dlopen(options.module.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) stop(::dlerror());
  CK_C_GetFunctionList getList = nullptr;
  void* symbol = ::dlsym(library, "C_GetFunctionList");
  std::memcpy(&getList, &symbol, sizeof getList);
  CK_FUNCTION_LIST* calls = nullptr;
  if (getList == nullptr || getList(&calls) != CKR_OK) stop("the module has no function list");
  CK_C_INITIALIZE_ARGS threads{};
  threads.flags = CKF_OS_LOCKING_OK;
  if (const CK_RV rv = calls->C_Initialize(&threads); rv != CKR_OK) stop(fmt::format("C_Initialize: {:#x}", rv));
  CK_SLOT_ID slots[16];
  CK_ULONG count = 16;
  if (calls->C_GetSlotList(CK_TRUE, slots, &count) != CKR_OK || count == 0) stop("no token");
  CK_SESSION_HANDLE first = 0;
  CK_OBJECT_HANDLE key = 0;
  CK_SLOT_ID slot = 0;
  std::string pin = options.pin, label = options.label;
  CK_OBJECT_CLASS kind = CKO_PRIVATE_KEY;
  CK_ATTRIBUTE wanted[] = {{CKA_CLASS, &kind, sizeof kind}, {CKA_LABEL, label.data(), label.size()}};
  for (CK_ULONG index = 0; index < count && key == 0; ++index) {
    CK_ULONG found = 0;
    if (calls->C_OpenSession(slots[index], CKF_SERIAL_SESSION, nullptr, nullptr, &first) != CKR_OK) continue;
    (void)calls->C_Login(first, CKU_USER, reinterpret_cast<CK_BYTE*>(pin.data()), pin.size());
    if (calls->C_FindObjectsInit(first, wanted, 2) != CKR_OK) continue;
    if (calls->C_FindObjects(first, &key, 1, &found) != CKR_OK || found == 0) key = 0;
    calls->C_FindObjectsFinal(first);
    slot = slots[index];
  }
  if (key == 0) stop("no key of that label");
  measure(options, [&]() -> Operation {
    CK_SESSION_HANDLE session = 0;
    if (calls->C_OpenSession(slot, CKF_SERIAL_SESSION, nullptr, nullptr, &session) != CKR_OK) stop("no session");
    return [calls, session, key] {
      CK_MECHANISM mechanism{CKM_ECDSA, nullptr, 0};
      CK_BYTE digest[48] = {0x42}, signature[256];
      CK_ULONG length = sizeof signature;
      return calls->C_SignInit(session, &mechanism, key) == CKR_OK &&
             calls->C_Sign(session, digest, sizeof digest, signature, &length) == CKR_OK;
    };
  });
}

}  // namespace
}  // namespace wayleave

int main(int count, char** arguments) {
  using namespace wayleave;
  CLI::App app("Round trips through the broker, in process, and through a PKCS#11 module");
  Options options;
  app.require_subcommand(1);
  const auto common = [&](CLI::App* command) {
    command->add_option("--clients", options.clients)->check(CLI::Range(1, 1024));
    command->add_option("--seconds", options.seconds);
    return command;
  };
  CLI::App* command = common(app.add_subcommand("broker"));
  command->add_option("SOCKET", options.socket)->required();
  command->add_option("REFERENCE", options.reference)->required();
  command->add_option("WHAT", options.what)->required()->check(CLI::IsMember({"resolve", "sign"}));
  command->callback([&] { throughBroker(options); });
  command = app.add_subcommand("install");
  command->add_option("SOCKET", options.socket)->required();
  command->add_option("PKCS12", options.module)->required();
  command->callback([&] { install(options); });
  common(app.add_subcommand("process"))->callback([&] { inProcess(options); });
  command = common(app.add_subcommand("pkcs11"));
  command->add_option("MODULE", options.module)->required();
  command->add_option("PIN", options.pin)->required();
  command->add_option("LABEL", options.label)->required();
  command->callback([&] { throughPkcs11(options); });
  CLI11_PARSE(app, count, arguments);
  return 0;
}
