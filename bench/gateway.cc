// wayleave-bench-gateway: the far end of a measured chain in one process, gateway and origin, as cheap as it can be made, so that
// the proxy under test is the limit and not what stands behind it. bench/rig.py puts a real HAProxy in its place for comparison.
//
//   --port P --certificate PEM --key PEM --client-ca PEM [--no-tickets]
//
// TLS 1.3, a client certificate demanded, tickets given unless told otherwise. By ALPN HTTP/2 (nghttp2), otherwise what the first bytes are: a CONNECT,
// which is answered 200, or a flow at once. A flow begins with one command byte, as in load.cc: D sends without end, U swallows, P
// answers each KiB with a KiB. Ciphertext moves in batches of 256 KiB like in the proxy itself.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <memory>
#include <unordered_map>

#include "base/bytes.h"
#include "base/owned.h"
#include "tls/byte_queue.h"

namespace wayleave {
namespace {

constexpr size_t kBatch = 256 * 1024;
constexpr size_t kStage = 64 * 1024;
constexpr size_t kMessage = 1024;
constexpr size_t kMaxHead = 8192;
constexpr int kPasses = 4;
constexpr std::string_view kAnswer = "HTTP/1.1 200 OK\r\n\r\n";

std::array<uint8_t, kBatch> g_cipher, g_plain, g_block{};
std::array<uint8_t, kStage> g_stage;
tls::ChunkCache g_chunks;

[[noreturn]] void stop(const char* what) {
  fmt::print(stderr, "{}: {}\n", what, std::strerror(errno));
  ERR_print_errors_fp(stderr);
  std::exit(1);
}

// One flow's side of the commands, whatever carries it.
struct Served {
  char command = 0;
  bool ended = false;
  size_t got = 0;
  size_t owed = 0;  // bytes of answer that P still has to send

  void take(ByteView bytes) {
    if (bytes.empty()) return;
    if (command == 0) {
      command = static_cast<char>(bytes[0]);
      bytes = bytes.subspan(1);
    }
    if (command != 'P') return;
    got += bytes.size();
    owed += got / kMessage * kMessage;
    got %= kMessage;
  }
  size_t wants() const { return command == 'D' ? kBatch : owed; }
  void sent(size_t bytes) {
    if (command == 'P') owed -= bytes;
  }
};

struct Wire {
  ByteView in;
  tls::ByteQueue out;
};

int wireRead(BIO* bio, char* to, size_t room, size_t* taken) {
  BIO_clear_retry_flags(bio);
  Wire& wire = *static_cast<Wire*>(BIO_get_data(bio));
  if (wire.in.empty()) {
    BIO_set_retry_read(bio);
    return 0;
  }
  *taken = std::min(room, wire.in.size());
  std::memcpy(to, wire.in.data(), *taken);
  wire.in = wire.in.subspan(*taken);
  return 1;
}
int wireWrite(BIO* bio, const char* data, size_t length, size_t* written) {
  static_cast<Wire*>(BIO_get_data(bio))->out.append({reinterpret_cast<const uint8_t*>(data), length});
  *written = length;
  return 1;
}
long wireControl(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

BIO_METHOD* wireMethod() {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "bench wire");
    BIO_meth_set_read_ex(made, wireRead);
    BIO_meth_set_write_ex(made, wireWrite);
    BIO_meth_set_ctrl(made, wireControl);
    return made;
  }();
  return method;
}

class Connection {
 public:
  Connection(Fd fd, SSL_CTX* context) : fd_(std::move(fd)), ssl_(SSL_new(context)) {
    wire_.out.borrowFrom(&g_chunks);
    BIO* bio = BIO_new(wireMethod());
    BIO_set_data(bio, &wire_);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl_.get(), bio, bio);
    SSL_set_accept_state(ssl_.get());
  }

