#include "localapi/server.h"

// One thread, one io_context, one Session per connection. Requests on a connection are served strictly one after the
// other; a connection may stay open between them (keep-alive). Handlers run here and answer from wherever they like.
//
// Senders: a descriptor can be inherited or handed on, and who was asked about at accept would then not be who asks. The
// kernel marks what is sent with the sender's process id (SO_PASSCRED; it never merges bytes of two senders into one
// read), and a request that any process but the peer has written to is refused. Hence the reading by recvmsg here.
//
// Lifetimes: the Core (the io_context and the table of sessions) is shared by the server and by every responder or
// stream still held somewhere, so an answer that comes after the server has stopped meets a stopped Core instead of a
// dangling one. Nothing is posted to the io_context once `stopped` is set.
//
// Clocks: three timers' worth of patience, one timer. Between requests `idleTimeout`; from the first byte of a request
// to its last `requestTimeout`, not restarted by progress, so one byte every nine seconds does not hold a connection;
// while an answer is written `requestTimeout` again. While the handler works no timer runs: how long a signature may
// take is the handler's business.

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <deque>
#include <list>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>

#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <fmt/format.h>

#include "base/log.h"
#include "localapi/peer.h"
#include "localapi/unix_socket.h"
#include "localapi/url.h"

namespace wayleave::localapi {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using boost::system::error_code;
using Socket = asio::local::stream_protocol::socket;

// A reader this far behind has stopped reading; what it missed it must look up again anyway.
constexpr size_t kMostQueuedEvents = 256;
constexpr size_t kReadBytes = 16 * 1024;
// Out of descriptors: accepting again at once would only spin.
constexpr std::chrono::milliseconds kAcceptPause{100};

class Session;

struct Core {
  Core(Handler handle, ServerLimits bounds) : handler(std::move(handle)), limits(bounds) {}

  asio::io_context io{1};
  Handler handler;
  const ServerLimits limits;
  // All touched on the loop's thread only.
  std::set<std::shared_ptr<Session>> sessions;
  std::unordered_map<uid_t, size_t> perUid;
  // Kept connections without a request under way, longest idle first; on the loop's thread as well.
  std::list<Session*> idle;

  template <typename Function>
  void post(Function&& function) {
    const std::lock_guard lock(mutex);
    if (!stopped) asio::post(io, std::forward<Function>(function));
  }
  void refuseFurtherWork() {
    const std::lock_guard lock(mutex);
    stopped = true;
  }

 private:
  std::mutex mutex;
  bool stopped = false;
};

class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(std::shared_ptr<Core> core, Socket socket, Peer peer)
      : core_(std::move(core)),
        socket_(std::move(socket)),
        timer_(core_->io),
        peer_(std::make_shared<const Peer>(std::move(peer))) {}

  uid_t uid() const { return peer_->uid; }
  Core& core() { return *core_; }
  const std::shared_ptr<Core>& sharedCore() const { return core_; }

  void start();
  void awaitRequest();
  void respond(Response response);  // on the loop
  void close();
  bool gone() const { return gone_; }  // from any thread

  // Streams; on the loop.
  void beginStream(std::shared_ptr<class Stream> stream);
  void flushStream();

 private:
  void arm(std::chrono::milliseconds patience);
  void disarm();
  void awaitBytes();
  enum class Receipt : uint8_t { Bytes, NothingYet, End, Stranger, Failed };
  Receipt receive();
  void readRequest();
  void parse();
  bool admitBody();
  void becomeIdle();
  void leaveIdle();
  void dispatch();
  void refuse(int status, Error error);
  void refuseParse(const error_code& error);
  void write(std::string bytes, std::function<void()> then);
  void watchReader();
  void watchHangUp();

  std::shared_ptr<Core> core_;
  Socket socket_;
  asio::steady_timer timer_;
  std::shared_ptr<const Peer> peer_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  std::string outgoing_;
  std::shared_ptr<class Stream> stream_;
  uint64_t armings_ = 0;
  size_t requests_ = 0;
  std::list<Session*>::iterator idleAt_;  // meaningful while idle_
  char discard_ = 0;
  bool idle_ = false;
  bool bodyAdmitted_ = false;  // the header of the request under way has been looked at
  bool keepAlive_ = false;
  bool closed_ = false;
  bool writing_ = false;
  std::atomic<bool> gone_{false};
};

// The queue between whoever sends events and the session that writes them.
class Stream {
 public:
  explicit Stream(std::shared_ptr<Session> session) : session_(std::move(session)), core_(session_->sharedCore()) {}

