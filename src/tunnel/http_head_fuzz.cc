// Whatever arrives, in whatever pieces: the reader ends the same way, and never takes more than it was given.

#include <cstdlib>

#include "tunnel/http_head.h"

using wayleave::tunnel::ResponseHead;

namespace {

struct Outcome {
  int status = -1;  // -1 needs more, -2 error
  size_t consumed = 0;
};

Outcome run(wayleave::ByteView bytes, size_t piece) {
  ResponseHead head;
  size_t offset = 0;
  while (offset < bytes.size()) {
    const auto part = bytes.subspan(offset, std::min(piece, bytes.size() - offset));
    const auto progress = head.feed(part);
    if (!progress) return {-2, 0};
    if (const auto* done = std::get_if<ResponseHead::Done>(&*progress)) {
      if (done->consumed > part.size()) std::abort();
      return {done->status, offset + done->consumed};
    }
    offset += part.size();
  }
  return {};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const Outcome whole = run({data, size}, size == 0 ? 1 : size);
  const Outcome bytewise = run({data, size}, 1);
  if (whole.status != bytewise.status || whole.consumed != bytewise.consumed) std::abort();
  if (whole.status >= 0 && (whole.status < 200 || whole.status > 599)) std::abort();
  return 0;
}
