#include "tunnel/http2_opener.h"

#include <algorithm>
#include <boost/asio/post.hpp>

#include "tunnel/connect_answer.h"

namespace wayleave::tunnel {
namespace {

// A gateway that gives every stream back is not asked for ever.
constexpr int kMaxRetries = 2;
// A gateway may be configured anew, and a conclusion may be wrong.
constexpr std::chrono::minutes kRememberServed{10};
constexpr std::chrono::minutes kPauseSuspicion{1};

}  // namespace

Http2Opener::Http2Opener(boost::asio::io_context& io, OpenerOptions options)
    : io_(io), options_(std::move(options)), addresses_(io, options_.host, options_.port, options_.addresses) {}

Http2Opener::~Http2Opener() {
  *alive_ = false;
  closeAll({Reason::Drained, "the tunnels to this gateway were closed", {}});
}

std::unique_ptr<Opener::Pending> Http2Opener::open(const Target& target, StreamEvents& events,
                                                   std::chrono::steady_clock::time_point deadline, OpenDone done) {
  auto authority = authorityOf(target);
  auto request = std::make_shared<OpenRequest>(io_, authority.value_or(""), events, deadline, std::move(done));
  request->start();
  if (authority)
    carry(request);
  else
    request->failSoon(std::move(authority.error()));
  return request->handle();
}

void Http2Opener::carry(std::shared_ptr<OpenRequest> request) {
  if (served_ < Http2Session::kMaxStreams && Steady::clock::now() >= servedUntil_) serveAtMost(Http2Session::kMaxStreams);
  const auto free = std::ranges::find_if(connections_, [](const auto& connection) { return connection->accepts(); });
  if (free != connections_.end()) {
    (*free)->request(std::move(request));
    return;
  }
  request->carryBy(this);
  waiting_.push_back(std::move(request));
  dial();
}

void Http2Opener::warm() {
  for (const auto& connection : connections_) connection->probe();
  if (connections_.empty()) dial();
}

Error Http2Opener::lateness() const {
  if (dialling_ && dialling_->waitsForSigner())
    return {Reason::DeadlineExceeded, "the identity did not sign the TLS handshake in time",
            "the key's device is slow or busy: see wayleave status"};
  return {Reason::GatewayTimeout, "no connection to the gateway in time", {}};
}

// ---- Dialling, one at a time.

void Http2Opener::dial() {
  if (dialling_ || resolving_) return;
  // The next connection resumes by the ticket of the one before, and needs no signature, once that has been heard.
  if (std::ranges::any_of(connections_, [](const auto& connection) { return !connection->heard(); })) return;
  resolving_ = true;
  outdated_ = false;
  addresses_.get([this](const auto& endpoints) {  // never after our end: addresses_ is ours
    resolving_ = false;
    if (!endpoints) {
      dialFailed(endpoints.error());
      return;
    }
    auto context = options_.context();
    if (!context) {
      dialFailed(context.error());
      return;
    }
    Http2Pool& pool = *this;
    dialling_ = std::make_shared<Http2Connection>(io_, pool, options_);
    if (auto dialled = dialling_->dial(options_, std::move(*context), *endpoints); !dialled) {
      dialling_.reset();
      dialFailed(dialled.error());
    }
  });
}

void Http2Opener::dialFailed(const Error& why) {
  const auto alive = alive_;
  for (const auto& request : takeWaiting()) {
    request->complete(std::unexpected(why));
    if (!*alive) return;
  }
}

std::vector<std::shared_ptr<OpenRequest>> Http2Opener::takeWaiting() {
  std::vector<std::shared_ptr<OpenRequest>> taken(waiting_.begin(), waiting_.end());
  waiting_.clear();
  std::erase_if(taken, [](const auto& request) { return !request->live(); });
  for (const auto& request : taken) request->carryBy(nullptr);
  return taken;
}

std::shared_ptr<OpenRequest> Http2Opener::nextWaiting() {
  while (!waiting_.empty()) {
    auto request = std::move(waiting_.front());
    waiting_.pop_front();
    if (request->live()) return request;
  }
  return nullptr;
}

void Http2Opener::assignWaiting() {
  for (const auto& connection : connections_) {
    while (!waiting_.empty() && connection->accepts())
      if (auto request = nextWaiting()) connection->request(std::move(request));
  }
  std::erase_if(waiting_, [](const auto& request) { return !request->live(); });
  if (!waiting_.empty()) dial();
}

// ---- What connections say.

void Http2Opener::connectionReady(Http2Connection& connection) {
  connections_.push_back(connection.shared_from_this());
  dialling_.reset();
  if (std::exchange(outdated_, false)) connection.stopAccepting();
  connection.serveAtMost(served_);
  assignWaiting();
}

void Http2Opener::connectionHasRoom(Http2Connection&) {
  if (!waiting_.empty()) assignWaiting();
}

void Http2Opener::connectionIsHttp1(Http2Connection&, std::shared_ptr<Link> link) {
  dialling_.reset();
  if (onHttp1_) {
    onHttp1_(std::move(link), takeWaiting());
    return;
  }
  link->close();
  dialFailed({Reason::GatewayProtocolError, "the gateway does not offer HTTP/2 (ALPN), and the profile insists on it",
              "set the profile's protocol to auto or http/1.1"});
}

void Http2Opener::connectionGone(Http2Connection& connection, const Error& why) {
  if (dialling_.get() == &connection) {
    dialling_.reset();
    if (why.reason == Reason::GatewayUnreachable) addresses_.forget();
    dialFailed(why);
    return;
  }
  std::erase_if(connections_, [&](const auto& one) { return one.get() == &connection; });
  if (!waiting_.empty()) assignWaiting();
}

void Http2Opener::retryRequest(std::shared_ptr<OpenRequest> request, const Error& why) {
  if (!request->live()) return;
  if (request->countRetry() > kMaxRetries)
    request->complete(std::unexpected(why));
  else
    carry(std::move(request));
}

bool Http2Opener::connectionIsSpare(const Http2Connection& connection) const {
  return std::ranges::any_of(connections_, [&](const auto& other) { return other.get() != &connection && other->accepts(); });
}

// ---- Gateways that serve fewer streams at once than they say: Apache httpd takes 100 and serves six to begin with.

// What it serves is what it has answered and not ended. The other connection is the test of it: if the request gets no answer
// there either, its target is slow and nothing was learned. A gateway that says nothing at all is another case: then it is
// the connection that may be dead, which PING finds out about, and the request need not wait for that.
void Http2Opener::requestIgnored(Http2Connection& connection, int32_t id, bool silent) {
  const auto request = connection.unanswered(id);
  const Steady now = Steady::clock::now();
  if (silent) {
    connection.distrust();
  } else if (request->moved()) {
    suspectAgain_ = now + kPauseSuspicion;
    serveAtMost(Http2Session::kMaxStreams);
    return;
  } else {
    const size_t answered = connection.answeredStreams();
    if (answered == 0 || now < suspectAgain_) return;
    servedUntil_ = now + kRememberServed;
    connection.serveAtMost(answered);
    serveAtMost(std::min(served_, answered));
  }
  if (request->moved()) return;
  request->setMoved();
  connection.withdraw(id);
  carry(request);
}

void Http2Opener::serveAtMost(size_t streams) {
  if (std::exchange(served_, streams) == streams) return;
  for (const auto& connection : connections_) connection->serveAtMost(streams);
  if (!waiting_.empty()) assignWaiting();
}

// ---- Ends.

void Http2Opener::drain() {
  outdated_ = dialling_ != nullptr;
  const auto connections = connections_;
  for (const auto& connection : connections) connection->stopAccepting();
}

void Http2Opener::closeAll(const Error& why) {
  const auto alive = alive_;
  const auto waiting = takeWaiting();
  if (const auto dialling = std::exchange(dialling_, nullptr)) {
    dialling->forgetPool();
    dialling->close(why);
  }
  for (const auto& connection : std::exchange(connections_, {})) {
    connection->forgetPool();
    connection->close(why);
  }
  for (const auto& request : waiting) request->complete(std::unexpected(why));
}

}  // namespace wayleave::tunnel
