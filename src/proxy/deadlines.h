#pragma once

// Deadlines of thousands of flows behind one timer. Every kind of deadline has one fixed length, so the order of arming is
// the order of expiry: a list per kind, arming and disarming are a few pointer writes, and only the heads are looked at.

#include <array>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <optional>

#include "base/clock.h"

namespace wayleave::proxy {

enum class DeadlineKind : uint8_t { Peek, Connect, HalfClosed, Idle };
inline constexpr size_t kDeadlineKinds = 4;

class Deadlines {
 public:
  // One per flow, embedded in it. Armed for one kind at a time.
  class Node {
   public:
    virtual ~Node() = default;
    virtual void onDeadline(DeadlineKind kind) = 0;

   protected:
    Node() = default;
    Node(const Node&) = delete;
    Node& operator=(const Node&) = delete;

   private:
    friend class Deadlines;
    Node* previous_ = nullptr;
    Node* next_ = nullptr;
    Steady due_{};
    DeadlineKind kind_{};
    bool armed_ = false;
  };

  using Lengths = std::array<std::chrono::milliseconds, kDeadlineKinds>;  // zero: never
  Deadlines(boost::asio::io_context& loop, const Lengths& lengths) : timer_(loop), lengths_(lengths) {}

  // Counts from now; an armed node is armed anew.
  void arm(Node& node, DeadlineKind kind) {
    disarm(node);
    const auto length = lengths_[static_cast<size_t>(kind)];
    if (length == std::chrono::milliseconds::zero()) return;
    List& list = lists_[static_cast<size_t>(kind)];
    node.kind_ = kind;
    node.due_ = std::chrono::steady_clock::now() + length;
    node.armed_ = true;
    node.previous_ = list.last;
    node.next_ = nullptr;
    (list.last != nullptr ? list.last->next_ : list.first) = &node;
    list.last = &node;
    if (!wakeAt_ || node.due_ < *wakeAt_) wakeAt(node.due_);
  }

  void disarm(Node& node) {
    if (!node.armed_) return;
    List& list = lists_[static_cast<size_t>(node.kind_)];
    (node.previous_ != nullptr ? node.previous_->next_ : list.first) = node.next_;
    (node.next_ != nullptr ? node.next_->previous_ : list.last) = node.previous_;
    node.armed_ = false;
  }

  std::chrono::milliseconds length(DeadlineKind kind) const { return lengths_[static_cast<size_t>(kind)]; }

 private:
  struct List {
    Node* first = nullptr;
    Node* last = nullptr;
  };

  // The timer is not moved when its node is disarmed: waking once for nothing is cheaper than moving it for every flow.
  void wakeAt(Steady due) {
    wakeAt_ = due;
    timer_.expires_at(due);
    timer_.async_wait([this](const boost::system::error_code& code) {
      if (!code) expire();
    });
  }

  void expire() {
    wakeAt_.reset();
    const Steady now = std::chrono::steady_clock::now();
    for (List& list : lists_)
      while (list.first != nullptr && list.first->due_ <= now) {
        Node& node = *list.first;
        disarm(node);
        node.onDeadline(node.kind_);
      }
    for (const List& list : lists_)
      if (list.first != nullptr && (!wakeAt_ || list.first->due_ < *wakeAt_)) wakeAt(list.first->due_);
  }

  boost::asio::steady_timer timer_;
  Lengths lengths_;
  std::array<List, kDeadlineKinds> lists_{};
  std::optional<Steady> wakeAt_;
};

}  // namespace wayleave::proxy
