#include "tunnel/opener.h"

#include "tunnel/connect_answer.h"
#include "tunnel/http1_opener.h"
#include "tunnel/http2_opener.h"

namespace wayleave::tunnel {
namespace {

// ALPN decides: the first connection is dialled for HTTP/2, with both protocols offered. What it comes out as holds until a
// connection comes out differently, since a gateway may be reconfigured.
class AutoOpener final : public Opener {
 public:
  AutoOpener(boost::asio::io_context& io, const OpenerOptions& options)
      : io_(io), http1_(io, options), http2_(io, options) {
    http2_.onHttp1([this](std::shared_ptr<Link> link, std::vector<std::shared_ptr<OpenRequest>> waiting) {
      usesHttp1_ = true;
      if (waiting.empty()) {
        link->close();
        return;
      }
      http1_.carryOn(std::move(link), std::move(waiting.front()));
      for (auto& request : std::span(waiting).subspan(1)) http1_.carry(std::move(request));
    });
    http1_.onHttp2([this](std::shared_ptr<OpenRequest> request) {
      usesHttp1_ = false;
      http2_.carry(std::move(request));
    });
  }

  std::unique_ptr<Pending> open(const Target& target, StreamEvents& events, std::chrono::steady_clock::time_point deadline,
                                OpenDone done) override {
    auto authority = authorityOf(target);
    auto request = std::make_shared<OpenRequest>(io_, authority.value_or(""), events, deadline, std::move(done));
    request->start();
    if (!authority)
      request->failSoon(std::move(authority.error()));
    else if (usesHttp1_)
      http1_.carry(request);
    else
      http2_.carry(request);
    return request->handle();
  }
  void drain() override {
    http1_.drain();
    http2_.drain();
  }
  void closeAll(const Error& why) override {
    http1_.closeAll(why);
    http2_.closeAll(why);
  }
  void warm() override {
    if (!usesHttp1_) http2_.warm();
  }

 private:
  boost::asio::io_context& io_;
  bool usesHttp1_ = false;
  Http1Opener http1_;
  Http2Opener http2_;
};

}  // namespace

std::unique_ptr<Opener> makeOpener(boost::asio::io_context& io, OpenerOptions options) {
  if (!options.buffers) options.buffers = std::make_shared<WorkerBuffers>();
  switch (options.protocol) {
    case Protocol::Auto: return std::make_unique<AutoOpener>(io, options);
    case Protocol::Http1: return std::make_unique<Http1Opener>(io, std::move(options));
    case Protocol::Http2: return std::make_unique<Http2Opener>(io, std::move(options));
  }
  return nullptr;
}

}  // namespace wayleave::tunnel
