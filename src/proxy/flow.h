#pragma once

// The life of one flow: decide, open, relay, account.
//
//   Deciding -> Peeking -> Opening -> Tunnelled -> Ended
//                      \-> Direct (its own leg) -/
//
// A tunnelled flow owns no buffer: bytes from the application are read into the worker's buffer only as far as the stream
// takes them now, and bytes from the stream stay there until the application's socket takes them. That is also the whole
// back-pressure. Nothing is read (only peeked) from the application before the gateway answered 2xx.
//
// An ending other than Completed resets the application's connection, so that it sees a failure and not an early end.
// The failure policy covers the gateway that cannot be used, not the one that says no: a refusal is never bypassed.

#include <boost/intrusive/list.hpp>
#include <memory>
#include <span>
#include <string>

#include "capture/capture.h"
#include "observe/flow_record.h"
#include "proxy/deadlines.h"
#include "proxy/direct_leg.h"
#include "proxy/poller.h"
#include "tunnel/stream.h"

namespace wayleave::proxy {

class Worker;
struct Route;

class Flow final : public tunnel::StreamEvents,
                   public boost::intrusive::list_base_hook<>,
                   private Watcher,
                   private Deadlines::Node,
                   private DirectLeg::Owner {
 public:
  Flow(Worker& worker, capture::CapturedFlow captured, uint64_t id);
  ~Flow();
  Flow(const Flow&) = delete;
  Flow& operator=(const Flow&) = delete;

  void start();
  // Takes a turn up again that was interrupted for fairness.
  void continueRelay();
  // The last thing that happens to a flow: closes, records, and hands itself to the worker for destruction.
  void end(Reason outcome, std::string error);

 private:
  enum class State : uint8_t { Deciding, Peeking, Opening, Tunnelled, Direct, Ended };

  void onReady(uint32_t events) override;
  void onDeadline(DeadlineKind kind) override;

  void decide(bool hostKnown);
  void beginPeek();
  void peek();
  void openTunnel(std::shared_ptr<Route> route);
  void onOpened(Result<std::unique_ptr<tunnel::Stream>> result);
  void onTunnelFailed(const Error& error);
  void goDirect();

  size_t onData(ByteView bytes) override { return onDataParts({&bytes, 1}); }
  size_t onDataParts(std::span<const ByteView> parts) override;
  void onWritable() override;
  void onEndOfStream() override;
  void onClosed(const Error& why) override;
  void pumpUp();
  void halfClosed();

  void onDirectConnected() override;
  void onDirectBytes(bool up, size_t bytes) override;
  void onDirectHalfClosed() override;
  void onDirectEnded(Reason outcome, std::string error) override;
  void onDirectTurnOver() override;

  void touch() { lastActivity_ = std::chrono::steady_clock::now(); }
  void count(bool up, size_t bytes);
  observe::FlowRecord record(Reason outcome, std::string error) const;

  Worker& worker_;
  Fd client_;
  capture::Endpoint source_, destination_;
  std::string host_;
  std::shared_ptr<Route> route_;  // keeps the opener beneath the stream alive while a newer policy is in force
  std::unique_ptr<tunnel::Opener::Pending> pending_;
  std::unique_ptr<tunnel::Stream> stream_;
  std::unique_ptr<DirectLeg> direct_;
  uint64_t id_;
  uint64_t bytesUp_ = 0, bytesDown_ = 0;
  Wall started_;
  Steady startedSteady_, openedAt_{}, lastActivity_{};
  std::optional<uint32_t> user_;
  State state_ = State::Deciding;
  observe::Carriage carriage_ = observe::Carriage::Direct;
  bool readable_ = true, writable_ = true;  // until a call says EAGAIN
  bool hungUp_ = false;                     // the application sent its end: read on until 0
  bool upEnded_ = false, downEnded_ = false;
  bool downPaused_ = false;  // the stream holds bytes that the application did not take
};

}  // namespace wayleave::proxy
