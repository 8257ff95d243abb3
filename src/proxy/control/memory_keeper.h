#pragma once

// Gives memory back to the kernel when many flows have gone. The allocator keeps what is freed, for the next flow; on a machine
// where nothing comes for a while that is memory that others could use. The workers ask for it back themselves when a peak of
// flows goes, but what those flows leave to others goes later: the records, once they are written, and the connections to the
// gateway that nobody needs any more, ten seconds after (tunnel/opener.h). So it is asked for once more, when it has been quiet.

#include <chrono>
#include <functional>
#include <memory>
#include <thread>

#include "observe/flow_journal.h"

namespace wayleave::proxy::control {

class MemoryKeeper {
 public:
  struct Options {
    size_t flows = 500;  // that ended since memory was last asked for: what fewer leave behind is not worth the work
    // Then so many spans in a row in which fewer than `busy` flows end: memory that is needed again at once is not given back.
    std::chrono::milliseconds span{1'000};
    int spans = 12;
    size_t busy = 50;
    std::function<void()> giveBack = trim;  // on a thread of its own
  };
  MemoryKeeper(observe::FlowJournal& journal, Options options);
  ~MemoryKeeper();

 private:
  struct Counted;
  static void trim();
  void run(std::stop_token stop);

  const Options options_;
  const std::shared_ptr<Counted> counted_;
  std::jthread thread_;  // last: it uses what stands above
};

}  // namespace wayleave::proxy::control
