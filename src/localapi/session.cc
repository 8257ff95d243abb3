#include "localapi/session.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/log.h"
#include "localapi/stream.h"
#include "localapi/url.h"

namespace wayleave::localapi {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using boost::system::error_code;
using Socket = LocalSocket;

namespace {

constexpr size_t kReadBytes = 16 * 1024;

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

}  // namespace

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
  if (core_->perUid[uid()] <= core_->limits.keptPerUid) return;
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

}  // namespace wayleave::localapi
