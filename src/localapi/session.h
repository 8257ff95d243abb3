#pragma once

// One connection of the server. Requests on it are served strictly one after the other; it may stay open between them
// (keep-alive). Internal to this library: server.h is its front.
//
// Senders: a descriptor can be inherited or handed on, and who was asked about at accept would then not be who asks. The
// kernel marks what is sent with the sender's process id (SO_PASSCRED; it never merges bytes of two senders into one
// read), and a request that any process but the peer has written to is refused. Hence the reading by recvmsg here.
//
// Lifetimes: the ServerCore (the io_context and the table of sessions) is shared by the server and by every responder or
// stream still held somewhere, so an answer that comes after the server has stopped meets a stopped ServerCore instead of a
// dangling one. Nothing is posted to the io_context once `stopped` is set.
//
// Clocks: three timers' worth of patience, one timer. Between requests `idleTimeout`; from the first byte of a request
// to its last `requestTimeout`, not restarted by progress, so one byte every nine seconds does not hold a connection;
// while an answer is written `requestTimeout` again. While the handler works no timer runs: how long a signature may
// take is the handler's business.

#include <atomic>
#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <functional>
#include <list>
#include <mutex>
#include <set>
#include <unordered_map>

#include "localapi/server.h"

namespace wayleave::localapi {

using LocalSocket = boost::asio::local::stream_protocol::socket;

class Session;
class Stream;

struct ServerCore {
  ServerCore(Handler handle, ServerLimits bounds) : handler(std::move(handle)), limits(bounds) {}

  boost::asio::io_context io{1};
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
    if (!stopped) boost::asio::post(io, std::forward<Function>(function));
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
  Session(std::shared_ptr<ServerCore> core, LocalSocket socket, Peer peer)
      : core_(std::move(core)),
        socket_(std::move(socket)),
        timer_(core_->io),
        peer_(std::make_shared<const Peer>(std::move(peer))) {}

  uid_t uid() const { return peer_->uid; }
  ServerCore& core() { return *core_; }
  const std::shared_ptr<ServerCore>& sharedCore() const { return core_; }

  void start();
  void awaitRequest();
  void respond(Response response);  // on the loop
  void close();
  bool gone() const { return gone_; }  // from any thread

  // Streams; on the loop.
  void beginStream(std::shared_ptr<Stream> stream);
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
  void refuseParse(const boost::system::error_code& error);
  void write(std::string bytes, std::function<void()> then);
  void watchReader();
  void watchHangUp();

  std::shared_ptr<ServerCore> core_;
  LocalSocket socket_;
  boost::asio::steady_timer timer_;
  std::shared_ptr<const Peer> peer_;
  boost::beast::flat_buffer buffer_;
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  std::string outgoing_;
  std::shared_ptr<Stream> stream_;
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

}  // namespace wayleave::localapi
