#pragma once

// Pipes for splice(). A flow borrows one per direction only while bytes are on their way; an idle flow owns none.

#include <vector>

#include "base/owned.h"

namespace wayleave::proxy {

struct Pipe {
  Fd read, write;
  explicit operator bool() const { return static_cast<bool>(read); }
};

class PipePool {
 public:
  // Empty when the system gives none: the caller copies instead.
  Pipe borrow();
  // Only an empty pipe may come back.
  void giveBack(Pipe pipe);

 private:
  std::vector<Pipe> idle_;
};

}  // namespace wayleave::proxy
