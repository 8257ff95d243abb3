#include "proxy/pipe_pool.h"

#include <fcntl.h>

namespace wayleave::proxy {
namespace {

// Measured: splice gains over read and write from this size on. Refused for ordinary users beyond fs.pipe-user-pages-soft;
// then the default of 64 KiB serves.
constexpr int kPipeBytes = 256 * 1024;
// Kept for the next burst. Directions that move at the same instant share few: a pipe is empty again after each turn.
constexpr size_t kIdlePipes = 16;

}  // namespace

Pipe PipePool::borrow() {
  if (!idle_.empty()) {
    Pipe pipe = std::move(idle_.back());
    idle_.pop_back();
    return pipe;
  }
  int ends[2];
  if (::pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0) return {};
  (void)::fcntl(ends[1], F_SETPIPE_SZ, kPipeBytes);
  return {Fd::adopt(ends[0]), Fd::adopt(ends[1])};
}

void PipePool::giveBack(Pipe pipe) {
  if (pipe && idle_.size() < kIdlePipes) idle_.push_back(std::move(pipe));
}

}  // namespace wayleave::proxy
