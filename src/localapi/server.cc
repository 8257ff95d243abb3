#include "localapi/server.h"

// One thread, one io_context, one Session per connection (session.h). Handlers run here and answer from wherever they like.

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/asio.hpp>
#include <fmt/format.h>
#include <thread>

#include "base/log.h"
#include "localapi/peer.h"
#include "localapi/session.h"
#include "localapi/unix_socket.h"

namespace wayleave::localapi {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using Socket = LocalSocket;

// Out of descriptors: accepting again at once would only spin.
constexpr std::chrono::milliseconds kAcceptPause{100};

class UnixServer final : public Server {
 public:
  UnixServer(std::string path, Listener listener, Handler handler, ServerLimits limits)
      : path_(std::move(path)),
        listener_(std::move(listener)),
        core_(std::make_shared<ServerCore>(std::move(handler), limits)),
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
  std::shared_ptr<ServerCore> core_;
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
