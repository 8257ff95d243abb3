#include "broker/witness_process.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "localapi/json_reader.h"
#include "sandbox/seccomp.h"

namespace wayleave::broker {
namespace {

nlohmann::json toJson(const Observation& seen) {
  nlohmann::json code = nlohmann::json::array();
  for (const MappedFile& file : seen.code) code.push_back({file.path, file.inode});
  nlohmann::json out{{"alive", seen.alive},
                     {"executable", seen.executable},
                     {"imageProblem", seen.imageProblem},
                     {"fileSystem", seen.fileSystem},
                     {"cgroup", seen.cgroup},
                     {"loaderVariables", seen.loaderVariables},
                     {"environmentProblem", seen.environmentProblem},
                     {"code", std::move(code)},
                     {"codeProblem", seen.codeProblem},
                     {"connection", static_cast<int>(seen.connection)},
                     {"connectionDetail", seen.connectionDetail},
                     {"descriptor", seen.descriptor},
                     {"standing", seen.standing}};
  if (seen.tracer) out["tracer"] = *seen.tracer;
  if (seen.dumpable) out["dumpable"] = *seen.dumpable;
  if (seen.sameUserNamespace) out["sameUserNamespace"] = *seen.sameUserNamespace;
  return out;
}

// The witness is ours, but it read what strangers wrote: types are checked like anyone's. May throw nlohmann's
// exceptions.
Observation fromJson(const nlohmann::json& in) {
  Observation seen;
  seen.alive = in.at("alive").get<bool>();
  seen.executable = in.at("executable").get<std::string>();
  seen.imageProblem = in.at("imageProblem").get<std::string>();
  seen.fileSystem = in.at("fileSystem").get<std::string>();
  seen.cgroup = in.at("cgroup").get<std::string>();
  seen.loaderVariables = in.at("loaderVariables").get<std::vector<std::string>>();
  seen.environmentProblem = in.at("environmentProblem").get<std::string>();
  for (const nlohmann::json& file : in.at("code"))
    seen.code.push_back({file.at(0).get<std::string>(), file.at(1).get<uint64_t>()});
  seen.codeProblem = in.at("codeProblem").get<std::string>();
  const int connection = in.at("connection").get<int>();
  seen.connection = connection >= 0 && connection <= static_cast<int>(ConnectionFinding::Unknown)
                        ? static_cast<ConnectionFinding>(connection)
                        : ConnectionFinding::Unknown;
  seen.connectionDetail = in.at("connectionDetail").get<std::string>();
  seen.descriptor = in.at("descriptor").get<int>();
  seen.standing = in.at("standing").get<std::string>();
  if (in.contains("tracer")) seen.tracer = in.at("tracer").get<pid_t>();
  if (in.contains("dumpable")) seen.dumpable = in.at("dumpable").get<bool>();
  if (in.contains("sameUserNamespace")) seen.sameUserNamespace = in.at("sameUserNamespace").get<bool>();
  return seen;
}

template <typename T>
ByteView bytesOf(const T& value) {
  return {reinterpret_cast<const uint8_t*>(&value), sizeof value};
}

void rename(std::span<char> title, std::string_view whole, const char* brief) {
  std::ranges::fill(title, '\0');
  whole.copy(title.data(), title.empty() ? 0 : title.size() - 1);
  ::prctl(PR_SET_NAME, brief, 0, 0, 0);
}

// Everything a witness does until its parent hangs up.
void serve(int channel, Look look, SocketDiagnosis sockets) {
  for (;;) {
    Result<Packet> packet = receivePacket(channel, sizeof(WitnessQuestion));
    WitnessQuestion question;
    if (!packet || packet->bytes.size() != sizeof question) return;
    std::memcpy(&question, packet->bytes.data(), sizeof question);
    const auto reply = [&](std::string_view text, int descriptor) {
      Bytes bytes = toBytes(bytesOf(question.sequence));
      append(bytes, asBytes(text));
      return sendPacket(channel, bytes, descriptor);
    };
    if (question.descriptor >= 0) {
      const std::string standing = standingOf(question.pid, question.descriptor);
      if (!reply(standing.size() < kMostStandingBytes / 2 ? standing : std::string(), -1)) return;
      continue;
    }
    Observation seen = look(question.pid, packet->descriptor.borrow(), question.connection, sockets);
    nlohmann::json answer = toJson(seen);
    std::string text = localapi::dump(answer);
    if (text.size() > kMostAnswerBytes - 4096) {
      answer["code"] = nlohmann::json::array();
      answer["codeProblem"] = "it has mapped too many files of code";
      text = localapi::dump(answer);
    }
    // What a process makes of itself must not end whoever looks at it, and the broker with it.
    if (text.size() > kMostAnswerBytes - 4096) {
      Observation little;
      little.alive = seen.alive;
      little.imageProblem = "there is too much to tell of it";
      seen = std::move(little);
      text = localapi::dump(toJson(seen));
    }
    if (!reply(text, seen.image ? seen.image.borrow() : -1)) return;
  }
}

[[noreturn]] void beWitness(Fd channel, const WitnessSettings& settings) {
  rename(settings.title, "wayleave-witness", "wl-witness");
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  SocketDiagnosis sockets = SocketDiagnosis::open();
  const Status confined =
      sandbox::restrictSystemCalls({.socketFamilies = {}, .connections = false, .processes = false, .writesFiles = false, .also = {}});
  const std::string report = confined ? std::string(kWitnessReady) : confined.error().message;
  if (sendPacket(channel.borrow(), asBytes(report), -1) && confined)
    serve(channel.borrow(), settings.look, std::move(sockets));
  ::_exit(confined ? 0 : 1);
}

// The witnesses inherit all of it. They open their sock_diag socket and close the rest of their filter by themselves.
Status confineKeeper(const WitnessSettings& settings) {
  if (Status done = sandbox::becomeUser(settings.account, {CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH}); !done) return done;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);  // after the change of uid, which clears it
  if (Status done = sandbox::noNewPrivileges(); !done) return done;
  if (Status done = sandbox::noCoreDumps(); !done) return done;
  return sandbox::restrictSystemCalls({.socketFamilies = {AF_NETLINK},
                                       .connections = false,
                                       .processes = false,
                                       .writesFiles = false,
                                       .also = {SYS_clone, SYS_kill, SYS_wait4, SYS_seccomp}});  // fork, not exec
}

class Keeper {
 public:
  Keeper(Fd channel, const WitnessSettings& settings) : channel_(std::move(channel)), settings_(settings) {}

