#include "tunnel/open_request.h"

#include <fmt/format.h>

#include <boost/asio/post.hpp>

namespace wayleave::tunnel {
namespace {

class CancelHandle final : public Opener::Pending {
 public:
  explicit CancelHandle(std::function<void()> cancel) : cancel_(std::move(cancel)) {}
  ~CancelHandle() override { cancel_(); }

 private:
  std::function<void()> cancel_;
};

}  // namespace

OpenRequest::OpenRequest(boost::asio::io_context& io, std::string authority, StreamEvents& events, Steady deadline,
                         OpenDone done)
    : io_(io), authority_(std::move(authority)), events_(events), deadline_(deadline), done_(std::move(done)), timer_(io) {}

std::unique_ptr<Opener::Pending> OpenRequest::handle() {
  return std::make_unique<CancelHandle>([self = shared_from_this()] {
    if (!self->live()) return;
    self->done_ = nullptr;
    self->stop();
  });
}

void OpenRequest::start() {
  timer_.expires_at(deadline_);
  timer_.async_wait([weak = weak_from_this()](const boost::system::error_code& code) {
    const auto self = weak.lock();
    if (code || !self || !self->live()) return;
    Error why = self->carrier_ != nullptr
                    ? self->carrier_->lateness()
                    : Error{Reason::GatewayTimeout, fmt::format("no tunnel to {} in time", self->authority_), {}};
    OpenDone done = std::exchange(self->done_, nullptr);
    self->stop();
    done(std::unexpected(std::move(why)));
  });
}

void OpenRequest::stop() {
  timer_.cancel();
  if (Carrier* carrier = std::exchange(carrier_, nullptr)) carrier->abandonRequest();
}

void OpenRequest::complete(Result<std::unique_ptr<Stream>> result) {
  if (!live()) return;
  carrier_ = nullptr;
  timer_.cancel();
  std::exchange(done_, nullptr)(std::move(result));
}

void OpenRequest::failSoon(Error why) {
  boost::asio::post(io_, [self = shared_from_this(), why = std::move(why)]() mutable {
    self->complete(std::unexpected(std::move(why)));
  });
}

}  // namespace wayleave::tunnel