  bool send(std::string line) {
    const std::lock_guard lock(mutex_);
    if (gone_ || ended_) return false;
    if (queue_.size() >= kMostQueuedEvents) {
      gone_ = true;
      queue_.clear();
      core_->post([session = session_] { session->close(); });
      return false;
    }
    queue_.push_back(std::move(line));
    wake();
    return true;
  }
  bool isOpen() const {
    const std::lock_guard lock(mutex_);
    return !gone_;
  }
  void end() {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    wake();
  }
  void readerGone() {
    const std::lock_guard lock(mutex_);
    gone_ = true;
    queue_.clear();
  }

  struct Batch {
    std::string chunk;  // ready for the wire; empty when there is nothing to write
    bool last = false;
  };
  Batch take() {
    const std::lock_guard lock(mutex_);
    woken_ = false;
    Batch batch;
    std::string lines;
    for (const std::string& line : queue_) lines.append(line).push_back('\n');
    queue_.clear();
    if (!lines.empty()) batch.chunk = fmt::format("{:x}\r\n{}\r\n", lines.size(), lines);
    batch.last = ended_;
    if (ended_) batch.chunk += "0\r\n\r\n";
    return batch;
  }

 private:
  void wake() {  // with the mutex held
    if (std::exchange(woken_, true)) return;
    core_->post([session = session_] { session->flushStream(); });
  }

  const std::shared_ptr<Session> session_;
  const std::shared_ptr<Core> core_;
  mutable std::mutex mutex_;
  std::deque<std::string> queue_;
  bool woken_ = false;
  bool ended_ = false;
  bool gone_ = false;
};

// What the handler's side holds; dropping it ends the answer.
class StreamHandle final : public EventStream {
 public:
  explicit StreamHandle(std::shared_ptr<Stream> stream) : stream_(std::move(stream)) {}
  StreamHandle(const StreamHandle&) = delete;
  StreamHandle& operator=(const StreamHandle&) = delete;
  ~StreamHandle() override { stream_->end(); }
  bool send(std::string jsonLine) override { return stream_->send(std::move(jsonLine)); }
  bool isOpen() const override { return stream_->isOpen(); }

 private:
  std::shared_ptr<Stream> stream_;
};

class SessionResponder final : public Responder {
 public:
  explicit SessionResponder(std::shared_ptr<Session> session) : session_(std::move(session)) {}
  SessionResponder(const SessionResponder&) = delete;
  SessionResponder& operator=(const SessionResponder&) = delete;
  ~SessionResponder() override {
    if (!answered_.exchange(true))
      post(errorResponse(Error{Reason::Internal, "the request was dropped without an answer", {}, 0}));
  }
  void respond(Response response) override {
    if (!answered_.exchange(true)) post(std::move(response));
  }
  std::shared_ptr<EventStream> openStream() override {
    auto stream = std::make_shared<Stream>(session_);
    if (answered_.exchange(true))
      stream->readerGone();
    else
      session_->core().post([session = session_, stream] { session->beginStream(stream); });
    return std::make_shared<StreamHandle>(std::move(stream));
  }
  bool gone() const override { return session_->gone(); }

 private:
  void post(Response response) {
    session_->core().post([session = session_, response = std::move(response)]() mutable {
      session->respond(std::move(response));
    });
  }

  std::shared_ptr<Session> session_;
  std::atomic<bool> answered_{false};
};

void Session::arm(std::chrono::milliseconds patience) {
  timer_.expires_after(patience);
  // A timer that fired just before it was armed anew or cancelled still delivers: the count tells it is stale.
  timer_.async_wait([self = shared_from_this(), arming = ++armings_](const error_code& error) {
    if (!error && arming == self->armings_) self->close();
  });
}

void Session::disarm() {
  ++armings_;
  timer_.cancel();
}

// Once per connection, whatever else is read or written: the kernel reports the other end's close(), not its shutdown()
// of one direction. What the connection still carries is dealt with where it is read and written. A wait may end for
// nothing (Asio recycles its record of a descriptor, and an event of the connection before can still be under way in it),
// so the socket itself is asked.
void Session::watchHangUp() {
  socket_.async_wait(Socket::wait_error, [self = shared_from_this()](const error_code& error) {
    if (error || self->closed_) return;
    pollfd poller{self->socket_.native_handle(), 0, 0};
    if (::poll(&poller, 1, 0) > 0 && (poller.revents & (POLLHUP | POLLERR)) != 0)
      self->gone_ = true;
    else
      self->watchHangUp();
  });
}

void Session::start() {
  watchHangUp();
  awaitRequest();
}