  void keep() {
    for (;;) {
      const Result<Packet> packet = receivePacket(channel_.borrow(), sizeof(KeeperOrder));
      KeeperOrder order;
      if (!packet || packet->bytes.size() != sizeof order) return;
      std::memcpy(&order, packet->bytes.data(), sizeof order);
      if (!replace(order.place)) return;
    }
  }

 private:
  bool replace(uint32_t place) {
    if (const auto old = places_.find(place); old != places_.end()) {
      ::kill(old->second, SIGKILL);  // our own child, not yet buried: the number is its
      undead_.push_back(old->second);
      places_.erase(old);
    }
    // Not waited for: even SIGKILL waits for a system call that a broken file system holds.
    std::erase_if(undead_, [](pid_t pid) { return ::waitpid(pid, nullptr, WNOHANG) != 0; });
    int pair[2];
    if (undead_.size() > kMostUndead || ::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return false;
    Fd theirs = Fd::adopt(pair[0]);
    Fd its = Fd::adopt(pair[1]);
    const pid_t pid = ::fork();
    if (pid < 0) return false;
    if (pid == 0) {
      channel_.reset();
      theirs.reset();
      beWitness(std::move(its), settings_);
    }
    places_[place] = pid;
    return sendPacket(channel_.borrow(), bytesOf(KeeperReply{.pid = pid}), theirs.borrow()).has_value();
  }

  Fd channel_;
  const WitnessSettings& settings_;
  std::map<uint32_t, pid_t> places_;
  std::vector<pid_t> undead_;  // killed, not buried
};

}  // namespace

Status sendPacket(int socket, ByteView bytes, int descriptor) {
  iovec part{const_cast<uint8_t*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  if (descriptor >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
  }
  while (::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
    if (errno != EINTR) return std::unexpected(errnoError(errno, "speak to a witness"));
  return {};
}

Result<Packet> receivePacket(int socket, size_t limit) {
  Packet packet;
  packet.bytes.resize(limit);
  iovec part{packet.bytes.data(), packet.bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t got = 0;
  while ((got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC)) < 0)
    if (errno != EINTR) return std::unexpected(errnoError(errno, "hear a witness"));
  packet.bytes.resize(static_cast<size_t>(got));
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_type == SCM_RIGHTS && header->cmsg_len == CMSG_LEN(sizeof(int))) {
    int raw = -1;
    std::memcpy(&raw, CMSG_DATA(header), sizeof raw);
    packet.descriptor = Fd::adopt(raw);
  }
  if ((message.msg_flags & MSG_TRUNC) != 0) return fail(Reason::Internal, "a witness' packet was cut");
  return packet;
}

Result<Packet> answerTo(const WitnessQuestion& question, Packet packet) {
  const ByteView number = bytesOf(question.sequence);
  if (packet.bytes.size() < number.size() || !std::ranges::equal(ByteView(packet.bytes).first(number.size()), number))
    return fail(Reason::Internal, "a witness answered another question");
  packet.bytes.erase(packet.bytes.begin(), packet.bytes.begin() + static_cast<ptrdiff_t>(number.size()));
  return packet;
}

Result<Observation> observationFromPacket(Packet packet) {
  try {
    Observation seen = fromJson(nlohmann::json::parse(packet.bytes));
    seen.image = std::move(packet.descriptor);
    return seen;
  } catch (const nlohmann::json::exception& thrown) {
    return fail(Reason::Internal, fmt::format("a witness' answer is not what it should be: {}", thrown.what()));
  }
}

void keepWitnesses(Fd channel, const WitnessSettings& settings) {
  rename(settings.title, "wayleave-witness-keeper", "wl-keeper");
  // The daemon's signals are for the daemon; these processes end when the channel does.
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) ::signal(number, SIG_IGN);
  const Status confined = confineKeeper(settings);
  const std::string report = confined ? std::string(kWitnessReady) : confined.error().message;
  const bool said = sendPacket(channel.borrow(), asBytes(report), -1).has_value();
  if (confined && said) Keeper(std::move(channel), settings).keep();
  ::_exit(confined ? 0 : 1);
}

}  // namespace wayleave::broker
