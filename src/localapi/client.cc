#include "localapi/client.h"

// A blocking client over poll(): no event loop to bring along, so that the PKCS#11 module can live inside any program,
// in any of its threads and across its forks. Beast parses; everything that waits has a deadline.

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <optional>

#include <boost/beast/http.hpp>
#include <fmt/format.h>

#include "localapi/server.h"
#include "localapi/unix_socket.h"

namespace wayleave::localapi {
namespace {

namespace beast = boost::beast;
namespace http = beast::http;
using boost::system::error_code;

// The largest answer is a list of profiles; far beyond it something is wrong at the other end.
constexpr size_t kMostAnswerBytes = 64 * 1024 * 1024;
constexpr uint32_t kMostHeaderBytes = 64 * 1024;
constexpr size_t kMostLineBytes = 1024 * 1024;
constexpr size_t kReadBytes = 16 * 1024;

bool isPlain(std::string_view text) {
  for (const char c : text)
    if (c <= 0x20 || c >= 0x7f) return false;
  return !text.empty();
}

Result<std::string> requestBytes(std::string_view method, std::string_view path, std::string_view body,
                                 std::string_view contentType, std::string_view connection = "Connection: close\r\n") {
  if (!isPlain(method) || !isPlain(path) || path.front() != '/')
    return fail(Reason::BadInput, "the request target is not percent-encoded");
  for (const char c : contentType)
    if (c < 0x20 || c == 0x7f) return fail(Reason::BadInput, "control character in the content type");
  std::string out = fmt::format("{} {} HTTP/1.1\r\nHost: localhost\r\n{}", method, path, connection);
  if (method != "GET")
    out += fmt::format("Content-Length: {}\r\n{}", body.size(),
                       body.empty() ? std::string{} : fmt::format("Content-Type: {}\r\n", contentType));
  out += "\r\n";
  return out;
}

// A request and its answer on a connection, which outlives it. `wakeFd`, when given, ends any wait (Reason::Cancelled).
class Exchange {
 public:
  Exchange(const std::string& path, const Fd& socket, int wakeFd) : path_(path), socket_(socket), wakeFd_(wakeFd) {
    parser_.body_limit(kMostAnswerBytes);
    parser_.header_limit(kMostHeaderBytes);
    parser_.eager(true);
  }

  http::response_parser<http::string_body>& parser() { return parser_; }

  // A daemon that refuses early answers before it has read everything and closes: what it said is then still readable,
  // so a broken pipe while sending is no error yet.
  Status send(std::string_view bytes, std::optional<Steady> deadline) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(socket_.borrow(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent >= 0) {
        bytes.remove_prefix(static_cast<size_t>(sent));
        continue;
      }
      if (errno == EPIPE || errno == ECONNRESET) return {};
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return std::unexpected(errnoError(errno, "send to " + path_));
      if (Status ready = wait(POLLOUT, deadline); !ready) return ready;
    }
    return {};
  }

  // Feeds the parser once with what comes next. Returns false when the answer is complete.
  Result<bool> step(std::optional<Steady> deadline) {
    if (parser_.is_done()) return false;
    if (Status ready = wait(POLLIN, deadline); !ready) return propagate(ready.error());
    const size_t held = pending_.size();
    pending_.resize(held + kReadBytes);
    const ssize_t got = recv(socket_.borrow(), pending_.data() + held, kReadBytes, 0);
    const int number = errno;
    pending_.resize(held + static_cast<size_t>(std::max<ssize_t>(got, 0)));
    if (got < 0) {
      if (number == EINTR || number == EAGAIN) return true;
      return fail(Reason::Unavailable, daemonOf(path_) + " closed the connection without an answer");
    }
    error_code error;
    if (got == 0) {
      if (parser_.got_some()) parser_.put_eof(error);
      if (!parser_.is_done() || error)
        return fail(Reason::Unavailable, daemonOf(path_) + " closed the connection in the middle of an answer",
                    "look at its log; it may have been restarted");
      return false;
    }
    while (!pending_.empty() && !parser_.is_done()) {
      const size_t used = parser_.put(boost::asio::buffer(pending_), error);
      pending_.erase(0, used);
      if (error == http::error::need_more) return true;
      if (error) return fail(Reason::Io, "answer of " + daemonOf(path_) + ": " + error.message());
      if (used == 0) return true;
    }
    return !parser_.is_done();
  }

  Result<ClientResponse> run(std::string_view request, std::string_view body, Steady deadline) {
    for (const std::string_view part : {request, body})
      if (Status sent = send(part, deadline); !sent) return propagate(sent.error());
    for (;;) {
      Result<bool> more = step(deadline);
      if (!more) return propagate(more.error());
      if (!*more) break;
    }
    goesOn_ = parser_.keep_alive() && pending_.empty();
    return take();
  }
  bool heard() const { return parser_.got_some(); }
  // May the connection carry another exchange? After run().
  bool goesOn() const { return goesOn_; }

  ClientResponse take() {
    auto message = parser_.release();
    return ClientResponse{static_cast<int>(message.result_int()), std::string(message[http::field::content_type]),
                          std::move(message.body())};
  }

