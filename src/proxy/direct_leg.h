#pragma once

// A flow that goes to its destination without the tunnel: our own marked socket and splice() in both directions.

#include <memory>
#include <string>

#include "capture/capture.h"
#include "proxy/pipe_pool.h"
#include "proxy/poller.h"

namespace wayleave::proxy {

class Worker;

class DirectLeg final : private Watcher {
 public:
  class Owner {
   public:
    virtual void onDirectConnected() = 0;
    virtual void onDirectBytes(bool up, size_t bytes) = 0;
    virtual void onDirectHalfClosed() = 0;
    // Both ways are done, or it broke: Completed, DirectUnreachable, ClientReset, TargetReset, Io. The owner closes.
    virtual void onDirectEnded(Reason outcome, std::string error) = 0;
    virtual void onDirectTurnOver() = 0;  // more could move: call continueRelay() after the others had their turn

   protected:
    ~Owner() = default;
  };

  // `client` stays the owner's. Errors: DirectUnreachable, Io.
  static Result<std::unique_ptr<DirectLeg>> connect(Worker& worker, Owner& owner, int client,
                                                    const capture::Endpoint& destination, const capture::Endpoint& source);
  ~DirectLeg();

  void onClientReady(uint32_t events);
  void continueRelay() { pumpBoth(); }
  void resetOnClose();

 private:
  struct Way {
    int from = -1, to = -1;
    bool up = false;
    bool readable = true, writable = true;
    bool ended = false;  // everything, the end included, was passed on
    Pipe pipe;           // only while `held` bytes are in it
    size_t held = 0;
  };
  enum class Turn : uint8_t { Blocked, Over, Ended, Broken };

  DirectLeg(Worker& worker, Owner& owner, int client, Fd target);

  void onReady(uint32_t events) override;
  void onConnected();
  void pumpBoth();
  Turn pump(Way& way);
  Turn drainPipe(Way& way);
  Turn fillPipe(Way& way);
  Turn copyOnce(Way& way);
  Turn passEnd(Way& way);
  Turn broke(const Way& way, bool reading, int error);

  Worker& worker_;
  Owner& owner_;
  Fd target_;
  Way up_, down_;
  bool connected_ = false;
  bool closed_ = false;
};

}  // namespace wayleave::proxy