void Session::close() {
  if (closed_) return;
  closed_ = true;
  gone_ = true;
  disarm();
  leaveIdle();
  if (stream_) std::exchange(stream_, nullptr)->readerGone();
  error_code ignored;
  socket_.close(ignored);
  const auto count = core_->perUid.find(uid());
  if (count != core_->perUid.end() && --count->second == 0) core_->perUid.erase(count);
  core_->sessions.erase(shared_from_this());
}

void Session::awaitRequest() {
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(core_->limits.headerBytes));
  parser_->body_limit(core_->limits.bodyBytes);
  bodyAdmitted_ = false;
  if (buffer_.size() > 0) {  // pipelined
    arm(core_->limits.requestTimeout);
    return parse();
  }
  if (requests_ > 0) becomeIdle();
  if (closed_) return;
  arm(core_->limits.idleTimeout);
  socket_.async_wait(Socket::wait_read, [self = shared_from_this()](const error_code& error) {
    if (self->closed_) return;
    if (error) return self->close();
    self->leaveIdle();
    self->arm(self->core_->limits.requestTimeout);
    self->readRequest();
  });
}

void Session::becomeIdle() {
  idleAt_ = core_->idle.insert(core_->idle.end(), this);
  idle_ = true;
  const auto own = [this](const Session* other) { return other->uid() == uid(); };
  if (static_cast<size_t>(std::ranges::count_if(core_->idle, own)) > core_->limits.keptPerUid)
    (*std::ranges::find_if(core_->idle, own))->close();
}

void Session::leaveIdle() {
  if (std::exchange(idle_, false)) core_->idle.erase(idleAt_);
}

void Session::awaitBytes() {
  socket_.async_wait(Socket::wait_read, [self = shared_from_this()](const error_code& error) {
    if (self->closed_) return;
    if (error) return self->close();
    self->readRequest();
  });
}