 private:
  Status wait(short events, std::optional<Steady> deadline) {
    std::array<pollfd, 2> fds{pollfd{socket_.borrow(), events, 0}, pollfd{wakeFd_, POLLIN, 0}};
    for (;;) {
      const int count = poll(fds.data(), fds.size(), deadline ? pollTimeout(*deadline) : -1);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return std::unexpected(errnoError(errno, "wait for " + path_));
      if (count == 0) return fail(Reason::DeadlineExceeded, daemonOf(path_) + " did not answer in time");
      if (fds[1].revents != 0) return fail(Reason::Cancelled, "stopped");
      return {};
    }
  }

  const std::string& path_;
  const Fd& socket_;
  int wakeFd_;
  bool goesOn_ = false;
  std::string pending_;
  http::response_parser<http::string_body> parser_;
};

}  // namespace

Client::Client(std::string socketPath, std::chrono::milliseconds timeout, std::shared_ptr<KeptConnections> kept)
    : socketPath_(std::move(socketPath)), timeout_(timeout), kept_(std::move(kept)) {}

Result<ClientResponse> Client::call(std::string_view method, std::string_view path, std::string_view body,
                                    std::string_view contentType) const {
  return callBy(std::chrono::steady_clock::now() + timeout_, method, path, body, contentType);
}

Result<ClientResponse> Client::callBy(Steady deadline, std::string_view method, std::string_view path,
                                      std::string_view body, std::string_view contentType) const {
  Result<std::string> head = requestBytes(method, path, body, contentType);
  if (!head) return propagate(head.error());
  Result<Fd> socket = connectTo(socketPath_, deadline);
  if (!socket) return propagate(socket.error());
  return Exchange(socketPath_, *socket, -1).run(*head, body, deadline);
}

Result<ClientResponse> Client::callKept(Steady deadline, std::string_view method, std::string_view path,
                                        std::string_view body) const {
  Result<std::string> request = requestBytes(method, path, body, "application/json", {});
  if (!request) return propagate(request.error());
  request->append(body);  // one write: the daemon wakes once
  Result<KeptConnections::Turn> turn = kept_->take(deadline);
  if (!turn) return propagate(turn.error());
  for (;;) {
    const bool reused = static_cast<bool>(turn->socket());
    if (!reused) {
      Result<Fd> socket = connectTo(socketPath_, deadline);
      if (!socket) return propagate(socket.error());
      turn->use(std::move(*socket));
    }
    Exchange exchange(socketPath_, turn->socket(), -1);
    Result<ClientResponse> answer = exchange.run(*request, {}, deadline);
    if (exchange.goesOn()) turn->keep();
    if (answer || !reused || exchange.heard() || answer.error().reason != Reason::Unavailable) return answer;
    turn->use(Fd{});
  }
}

Result<std::string> Client::callJson(std::string_view method, std::string_view path, std::string_view body,
                                     std::string_view contentType) const {
  Result<ClientResponse> response = call(method, path, body, contentType);
  if (!response) return propagate(response.error());
  if (response->status < 200 || response->status > 299) return std::unexpected(errorFromResponse(*response));
  return std::move(response->body);
}

Status Client::follow(std::string_view path, const std::function<bool(std::string_view line)>& onLine,
                      std::stop_token stop, const std::function<void()>& onOpen) const {
  const Fd wake = Fd::adopt(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return std::unexpected(errnoError(errno, "create an eventfd"));
  const std::stop_callback onStop(stop, [&] { eventfd_write(wake.borrow(), 1); });

  const Steady deadline = std::chrono::steady_clock::now() + timeout_;
  Result<std::string> head = requestBytes("GET", path, {}, {});
  if (!head) return propagate(head.error());
  Result<Fd> socket = connectTo(socketPath_, deadline);
  if (!socket) return propagate(socket.error());
  Exchange exchange(socketPath_, *socket, wake.borrow());

  std::string held;
  bool wanted = true;
  bool opened = false;
  const auto announce = [&] {
    const unsigned status = exchange.parser().is_header_done() ? exchange.parser().get().result_int() : 0;
    if (status >= 200 && status <= 299 && !std::exchange(opened, true) && onOpen) onOpen();
  };
  auto onChunk = [&](uint64_t, std::string_view piece, error_code& error) -> size_t {
    // An error answer is chunked by no daemon of ours; if one were, it would be read as lines here and refused below.
    held.append(piece);
    announce();
    for (size_t end = held.find('\n'); wanted && end != std::string::npos; end = held.find('\n')) {
      const std::string line = held.substr(0, end);
      held.erase(0, end + 1);
      if (!line.empty()) wanted = onLine(line);
    }
    if (held.size() > kMostLineBytes) error = http::error::body_limit;
    return piece.size();
  };
  exchange.parser().on_chunk_body(onChunk);
  exchange.parser().body_limit(boost::none);

  const auto finished = [&](const Error& error) -> Status {
    if (error.reason == Reason::Cancelled || !wanted) return {};
    return propagate(error);
  };
  if (Status sent = exchange.send(*head, deadline); !sent) return finished(sent.error());
  while (wanted) {
    const bool streaming = exchange.parser().is_header_done();
    Result<bool> more = exchange.step(streaming ? std::nullopt : std::optional(deadline));
    announce();
    if (!more) return finished(more.error());
    if (*more) continue;
    const ClientResponse answer = exchange.take();
    if (answer.status < 200 || answer.status > 299) return std::unexpected(errorFromResponse(answer));
    return {};
  }
  return {};
}

}  // namespace wayleave::localapi