  // False: close it. `wantsOut` tells whether the socket must become writable before more can be done.
  bool turn(bool readable) {
    for (int pass = 0; readable && pass < kPasses; ++pass) {
      const ssize_t got = ::recv(fd_.borrow(), g_cipher.data(), g_cipher.size(), 0);
      if (got == 0) return false;
      if (got < 0) {
        if (errno != EAGAIN) return false;
        break;
      }
      wire_.in = {g_cipher.data(), static_cast<size_t>(got)};
      if (!read()) {
        flush();
        return false;
      }
      if (static_cast<size_t>(got) < g_cipher.size()) break;
    }
    for (int pass = 0; pass < kPasses; ++pass) {
      produce();
      flush();
      if (!wire_.out.empty() || !producing()) break;
    }
    return !broken_ && !(over_ && wire_.out.empty());
  }
  bool wantsOut() const { return !wire_.out.empty() || producing(); }

 private:
  bool read() {
    if (!established_) {
      const int result = SSL_do_handshake(ssl_.get());
      if (result != 1) {
        const bool more = SSL_get_error(ssl_.get(), result) == SSL_ERROR_WANT_READ;
        if (!more) ERR_clear_error();
        return more;
      }
      established_ = true;
      const unsigned char* name = nullptr;
      unsigned length = 0;
      SSL_get0_alpn_selected(ssl_.get(), &name, &length);
      if (length == 2) startHttp2();
    }
    for (;;) {
      size_t got = 0;
      if (SSL_read_ex(ssl_.get(), g_plain.data(), g_plain.size(), &got) == 1) {
        if (!take({g_plain.data(), got})) return false;
        continue;
      }
      const int why = SSL_get_error(ssl_.get(), 0);
      if (why == SSL_ERROR_WANT_READ) return true;
      if (why == SSL_ERROR_ZERO_RETURN) {
        SSL_shutdown(ssl_.get());
        over_ = true;
        return true;
      }
      ERR_clear_error();
      return false;
    }
  }

  bool take(ByteView bytes) {
    if (session_) return nghttp2_session_mem_recv(session_.get(), bytes.data(), bytes.size()) >= 0;
    if (flow_.command == 0 && (head_.size() > 0 || bytes[0] == 'C')) {
      size_t used = 0;
      while (used < bytes.size() && !head_.ends_with("\r\n\r\n")) head_.push_back(static_cast<char>(bytes[used++]));
      if (head_.size() > kMaxHead) return false;
      if (!head_.ends_with("\r\n\r\n")) return true;
      if (!std::exchange(answered_, true)) write(asBytes(kAnswer));
      bytes = bytes.subspan(used);
    }
    flow_.take(bytes);
    return true;
  }

  bool producing() const { return !over_ && established_ && (session_ ? more_ : flow_.wants() > 0); }

  void produce() {
    if (session_) return produceHttp2();
    while (producing() && wire_.out.size() < kBatch) {
      const size_t now = std::min(flow_.wants(), kStage);
      write(ByteView(g_block).first(now));
      flow_.sent(now);
    }
  }

  void write(ByteView plain) {
    while (!plain.empty()) {
      size_t written = 0;
      if (SSL_write_ex(ssl_.get(), plain.data(), plain.size(), &written) != 1) {
        broken_ = true;
        return;
      }
      plain = plain.subspan(written);
    }
  }

  void flush() {
    while (!wire_.out.empty()) {
      const ByteView out = wire_.out.view();
      const ssize_t sent = ::send(fd_.borrow(), out.data(), out.size(), MSG_NOSIGNAL);
      if (sent < 0) {
        if (errno != EAGAIN) broken_ = true;
        return;
      }
      wire_.out.consume(static_cast<size_t>(sent));
    }
  }

  // --- HTTP/2 ---

  void stage(ByteView bytes) {
    while (!bytes.empty()) {
      const size_t now = std::min(bytes.size(), kStage - staged_);
      std::memcpy(g_stage.data() + staged_, bytes.data(), now);
      staged_ += now;
      bytes = bytes.subspan(now);
      if (staged_ == kStage) sendStaged();
    }
  }
  void sendStaged() { write(ByteView(g_stage).first(std::exchange(staged_, 0))); }

