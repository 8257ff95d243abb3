// Interoperability: Squid, nghttpx and Apache httpd as they are packaged, each demanding a client certificate, in front of a
// plain TCP origin of ours. A gateway that is not installed is skipped.

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tunnel/gateway_test_support.h"

namespace wayleave::tunnel {
namespace {

using test::Tunnel;
using namespace std::chrono_literals;

// Echoes what it gets and ends when the other side ends, or after a piece that ends with EOT; a thread per connection.
class EchoOrigin {
 public:
  EchoOrigin() : acceptor_([this] { acceptAll(); }) {}
  ~EchoOrigin() {
    ::shutdown(listener_.fd.borrow(), SHUT_RDWR);
    acceptor_.join();
    for (std::thread& thread : threads_) thread.join();
  }
  uint16_t port() const { return listener_.port; }

 private:
  void acceptAll() {
    for (;;) {
      const int fd = ::accept4(listener_.fd.borrow(), nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) return;
      threads_.emplace_back([fd] {
        std::vector<char> room(65536);
        for (;;) {
          const ssize_t got = ::recv(fd, room.data(), room.size(), 0);
          if (got <= 0) break;
          for (ssize_t sent = 0; sent < got;) {
            const ssize_t now = ::send(fd, room.data() + sent, static_cast<size_t>(got - sent), MSG_NOSIGNAL);
            if (now < 0) break;
            sent += now;
          }
          if (room[static_cast<size_t>(got) - 1] == '\x04') break;
        }
        ::close(fd);
      });
    }
  }
  test::Listener listener_;
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

// A daemon in the foreground, killed with its test.
class Daemon {
 public:
  Daemon(const std::vector<std::string>& command, const std::string& log) : pid_(::fork()) {
    if (pid_ != 0) return;
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // also when the test itself is killed
    const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ::dup2(out, 1);
    ::dup2(out, 2);
    std::vector<char*> arguments;
    for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    ::execv(arguments[0], arguments.data());
    ::_exit(127);
  }
  ~Daemon() {
    ::kill(-pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Daemon(const Daemon&) = delete;

 private:
  pid_t pid_;
};

uint16_t freePort() { return test::Listener().port; }

bool listens(uint16_t port) {
  const Fd fd = Fd::adopt(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return ::connect(fd.borrow(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
}

class RealGateway : public test::TunnelTest {
 protected:
  RealGateway() : TunnelTest({"h2", "http/1.1"}, Protocol::Auto) {
    std::string pattern = (std::filesystem::temp_directory_path() / "wayleave-gateway-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
    ::chmod(folder_.c_str(), 0755);
    write("gw.crt", tls::test::pem(gatewayLeaf_.certificate.get()));
    write("gw.key", tls::test::pem(gatewayLeaf_.key.get()));
    write("ca.crt", authority_.pemText());
  }
  ~RealGateway() override {
    daemons_.clear();
    std::filesystem::remove_all(folder_);
    // A killed Squid leaves its shared memory behind.
    for (const auto& entry : std::filesystem::directory_iterator("/dev/shm"))
      for (const std::string& name : squids_)
        if (entry.path().filename().string().starts_with(name + "-")) std::filesystem::remove(entry.path());
  }
  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  void write(const std::string& name, const std::string& text) {
    std::ofstream(path(name)) << text;
    ::chmod(path(name).c_str(), 0644);
  }
  std::string read(const std::string& name) const {
    std::ifstream file(path(name));
    return {std::istreambuf_iterator<char>(file), {}};
  }
  bool start(const std::vector<std::string>& command, uint16_t port) {
    daemons_.push_back(std::make_unique<Daemon>(command, path("out" + std::to_string(daemons_.size()))));
    for (int i = 0; i < 1000; ++i) {
      if (listens(port)) return true;
      std::this_thread::sleep_for(10ms);
    }
    ADD_FAILURE() << command[0] << " does not listen:\n" << read("out" + std::to_string(daemons_.size() - 1));
    return false;
  }
  static bool isThere(const char* program) { return ::access(program, X_OK) == 0; }

  // Squid as a TLS gateway (`tls`), or as the plain forward proxy behind nghttpx.
  bool startSquid(uint16_t port, bool withTls, const char* more = "") {
    std::string conf;
    if (withTls)
      conf += fmt::format("https_port 127.0.0.1:{0} tls-cert={1}/gw.crt tls-key={1}/gw.key clientca={1}/ca.crt tls-min-version=1.3 {2}\n",
                          port, folder_, more) +
              "acl allowed user_cert CN device-1\n";
    else
      conf += fmt::format("http_port 127.0.0.1:{}\nacl allowed src 127.0.0.0/8\n", port);
    conf += "acl CONNECT method CONNECT\nacl banned port 1\nhttp_access deny banned\nhttp_access allow CONNECT allowed\n"
            "http_access deny all\ncache deny all\naccess_log none\ncache_log /dev/null\npid_filename none\n"
            "shutdown_lifetime 0 seconds\nvisible_hostname gateway.test\nnetdb_filename none\n";
    if (::geteuid() == 0) conf += "cache_effective_user proxy\n";
    conf += fmt::format("coredump_dir {}\n", folder_);
    write("squid.conf", conf);
    squids_.push_back(fmt::format("wl{}", port));
    return start({"/usr/sbin/squid", "-N", "-n", squids_.back(), "-f", path("squid.conf")}, port);
  }

  void expectTunnels(uint16_t port, int count, bool passesHalfClose, bool passesEnd) {
    const EchoOrigin origin;
    const auto opener = openerTo(port);
    std::vector<std::unique_ptr<Tunnel>> tunnels;
    for (int i = 0; i < count; ++i) {
      tunnels.push_back(std::make_unique<Tunnel>());
      tunnels.back()->open(*opener, {"127.0.0.1", origin.port()}, 20s);
    }
    std::string text;
    for (int i = 0; i < 1'000'000; ++i) text.push_back(static_cast<char>('a' + (i * 7 + i / 255) % 26));
    for (const auto& tunnel : tunnels) {
      runUntil([&] { return tunnel->answered; });
      ASSERT_TRUE(tunnel->stream) << describe(*tunnel->failure);
      tunnel->send(text);
    }
    for (const auto& tunnel : tunnels) {
      runUntil([&] { return tunnel->events.received.size() >= text.size() || tunnel->events.closed; });
      EXPECT_TRUE(tunnel->events.received == text);
      EXPECT_FALSE(tunnel->events.closed) << describe(*tunnel->events.closed);
    }
    // Half of them end from our side, the others from the target's.
    for (size_t i = 0; i < tunnels.size(); ++i) {
      const auto& tunnel = tunnels[i];
      const bool weEnd = i % 2 == 0;
      if (weEnd ? !passesHalfClose : !passesEnd) continue;
      if (weEnd)
        tunnel->stream->finishWriting();
      else
        tunnel->send("\x04");
      runUntil([&] { return tunnel->events.ended || tunnel->events.closed; });
      if (!weEnd && !tunnel->events.closed) tunnel->stream->finishWriting();
      runUntil([&] { return tunnel->events.closed.has_value(); });
      ASSERT_TRUE(tunnel->events.closed);
      EXPECT_TRUE(tunnel->events.ended);
      EXPECT_EQ(tunnel->events.closed->reason, Reason::Completed) << weEnd << describe(*tunnel->events.closed);
    }
    tunnels.clear();

    Tunnel banned;
    banned.open(*opener, {"127.0.0.1", 1}, 20s);
    runUntil([&] { return banned.answered; });
    ASSERT_TRUE(banned.failure);
    EXPECT_TRUE(banned.failure->reason == Reason::GatewayDenied || banned.failure->reason == Reason::GatewayCannotReachTarget)
        << describe(*banned.failure);
  }
  void expectRefusalOfStrangers(uint16_t port) {
    const tls::test::Authority stranger("Stranger CA");
    device_ = stranger.issue("device-1", keys::KeyType::EcP256, "clientAuth", nullptr);
    context_.reset();
    const Reason reason = reasonFrom(port);
    // A gateway may hang up before its alert can be read.
    EXPECT_TRUE(reason == Reason::GatewayRefusedCertificate || reason == Reason::GatewayClosed) << text(reason);
  }

  std::string folder_;
  std::vector<std::unique_ptr<Daemon>> daemons_;
  std::vector<std::string> squids_;  // their names: prefixes of their shared memory
};

TEST_F(RealGateway, Squid) {
  if (!isThere("/usr/sbin/squid")) GTEST_SKIP() << "squid-openssl is not installed";
  const uint16_t port = freePort();
  ASSERT_TRUE(startSquid(port, true, "sslcontext=wayleave"));
  std::atomic<int> signatures = 0;
  context_ = newContext([&] { ++signatures; });
  expectTunnels(port, 20, true, true);
  EXPECT_LE(signatures, 5) << "one to learn the protocol, four before the first ticket";
  expectRefusalOfStrangers(port);
}

// As most people configure it, Squid answers every resumption with a fatal alert.
TEST_F(RealGateway, SquidThatBreaksResumption) {
  if (!isThere("/usr/sbin/squid")) GTEST_SKIP() << "squid-openssl is not installed";
  const uint16_t port = freePort();
  ASSERT_TRUE(startSquid(port, true));
  expectTunnels(port, 20, true, true);
  EXPECT_FALSE(context_->hasSession()) << "it learns";
}

TEST_F(RealGateway, Nghttpx) {
  if (!isThere("/usr/sbin/nghttpx") || !isThere("/usr/sbin/squid")) GTEST_SKIP() << "nghttp2-proxy or squid is not installed";
  const uint16_t behind = freePort();
  ASSERT_TRUE(startSquid(behind, false));
  const uint16_t port = freePort();
  write("nghttpx.conf",
        fmt::format("frontend=127.0.0.1,{}\nbackend=127.0.0.1,{};;proto=http/1.1\nhttp2-proxy=yes\nprivate-key-file={}\n"
                    "certificate-file={}\nverify-client=yes\nverify-client-cacert={}\ntls-min-proto-version=TLSv1.3\n"
                    "no-ocsp=yes\nbackend-connections-per-host=100\naccesslog-file={}\nerrorlog-file={}\nworkers=1\nsingle-process=yes\n"
                    "accesslog-format=$remote_addr $alpn $tls_client_subject_name $status\n",
                    port, behind, path("gw.key"), path("gw.crt"), path("ca.crt"), path("access.log"), path("error.log")));
  ASSERT_TRUE(start({"/usr/sbin/nghttpx", "--conf=" + path("nghttpx.conf")}, port));
  expectTunnels(port, 20, false, true);  // its HTTP/1.1 backend has no half-close
  EXPECT_NE(read("access.log").find("h2 CN=device-1"), std::string::npos) << read("access.log");
  expectRefusalOfStrangers(port);
}

TEST_F(RealGateway, Apache) {
  if (!isThere("/usr/sbin/apache2")) GTEST_SKIP() << "apache2 is not installed";
  const uint16_t port = freePort();
  std::string conf;
  for (const char* module : {"mpm_event", "authz_core", "ssl", "http2", "proxy", "proxy_connect", "socache_shmcb"})
    conf += fmt::format("LoadModule {0}_module /usr/lib/apache2/modules/mod_{0}.so\n", module);
  conf += fmt::format(
      "ServerRoot {0}\nPidFile {0}/pid\nErrorLog {0}/error.log\nServerName gateway.test\nDefaultRuntimeDir {0}\nMutex pthread\n"
      "Listen 127.0.0.1:{1}\n<VirtualHost 127.0.0.1:{1}>\nProtocols h2 http/1.1\nH2ProxyRequests on\nSSLEngine on\n"
      "SSLProtocol -all +TLSv1.3\nSSLCertificateFile {0}/gw.crt\nSSLCertificateKeyFile {0}/gw.key\n"
      "SSLCACertificateFile {0}/ca.crt\nSSLVerifyClient require\nProxyRequests On\nAllowCONNECT 1024-65535\n"
      "<Proxy *>\nRequire expr %{{SSL_CLIENT_S_DN_CN}} == 'device-1'\n</Proxy>\n</VirtualHost>\n",
      folder_, port);
  if (::geteuid() == 0) conf += "User www-data\nGroup www-data\n";
  write("apache.conf", conf);
  ASSERT_TRUE(start({"/usr/sbin/apache2", "-X", "-f", path("apache.conf")}, port));
  // Apache does not end an h2 stream when the origin has ended, and a new h2 connection of it serves six streams at a time.
  expectTunnels(port, 4, false, false);
  expectRefusalOfStrangers(port);
}

}  // namespace
}  // namespace wayleave::tunnel
