#include "tunnel/http1_opener.h"

#include "tunnel/connect_answer.h"
#include "tunnel/http1_flow.h"


namespace wayleave::tunnel {

Http1Opener::Http1Opener(boost::asio::io_context& io, OpenerOptions options)
    : io_(io), options_(std::move(options)), addresses_(io, options_.host, options_.port, options_.addresses) {}

Http1Opener::~Http1Opener() {
  closeAll({Reason::Drained, "the tunnels to this gateway were closed", {}});
}

std::unique_ptr<Opener::Pending> Http1Opener::open(const Target& target, StreamEvents& events,
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

void Http1Opener::carry(std::shared_ptr<OpenRequest> request) {
  auto flow = std::make_shared<Http1Flow>(io_, *this, std::move(request));
  flows_.insert(flow);
  queue_.push_back(std::move(flow));
  launchQueued();
}

void Http1Opener::carryOn(std::shared_ptr<Link> link, std::shared_ptr<OpenRequest> request) {
  auto flow = std::make_shared<Http1Flow>(io_, *this, std::move(request));
  flows_.insert(flow);
  flow->ask(std::move(link));
}

// One at a time is asked for its context, so that tickets which arrive meanwhile count.
void Http1Opener::launchQueued() {
  while (!queue_.empty()) {
    if (!queue_.front()->waitsForPlace()) {  // cancelled while it waited
      queue_.pop_front();
      continue;
    }
    auto context = options_.context();
    const bool needsSigner = context && !(*context)->hasSession();
    if (needsSigner && fullHandshakes_ >= options_.maxFullHandshakes) return;
    const auto flow = std::move(queue_.front());
    queue_.pop_front();
    if (!context) {
      // Posted: open() may be on the stack.
      boost::asio::post(io_, [flow, why = std::move(context.error())]() mutable { flow->end(std::move(why)); });
      continue;
    }
    if (needsSigner) ++fullHandshakes_;
    flow->launch(std::move(*context), needsSigner);
  }
}

void Http1Opener::fullHandshakeOver() {
  --fullHandshakes_;
  launchQueued();
}

void Http1Opener::gone(Http1Flow& flow) {
  flow.forgetOpener();
  flows_.erase(flow.shared_from_this());
}

void Http1Opener::closeAll(const Error& why) {
  queue_.clear();
  // A copy: flows leave the set as they end, and what they call may open new ones.
  const std::vector<std::shared_ptr<Http1Flow>> flows(flows_.begin(), flows_.end());
  for (const auto& flow : flows) flow->end(why);
}

}  // namespace wayleave::tunnel