Session::Receipt Session::receive() {
  const auto room = buffer_.prepare(kReadBytes);
  iovec part{room.data(), room.size()};
  // Room for the sender alone: descriptors that a caller attaches are dropped by the kernel.
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(ucred))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t got = 0;
  while ((got = ::recvmsg(socket_.native_handle(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR) {
  }
  if (got < 0) return errno == EAGAIN || errno == EWOULDBLOCK ? Receipt::NothingYet : Receipt::Failed;
  if (got == 0) return Receipt::End;
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_CREDENTIALS ||
      header->cmsg_len != CMSG_LEN(sizeof(ucred)))
    return Receipt::Stranger;
  ucred sender{};
  std::memcpy(&sender, CMSG_DATA(header), sizeof sender);
  if (sender.pid != peer_->pid) return Receipt::Stranger;
  buffer_.commit(static_cast<size_t>(got));
  return Receipt::Bytes;
}

void Session::readRequest() {
  switch (receive()) {
    case Receipt::Bytes: return parse();
    case Receipt::NothingYet: return awaitBytes();
    case Receipt::End:
    case Receipt::Failed: return close();
    case Receipt::Stranger:
      return refuse(403, Error{Reason::CallerUnverified, "the request was sent by another process than the one that connected",
                               "connect from the process that asks; a child process must not use its parent's connection", 0});
  }
}

// The header comes first, so that a body that is too large is refused by its announcement.
void Session::parse() {
  error_code error;
  do {
    if (parser_->is_header_done() && !std::exchange(bodyAdmitted_, true)) {
      if (!admitBody()) return;
      parser_->eager(true);
    }
    if (parser_->is_done()) return dispatch();
    if (buffer_.size() == 0) return awaitBytes();
    buffer_.consume(parser_->put(buffer_.data(), error));
  } while (!error);
  // What the parser leaves is part of a line: bodies it takes as they come.
  if (error == http::error::need_more && buffer_.size() > core_->limits.headerBytes + kReadBytes)
    error = http::error::header_limit;
  if (error == http::error::need_more) return awaitBytes();
  refuseParse(error);
}

// False when it has answered, or reads on by itself.
bool Session::admitBody() {
  const auto length = parser_->content_length();
  if (length && *length > core_->limits.bodyBytes) {
    refuseParse(http::error::body_limit);
    return false;
  }
  // curl waits for this before it sends more than 1 MB.
  if (!beast::iequals(parser_->get()[http::field::expect], "100-continue") || parser_->is_done()) return true;
  parser_->eager(true);
  write("HTTP/1.1 100 Continue\r\n\r\n", [self = shared_from_this()] { self->parse(); });
  return false;
}

void Session::refuseParse(const error_code& error) {
  if (error == http::error::end_of_stream || error == asio::error::eof || error == asio::error::operation_aborted)
    return close();
  if (error == http::error::body_limit || error == http::error::buffer_overflow)
    return refuse(413, Error{Reason::BadInput,
                             fmt::format("the request body is larger than {} bytes", core_->limits.bodyBytes), {}, 0});
  if (error == http::error::header_limit)
    return refuse(431, Error{Reason::BadInput,
                             fmt::format("the request header is larger than {} bytes", core_->limits.headerBytes),
                             {}, 0});
  if (error.category() == http::make_error_code(http::error::bad_method).category())
    return refuse(400, Error{Reason::BadInput, "not an HTTP/1.1 request: " + error.message(), {}, 0});
  close();
}

// After a refusal the rest of the request may still be under way: the connection cannot be used again.
void Session::refuse(int status, Error error) {
  Response response = errorResponse(error);
  response.status = status;
  keepAlive_ = false;
  respond(std::move(response));
}

void Session::dispatch() {
  disarm();
  auto message = parser_->release();
  keepAlive_ = message.keep_alive() && ++requests_ < core_->limits.requestsPerConnection;
  const http::verb method = message.method();
  if (method != http::verb::get && method != http::verb::post && method != http::verb::put &&
      method != http::verb::delete_)
    return refuse(405, Error{Reason::Unsupported, "the method is none of GET, POST, PUT and DELETE", {}, 0});
  const std::string_view rawTarget(message.target().data(), message.target().size());
  Result<Target> target = parseTarget(rawTarget);
  if (!target) return refuse(400, target.error());

  Request request;
  request.method = std::string(message.method_string());
  request.path = std::move(target->path);
  request.query = std::move(target->query);
  request.contentType = std::string(message[http::field::content_type]);
  request.body = std::move(message.body());
  request.peer = peer_;
  // Not kept here: when the handler drops it, the answer is 500.
  auto responder = std::make_shared<SessionResponder>(shared_from_this());
  try {
    core_->handler(std::move(request), responder);
  } catch (const std::exception& thrown) {
    log::error("request handler threw", {{"what", thrown.what()}});
    responder->respond(errorResponse(Error{Reason::Internal, "the request failed inside the daemon", {}, 0}));
  }
}

void Session::respond(Response response) {
  if (closed_) return;
  const auto reason = http::obsolete_reason(static_cast<http::status>(response.status));
  std::string bytes = fmt::format(
      "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}\r\n", response.status,
      std::string_view(reason.data(), reason.size()), response.contentType, response.body.size(),
      keepAlive_ ? "" : "Connection: close\r\n");
  bytes += response.body;
  write(std::move(bytes), [self = shared_from_this()] {
    if (self->keepAlive_)
      self->awaitRequest();
    else
      self->close();
  });
}

void Session::write(std::string bytes, std::function<void()> then) {
  arm(core_->limits.requestTimeout);
  outgoing_ = std::move(bytes);
  writing_ = true;
  asio::async_write(socket_, asio::buffer(outgoing_),
                    [self = shared_from_this(), then = std::move(then)](const error_code& error, size_t) {
                      self->writing_ = false;
                      if (self->closed_) return;
                      if (error) return self->close();
                      then();
                    });
}

void Session::beginStream(std::shared_ptr<Stream> stream) {
  if (closed_) return stream->readerGone();
  stream_ = std::move(stream);
  watchReader();
  write("HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n",
        [self = shared_from_this()] {
          self->disarm();
          self->flushStream();
        });
}

// A stream's reader says nothing more; when it hangs up, the sender must know.
void Session::watchReader() {
  socket_.async_read_some(asio::buffer(&discard_, 1), [self = shared_from_this()](const error_code& error, size_t) {
    if (self->closed_) return;
    if (error) return self->close();
    self->watchReader();
  });
}

void Session::flushStream() {
  if (closed_ || writing_ || !stream_) return;
  Stream::Batch batch = stream_->take();
  if (batch.chunk.empty()) return;
  write(std::move(batch.chunk), [self = shared_from_this(), last = batch.last] {
    if (last) return self->close();
    self->disarm();
    self->flushStream();
  });
}

class UnixServer final : public Server {
 public:
  UnixServer(std::string path, Listener listener, Handler handler, ServerLimits limits)
      : path_(std::move(path)),
        listener_(std::move(listener)),
        core_(std::make_shared<Core>(std::move(handler), limits)),
        acceptor_(core_->io),
        pause_(core_->io) {}
  UnixServer(const UnixServer&) = delete;
  UnixServer& operator=(const UnixServer&) = delete;

  ~UnixServer() override {
    core_->post([this] { shutdown(); });
    if (thread_.joinable())
      thread_.join();
    else
      run();
    core_->refuseFurtherWork();
    // Answers that crossed the stop: their sessions are closed, so this only lets go of them.
    core_->io.restart();
    core_->io.poll();
    core_->handler = nullptr;
    removeSocketFile(path_, listener_);
  }

  Status open() {
    error_code error;
    const int copy = fcntl(listener_.socket.borrow(), F_DUPFD_CLOEXEC, 0);
    if (copy < 0) return std::unexpected(errnoError(errno, "duplicate the listening socket"));
    acceptor_.assign(asio::local::stream_protocol(), copy, error);
    if (error) {
      closeFd(copy);
      return fail(Reason::Io, "listen at " + path_ + ": " + error.message());
    }
    accept();
    return {};
  }

  void start() override {
    thread_ = std::thread([this] { run(); });
  }

 private:
  void run() {
    for (;;) {
      try {
        core_->io.run();
        return;
      } catch (const std::exception& thrown) {  // out of memory, most likely: one connection suffers, not the daemon
        log::error("local API server", {{"socket", path_}, {"what", thrown.what()}});
      }
    }
  }

  void shutdown() {
    stopping_ = true;
    error_code ignored;
    acceptor_.close(ignored);
    pause_.cancel();
    const auto sessions = core_->sessions;
    for (const auto& session : sessions) session->close();
  }

  void accept() {
    acceptor_.async_accept([this](const error_code& error, Socket socket) {
      if (stopping_) return;
      if (error) {
        log::warn("cannot accept a connection", {{"socket", path_}, {"error", error.message()}});
        pause_.expires_after(kAcceptPause);
        pause_.async_wait([this](const error_code& cancelled) {
          if (!cancelled && !stopping_) accept();
        });
        return;
      }
      try {
        admit(std::move(socket));
      } catch (const std::exception& thrown) {  // out of memory: this connection is lost, the listener is not
        log::error("cannot admit a connection", {{"socket", path_}, {"what", thrown.what()}});
      }
      accept();
    });
  }

  void admit(Socket socket) {
    Result<Peer> peer = peerOf(socket.native_handle());
    if (!peer) return log::failure("connection refused", peer.error(), {{"socket", path_}});
    makeRoom(peer->uid);
    size_t& open = core_->perUid[peer->uid];
    if (open >= core_->limits.connectionsPerUid || core_->sessions.size() >= core_->limits.connections) {
      if (open == 0) core_->perUid.erase(peer->uid);
      return turnAway(socket);
    }
    ++open;
    auto session = std::make_shared<Session>(core_, std::move(socket), std::move(*peer));
    core_->sessions.insert(session);
    session->start();
  }

  // Who keeps connections for later must not keep anybody out now.
  void makeRoom(uid_t uid) {
    const auto own = core_->perUid.find(uid);
    if (own != core_->perUid.end() && own->second >= core_->limits.connectionsPerUid) {
      const auto idle = std::ranges::find_if(core_->idle, [&](const Session* kept) { return kept->uid() == uid; });
      if (idle != core_->idle.end()) (*idle)->close();
    }
    if (core_->sessions.size() >= core_->limits.connections && !core_->idle.empty()) core_->idle.front()->close();
  }

  // A fresh connection's buffer takes this much; if it does not, the caller sees the close alone.
  static void turnAway(Socket& socket) {
    const Response busy =
        errorResponse(Error{Reason::Busy, "too many connections to this daemon are open", "close some and try again", 0});
    const std::string answer =
        fmt::format("HTTP/1.1 429 Too Many Requests\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
                    busy.contentType, busy.body.size(), busy.body);
    [[maybe_unused]] const ssize_t sent =
        ::send(socket.native_handle(), answer.data(), answer.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }

  const std::string path_;
  const Listener listener_;
  std::shared_ptr<Core> core_;
  asio::local::stream_protocol::acceptor acceptor_;
  asio::steady_timer pause_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<Server>> Server::listen(std::string socketPath, mode_t mode, Handler handler, ServerLimits limits) {
  Result<Listener> listener = listenAt(socketPath, mode);
  if (!listener) return propagate(listener.error());
  auto server =
      std::make_unique<UnixServer>(std::move(socketPath), std::move(*listener), std::move(handler), limits);
  if (Status opened = server->open(); !opened) return propagate(opened.error());
  return std::unique_ptr<Server>(std::move(server));
}

}  // namespace wayleave::localapi