  void produceHttp2() {
    more_ = false;
    for (;;) {
      const uint8_t* data = nullptr;
      const ssize_t length = nghttp2_session_mem_send(session_.get(), &data);
      if (length < 0) broken_ = true;
      if (length <= 0) break;
      stage({data, static_cast<size_t>(length)});
    }
    sendStaged();
  }

  static Connection& of(void* user) { return *static_cast<Connection*>(user); }

  void startHttp2() {
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, [](nghttp2_session* session, const nghttp2_frame* frame, void* user) {
      Connection& self = of(user);
      const int32_t id = frame->hd.stream_id;
      if (frame->hd.type == NGHTTP2_HEADERS) {
        auto& flow = self.flows_[id] = std::make_unique<Served>();
        nghttp2_session_set_stream_user_data(session, id, flow.get());
        std::string_view name = ":status", status = "200";
        const nghttp2_nv head{const_cast<uint8_t*>(asBytes(name).data()), const_cast<uint8_t*>(asBytes(status).data()), name.size(), status.size(), 0};
        nghttp2_data_provider source{};
        source.source.ptr = flow.get();
        source.read_callback = onSource;
        nghttp2_submit_response(session, id, &head, 1, &source);
      }
      if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0)
        if (auto* flow = static_cast<Served*>(nghttp2_session_get_stream_user_data(session, id))) {
          flow->ended = true;
          nghttp2_session_resume_data(session, id);
        }
      return 0;
    });
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
        callbacks, [](nghttp2_session* session, uint8_t, int32_t id, const uint8_t* data, size_t length, void*) {
          auto* flow = static_cast<Served*>(nghttp2_session_get_stream_user_data(session, id));
          if (flow == nullptr) return 0;
          flow->take({data, length});
          if (flow->wants() > 0) nghttp2_session_resume_data(session, id);
          return 0;
        });
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, [](nghttp2_session*, int32_t id, uint32_t, void* user) {
      of(user).flows_.erase(id);
      return 0;
    });
    nghttp2_session_callbacks_set_send_data_callback(
        callbacks, [](nghttp2_session*, nghttp2_frame*, const uint8_t* header, size_t length, nghttp2_data_source* source, void* user) {
          Connection& self = of(user);
          if (self.wire_.out.size() + self.staged_ >= kBatch) {
            self.more_ = true;
            return static_cast<int>(NGHTTP2_ERR_WOULDBLOCK);
          }
          self.stage({header, 9});
          self.stage(ByteView(g_block).first(length));
          static_cast<Served*>(source->ptr)->sent(length);
          return 0;
        });
    nghttp2_session* session = nullptr;
    nghttp2_session_server_new(&session, callbacks, this);
    nghttp2_session_callbacks_del(callbacks);
    session_.reset(session);
    const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 100}, {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 4 << 20}};
    nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, settings, std::size(settings));
    nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0, 16 << 20);
  }

  static ssize_t onSource(nghttp2_session*, int32_t, uint8_t*, size_t room, uint32_t* flags, nghttp2_data_source* source, void*) {
    const auto& flow = *static_cast<Served*>(source->ptr);
    const size_t now = flow.ended ? 0 : std::min(room, flow.wants());
    if (now == 0 && !flow.ended) return NGHTTP2_ERR_DEFERRED;
    *flags |= flow.ended ? NGHTTP2_DATA_FLAG_NO_COPY | NGHTTP2_DATA_FLAG_EOF : NGHTTP2_DATA_FLAG_NO_COPY;
    return static_cast<ssize_t>(now);
  }

  Fd fd_;
  Wire wire_;
  Handle<SSL, SSL_free> ssl_;
  Handle<nghttp2_session, nghttp2_session_del> session_;
  std::unordered_map<int32_t, std::unique_ptr<Served>> flows_;
  Served flow_;  // without HTTP/2
  std::string head_;
  size_t staged_ = 0;
  bool more_ = false;  // nghttp2 has frames that did not fit this batch
  bool established_ = false, answered_ = false, over_ = false, broken_ = false;
};

