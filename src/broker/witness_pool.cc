#include "broker/witness_pool.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/log.h"

namespace wayleave::broker {
namespace {

// Forking and confining takes a few milliseconds.
constexpr std::chrono::seconds kForkPatience{5};
constexpr size_t kMostUsers = 4096;

Steady now() { return std::chrono::steady_clock::now(); }

bool readable(int fd, Steady deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - now());
    pollfd entry{fd, POLLIN, 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
    if (ready > 0) return true;
    if (ready == 0 || errno != EINTR) return false;
  }
}

bool hungUp(int fd) {
  pollfd entry{fd, 0, 0};
  return ::poll(&entry, 1, 0) == 1 && (entry.revents & (POLLHUP | POLLERR)) != 0;
}

Result<Packet> hear(int socket) {
  if (!readable(socket, now() + kForkPatience)) return fail(Reason::Io, "a witness did not start in time");
  return receivePacket(socket, 4096);
}

Status hearReady(int socket, std::string_view who) {
  const Result<Packet> report = hear(socket);
  if (!report) return propagate(report.error());
  if (asText(report->bytes) != kWitnessReady)
    return fail(Reason::Io, fmt::format("{} could not be confined: {}", who, asText(report->bytes)));
  return {};
}

std::unexpected<Error> nobodyLooks(std::string why) {
  return fail(Reason::Unavailable, "the caller cannot be examined: " + std::move(why),
              "restart wayleave-identityd; its log says why a witness stopped");
}

std::unexpected<Error> notNow(uid_t uid, std::chrono::nanoseconds wait) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(wait);
  return fail(Reason::Busy, fmt::format("looking at a process of user {} does not end: its others are not looked at", uid),
              fmt::format("end the process that hangs in exec; try again in {} ms", std::max<int64_t>(left.count(), 1)));
}

}  // namespace

Result<std::unique_ptr<WitnessPool>> WitnessPool::start(const WitnessSettings& settings, WitnessLimits limits) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return std::unexpected(errnoError(errno, "make the witnesses' channel"));
  Fd ours = Fd::adopt(pair[0]);
  Fd theirs = Fd::adopt(pair[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return std::unexpected(errnoError(errno, "start the witnesses"));
  if (pid == 0) {
    ours.reset();
    keepWitnesses(std::move(theirs), settings);
  }
  theirs.reset();
  std::unique_ptr<WitnessPool> pool(new WitnessPool(limits));
  pool->channel_ = std::move(ours);
  pool->keeper_ = pid;
  if (Status ready = hearReady(pool->channel_.borrow(), "the witnesses' keeper"); !ready)
    return propagate(ready.error());
  for (Post& post : pool->posts_)
    if (Status filled = pool->fill(post); !filled) return propagate(filled.error());
  return pool;
}

WitnessPool::~WitnessPool() {
  for (Post& post : posts_) post.channel.reset();
  channel_.reset();
  // It ends by itself once the channel is closed, and the witnesses by their parent-death signal.
  for (int attempt = 0; attempt < 100; ++attempt) {
    if (::waitpid(keeper_, nullptr, WNOHANG) != 0) return;
    ::poll(nullptr, 0, 1);
  }
}

Status WitnessPool::fill(Post& post) {
  const KeeperOrder order{.place = static_cast<uint32_t>(&post - posts_.data())};
  const ByteView bytes(reinterpret_cast<const uint8_t*>(&order), sizeof order);
  if (Status sent = sendPacket(channel_.borrow(), bytes, -1); !sent) return sent;
  Result<Packet> packet = hear(channel_.borrow());
  if (!packet) return propagate(packet.error());
  KeeperReply reply;
  if (packet->bytes.size() != sizeof reply || !packet->descriptor)
    return fail(Reason::Io, "the witnesses' keeper has stopped");
  std::memcpy(&reply, packet->bytes.data(), sizeof reply);
  post.channel = std::move(packet->descriptor);
  post.pid = reply.pid;
  return hearReady(post.channel.borrow(), "a witness");
}

bool WitnessPool::lost() const {
  const std::lock_guard lock(mutex_);
  if (lost_ || hungUp(channel_.borrow())) return true;
  // Of an occupied one its asker learns it.
  return std::ranges::any_of(posts_, [](const Post& post) { return !post.occupied && hungUp(post.channel.borrow()); });
}

std::vector<pid_t> WitnessPool::witnesses() const {
  const std::lock_guard lock(mutex_);
  std::vector<pid_t> pids;
  for (const Post& post : posts_) pids.push_back(post.pid);
  return pids;
}

void WitnessPool::forgetUsers(Steady moment) {
  std::erase_if(users_, [&](const auto& entry) {
    return entry.second.asking.empty() && (entry.second.refusedUntil <= moment || users_.size() > kMostUsers);
  });
}

Result<WitnessPool::Post*> WitnessPool::occupy(uid_t uid, Steady began) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (lost_) return nobodyLooks("a witness has stopped");
    const Steady moment = now();
    User& user = users_[uid];
    if (moment < user.refusedUntil) return notNow(uid, user.refusedUntil - moment);
    const bool full = user.asking.size() >= limits_.perUser;
    const auto vacant = std::ranges::find(posts_, false, &Post::occupied);
    if (!full && vacant != posts_.end()) {
      user.asking.push_back(began);
      vacant->occupied = true;
      return &*vacant;
    }
    const Steady deadline = full ? std::ranges::min(user.asking) + limits_.slow : began + limits_.patience;
    if (moment >= deadline) {
      if (full) return notNow(uid, limits_.patience);
      return fail(Reason::Busy, "everybody who could look at the caller is occupied", "try again in a moment");
    }
    vacated_.wait_until(lock, deadline);
  }
}

