// wayleave-bench-handshakes: mutual TLS handshakes and bare signatures per second with one key, as proxyd makes them (ClientTls,
// callback key), for handshakes.py.
//
//   make-key (--tcti T --kind tpm | --kind software) --key F --csr F       a P-384 key and a request for its certificate
//   run … --certificate F --trust F --port P --delay MS --threads N --seconds S [--resume]
//   sign … --delay MS --threads N --seconds S

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/pem.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "base/file.h"
#include "enrolment/certification_request.h"
#include "keys/openssl.h"
#include "keys/slow_key.h"
#include "keys/software_key.h"
#include "keys/tpm/tpm_key.h"
#include "tls/client_tls.h"

namespace wayleave {
namespace {

using std::chrono::steady_clock;
constexpr std::chrono::seconds kPatience{60};

struct Options {
  std::string kind = "software", tcti, key, csr, certificate, trust;
  uint16_t port = 0;
  int delay = 0, threads = 4;
  double seconds = 3;
  bool resume = false;
};

[[noreturn]] void stop(const Error& error) {
  fmt::print(stderr, "{}\n", describe(error));
  std::exit(1);
}
template <typename T>
T must(Result<T> result) {
  if (!result) stop(result.error());
  return std::move(*result);
}

std::shared_ptr<keys::tpm::TpmDevice> device(const Options& options) {
  keys::tpm::TpmOptions how;
  how.tcti = options.tcti;
  how.queueLimit = 4096;  // the bench asks for more at once than a daemon would let in
  return std::make_shared<keys::tpm::TpmDevice>(how);
}

void makeKey(const Options& options) {
  Bytes stored, spki;
  std::unique_ptr<keys::PrivateKey> key;
  if (options.kind == "tpm") {
    auto made = must(keys::tpm::TpmKey::create(device(options), keys::KeyType::EcP384, 0, steady_clock::now() + kPatience));
    stored = toBytes(must(made->pem()));
    key = std::move(made);
  } else {
    auto made = must(keys::SoftwareKey::generate(keys::KeyType::EcP384));
    stored = toBytes(must(made->toPkcs8()).view());
    key = std::move(made);
  }
  enrolment::RequestParameters parameters;
  parameters.subject = {{{"CN", "bench-device"}}};
  const auto request = must(enrolment::CertificationRequest::make(parameters, key->publicKey().spki));
  const auto scheme = enrolment::requestScheme(keys::KeyType::EcP384);
  const Bytes signature = must(key->sign(scheme, request.info(), steady_clock::now() + kPatience));
  const Bytes csr = must(request.complete(scheme, signature));
  for (const auto& [path, bytes] : {std::pair{options.key, stored}, std::pair{options.csr, csr}})
    if (auto written = writeFileAtomically(path, bytes, 0600); !written) stop(written.error());
}

std::shared_ptr<keys::PrivateKey> openKey(const Options& options) {
  const Bytes stored = must(readFile(options.key, 64 * 1024));
  std::shared_ptr<keys::PrivateKey> key;
  if (options.kind == "tpm")
    key = must(keys::tpm::TpmKey::fromPem(device(options), asText(stored)));
  else
    key = must(keys::SoftwareKey::fromPkcs8(Secret(stored)));
  if (options.delay > 0) key = std::make_shared<keys::SlowKey>(key, std::chrono::milliseconds{options.delay});
  return key;
}

// One connection: handshake, one request, its answer (with which the tickets come), close.
bool exchange(const std::shared_ptr<tls::ClientContext>& context, uint16_t port, bool& resumed) {
  const Fd socket = Fd::adopt(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int one = 1;
  ::setsockopt(socket.borrow(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (::connect(socket.borrow(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) return false;
  auto tls = must(tls::ClientTls::make(context));
  std::array<uint8_t, 16384> in{}, plain{};
  const auto flush = [&] {
    while (!tls->pendingOutput().empty()) {
      const ByteView out = tls->pendingOutput();
      const ssize_t sent = ::send(socket.borrow(), out.data(), out.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      tls->consume(static_cast<size_t>(sent));
    }
    return true;
  };
  for (;;) {
    const auto state = tls->handshakeStep(true, steady_clock::now() + kPatience);
    if (!flush() || state == tls::HandshakeState::Failed) {
      if (state == tls::HandshakeState::Failed) fmt::print(stderr, "{}\n", describe(tls->error()));
      return false;
    }
    if (state == tls::HandshakeState::Done) break;
    const ssize_t got = ::recv(socket.borrow(), in.data(), in.size(), 0);
    if (got <= 0) return false;
    tls->feed(ByteView(in).first(static_cast<size_t>(got)));
  }
  resumed = tls->resumed();
  if (!tls->write(asBytes("GET / HTTP/1.0\r\n\r\n")) || !flush()) return false;
  size_t answered = 0;
  for (;;) {
    for (;;) {
      const auto got = tls->read(plain);
      if (!got) return answered > 0;
      if (*got == 0) break;
      answered += *got;
    }
    if (tls->endOfStream()) return answered > 0;
    const ssize_t got = ::recv(socket.borrow(), in.data(), in.size(), 0);
    if (got <= 0) return answered > 0;
    tls->feed(ByteView(in).first(static_cast<size_t>(got)));
  }
}

// Runs `once` on every thread until the time is over; prints "count seconds p50ms p99ms".
void measure(const Options& options, const std::function<bool()>& once) {
  std::mutex mutex;
  std::vector<double> times;
  std::atomic<int> failures{0};
  const auto start = steady_clock::now();
  const auto end = start + std::chrono::duration_cast<steady_clock::duration>(std::chrono::duration<double>(options.seconds));
  std::vector<std::jthread> threads;
  for (int n = 0; n < options.threads; ++n)
    threads.emplace_back([&] {
      std::vector<double> mine;
      while (steady_clock::now() < end) {
        const auto from = steady_clock::now();
        if (!once()) {
          if (++failures > 20) break;
          continue;
        }
        mine.push_back(std::chrono::duration<double, std::milli>(steady_clock::now() - from).count());
      }
      const std::lock_guard lock(mutex);
      times.insert(times.end(), mine.begin(), mine.end());
    });
  threads.clear();
  const double took = std::chrono::duration<double>(steady_clock::now() - start).count();
  std::ranges::sort(times);
  const auto at = [&](double share) { return times.empty() ? 0.0 : times[std::min(times.size() - 1, static_cast<size_t>(share * static_cast<double>(times.size())))]; };
  fmt::print("{} {:.3f} {:.3f} {:.3f} {}\n", times.size(), took, at(0.5), at(0.99), failures.load());
}

void run(const Options& options) {
  const auto key = openKey(options);
  std::vector<Bytes> chain;
  {
    const Bytes pem = must(readFile(options.certificate, 64 * 1024));
    const Handle<BIO, BIO_free_all> bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
    const keys::X509Ptr leaf(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
    unsigned char* der = nullptr;
    const int length = i2d_X509(leaf.get(), &der);
    chain.emplace_back(der, der + length);
    OPENSSL_free(der);
  }
  tls::ClientContextOptions how;
  how.identity = tls::ClientIdentity{chain, [key](const tls::SignInput& input) {
                                       return input.tls13 ? key->sign(input.scheme, input.input, input.deadline)
                                                          : key->signDigest(input.scheme, input.input, input.deadline);
                                     }};
  how.trustAnchorsPem = {std::string(asText(must(readFile(options.trust, 64 * 1024))))};
  how.serverName = "gateway.lab";
  how.resumption = options.resume;
  const auto context = must(tls::ClientContext::make(std::move(how)));
  std::atomic<int> resumptions{0};
  measure(options, [&] {
    bool resumed = false;
    const bool done = exchange(context, options.port, resumed);
    resumptions += resumed;
    return done;
  });
}

void sign(const Options& options) {
  const auto key = openKey(options);
  const Bytes digest(48, 7);
  measure(options, [&] { return key->signDigest(keys::SignatureScheme::EcdsaSecp384r1Sha384, digest, steady_clock::now() + kPatience).has_value(); });
}

}  // namespace
}  // namespace wayleave

int main(int argc, char** argv) {
  wayleave::Options options;
  CLI::App app("handshakes and signatures per second", "wayleave-bench-handshakes");
  app.require_subcommand(1)->fallthrough();
  app.add_option("--kind", options.kind)->check(CLI::IsMember({"software", "tpm"}));
  app.add_option("--tcti", options.tcti);
  app.add_option("--key", options.key)->required();
  app.add_option("--csr", options.csr);
  app.add_option("--certificate", options.certificate);
  app.add_option("--trust", options.trust);
  app.add_option("--port", options.port);
  app.add_option("--delay", options.delay);
  app.add_option("--threads", options.threads)->check(CLI::Range(1, 256));
  app.add_option("--seconds", options.seconds);
  app.add_flag("--resume", options.resume);
  app.add_subcommand("make-key")->callback([&] { wayleave::makeKey(options); });
  app.add_subcommand("run")->callback([&] { wayleave::run(options); });
  app.add_subcommand("sign")->callback([&] { wayleave::sign(options); });
  CLI11_PARSE(app, argc, argv);
  return 0;
}
