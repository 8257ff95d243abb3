#include "tunnel/opener.h"

#include "tunnel/http1_opener.h"

namespace wayleave::tunnel {

std::unique_ptr<Opener> makeOpener(boost::asio::io_context& io, OpenerOptions options) {
  if (!options.buffers) options.buffers = std::make_shared<WorkerBuffers>();
  return std::make_unique<Http1Opener>(io, std::move(options));
}

}  // namespace wayleave::tunnel