void WitnessPool::vacate(Post& post, uid_t uid, Steady began, Ending ending) {
  {
    const std::lock_guard lock(mutex_);
    User& user = users_[uid];
    if (const auto own = std::ranges::find(user.asking, began); own != user.asking.end()) user.asking.erase(own);
    switch (ending) {
      case Ending::Answered: break;
      case Ending::Gone: lost_ = true; break;
      case Ending::TooLate:
        user.refusedUntil = now() + limits_.grudge;
        if (const Status filled = fill(post); !filled) {
          log::failure("a witness could not be replaced", filled.error());
          lost_ = true;
        }
        break;
    }
    post.occupied = false;
    forgetUsers(now());
  }
  vacated_.notify_all();
}

WitnessPool::Answer WitnessPool::ask(Post& post, WitnessQuestion question, int pidfd, size_t limit) {
  question.sequence = ++post.sequence;
  const ByteView bytes(reinterpret_cast<const uint8_t*>(&question), sizeof question);
  if (const Status sent = sendPacket(post.channel.borrow(), bytes, pidfd); !sent)
    return {Ending::Gone, nobodyLooks(sent.error().message)};
  if (!readable(post.channel.borrow(), now() + limits_.patience))
    return {Ending::TooLate, fail(Reason::Unavailable, "the caller cannot be examined: looking at it does not end",
                                  "it hangs in exec, or a file system that it uses does")};
  Result<Packet> packet = receivePacket(post.channel.borrow(), limit);
  if (!packet || packet->bytes.empty()) return {Ending::Gone, nobodyLooks("a witness has stopped")};
  Result<Packet> answer = answerTo(question, std::move(*packet));
  return {answer ? Ending::Answered : Ending::Gone, std::move(answer)};  // whoever answers another question is broken
}

Result<Packet> WitnessPool::put(uid_t uid, WitnessQuestion question, int pidfd, size_t limit) {
  const Steady began = now();
  const Result<Post*> post = occupy(uid, began);
  if (!post) return propagate(post.error());
  Answer answer = ask(**post, question, pidfd, limit);
  if (answer.ending == Ending::TooLate)
    log::warn("looking at a process did not end; its user's processes are not looked at for a while",
              {{"pid", std::to_string(question.pid)}, {"uid", std::to_string(uid)}});
  vacate(**post, uid, began, answer.ending);
  return std::move(answer.packet);
}

Result<Observation> WitnessPool::observe(uid_t uid, pid_t pid, int pidfd, ino_t connection) {
  Result<Packet> packet = put(uid, {.pid = pid, .connection = connection}, pidfd, kMostAnswerBytes);
  if (!packet) return propagate(packet.error());
  return observationFromPacket(std::move(*packet));
}

Result<std::string> WitnessPool::glance(uid_t uid, pid_t pid, int descriptor) {
  const Result<Packet> packet = put(uid, {.pid = pid, .descriptor = descriptor}, -1, kMostStandingBytes);
  if (!packet) return propagate(packet.error());
  return std::string(asText(packet->bytes));
}

}  // namespace wayleave::broker