SSL_CTX* makeContext(const std::string& certificate, const std::string& key, const std::string& clientCa, bool tickets) {
  SSL_CTX* context = SSL_CTX_new(TLS_server_method());
  SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  if (SSL_CTX_use_certificate_chain_file(context, certificate.c_str()) != 1 || SSL_CTX_use_PrivateKey_file(context, key.c_str(), SSL_FILETYPE_PEM) != 1 ||
      SSL_CTX_load_verify_locations(context, clientCa.c_str(), nullptr) != 1)
    stop("certificates");
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  if (!tickets) {
    SSL_CTX_set_num_tickets(context, 0);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  }
  constexpr std::string_view kId = "bench";
  SSL_CTX_set_session_id_context(context, asBytes(kId).data(), kId.size());
  SSL_CTX_set_alpn_select_cb(
      context,
      [](SSL*, const unsigned char** out, unsigned char* length, const unsigned char* in, unsigned size, void*) {
        static constexpr unsigned char kKnown[] = "\x02h2\x08http/1.1";
        unsigned char* chosen = nullptr;
        if (SSL_select_next_proto(&chosen, length, kKnown, sizeof kKnown - 1, in, size) != OPENSSL_NPN_NEGOTIATED) return SSL_TLSEXT_ERR_NOACK;
        *out = chosen;
        return SSL_TLSEXT_ERR_OK;
      },
      nullptr);
  return context;
}

void serve(uint16_t port, SSL_CTX* context) {
  const Fd epoll = Fd::adopt(::epoll_create1(EPOLL_CLOEXEC));
  const Fd listener = Fd::adopt(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int one = 1;
  ::setsockopt(listener.borrow(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_ANY);
  at.sin_port = htons(port);
  if (::bind(listener.borrow(), reinterpret_cast<sockaddr*>(&at), sizeof at) != 0 || ::listen(listener.borrow(), 4096) != 0) stop("listen");
  const auto watch = [&](int fd, uint32_t events, int how) {
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    ::epoll_ctl(epoll.borrow(), how, fd, &event);
  };
  watch(listener.borrow(), EPOLLIN, EPOLL_CTL_ADD);
  struct Entry {
    std::unique_ptr<Connection> connection;
    bool out = false;
  };
  std::unordered_map<int, Entry> connections;
  std::array<epoll_event, 256> events{};
  for (;;) {
    const int count = ::epoll_wait(epoll.borrow(), events.data(), static_cast<int>(events.size()), -1);
    for (int i = 0; i < count; ++i) {
      const int fd = events[static_cast<size_t>(i)].data.fd;
      if (fd == listener.borrow()) {
        for (int accepted = 0; (accepted = ::accept4(fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
          ::setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          connections[accepted].connection = std::make_unique<Connection>(Fd::adopt(accepted), context);
          watch(accepted, EPOLLIN, EPOLL_CTL_ADD);
        }
        continue;
      }
      const auto found = connections.find(fd);
      if (found == connections.end()) continue;
      Entry& entry = found->second;
      if (!entry.connection->turn((events[static_cast<size_t>(i)].events & ~static_cast<uint32_t>(EPOLLOUT)) != 0)) {
        connections.erase(found);
        continue;
      }
      if (entry.connection->wantsOut() != entry.out) {
        entry.out = !entry.out;
        watch(fd, entry.out ? EPOLLIN | EPOLLOUT : EPOLLIN, EPOLL_CTL_MOD);
      }
    }
  }
}

}  // namespace
}  // namespace wayleave

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  CLI::App app("gateway and origin in one", "wayleave-bench-gateway");
  uint16_t port = 0;
  std::string certificate, key, clientCa;
  app.add_option("--port", port)->required();
  app.add_option("--certificate", certificate)->required();
  app.add_option("--key", key)->required();
  app.add_option("--client-ca", clientCa)->required();
  bool noTickets = false;
  app.add_flag("--no-tickets", noTickets);
  CLI11_PARSE(app, argc, argv);
  wayleave::serve(port, wayleave::makeContext(certificate, key, clientCa, !noTickets));
}
