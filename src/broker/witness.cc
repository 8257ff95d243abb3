#include "broker/witness.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/clock.h"
#include "localapi/json_reader.h"
#include "sandbox/seccomp.h"

namespace wayleave::broker {
namespace {

// Below net.core.wmem_default (212,992), which bounds one packet.
constexpr size_t kMostAnswerBytes = 160 * 1024;

struct Question {
  uint64_t sequence = 0;
  pid_t pid = 0;
  ino_t connection = 0;
};

struct Packet {
  Bytes bytes;
  Fd descriptor;
};

// One packet with at most one descriptor.
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
  while (::sendmsg(socket, &message, MSG_NOSIGNAL) < 0)
    if (errno != EINTR) return std::unexpected(errnoError(errno, "ask the witness"));
  return {};
}

// Empty bytes: the other side has gone.
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
    if (errno != EINTR) return std::unexpected(errnoError(errno, "hear the witness"));
  packet.bytes.resize(static_cast<size_t>(got));
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_type == SCM_RIGHTS && header->cmsg_len == CMSG_LEN(sizeof(int))) {
    int raw = -1;
    std::memcpy(&raw, CMSG_DATA(header), sizeof raw);
    packet.descriptor = Fd::adopt(raw);
  }
  if ((message.msg_flags & MSG_TRUNC) != 0) return fail(Reason::Internal, "the witness' packet was cut");
  return packet;
}

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
                     {"connectionDetail", seen.connectionDetail}};
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
  if (in.contains("tracer")) seen.tracer = in.at("tracer").get<pid_t>();
  if (in.contains("dumpable")) seen.dumpable = in.at("dumpable").get<bool>();
  if (in.contains("sameUserNamespace")) seen.sameUserNamespace = in.at("sameUserNamespace").get<bool>();
  return seen;
}

// Everything the child does until its parent hangs up.
void serve(int channel, SocketDiagnosis sockets) {
  for (;;) {
    Result<Packet> packet = receivePacket(channel, sizeof(Question));
    if (!packet || packet->bytes.empty()) return;
    Question question;
    if (packet->bytes.size() != sizeof question) return;
    std::memcpy(&question, packet->bytes.data(), sizeof question);
    Observation seen = observe(question.pid, packet->descriptor.borrow(), question.connection, sockets);
    nlohmann::json answer = toJson(seen);
    answer["sequence"] = question.sequence;
    std::string text = localapi::dump(answer);
    if (text.size() > kMostAnswerBytes) {
      answer["code"] = nlohmann::json::array();
      answer["codeProblem"] = "it has mapped too many files of code";
      text = localapi::dump(answer);
    }
    if (!sendPacket(channel, asBytes(text), seen.image ? seen.image.borrow() : -1)) return;
  }
}

Status confine(const std::optional<sandbox::Account>& account) {
  ::prctl(PR_SET_NAME, "wl-witness", 0, 0, 0);
  if (Status done = sandbox::becomeUser(account, {CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH}); !done) return done;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);  // after the change of uid, which clears it
  if (Status done = sandbox::noNewPrivileges(); !done) return done;
  if (Status done = sandbox::noCoreDumps(); !done) return done;
  return sandbox::restrictSystemCalls({.socketFamilies = {}, .processes = false, .writesFiles = false, .also = {}});
}

[[noreturn]] void childMain(Fd channel, const std::optional<sandbox::Account>& account, std::span<char> title) {
  constexpr std::string_view kTitle = "wayleave-witness";
  std::ranges::fill(title, '\0');
  kTitle.copy(title.data(), title.empty() ? 0 : title.size() - 1);
  // The daemon's signals are for the daemon; the witness ends when the channel does.
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) ::signal(number, SIG_IGN);
  SocketDiagnosis sockets = SocketDiagnosis::open();
  const Status confined = confine(account);
  const std::string report = confined ? "ready" : confined.error().message;
  if (sendPacket(channel.borrow(), asBytes(report), -1) && confined) serve(channel.borrow(), std::move(sockets));
  ::_exit(confined ? 0 : 1);
}

}  // namespace

Result<Observation> DirectWitness::observe(pid_t pid, int pidfd, ino_t connection) {
  const std::lock_guard lock(mutex_);
  return broker::observe(pid, pidfd, connection, sockets_);
}

Result<std::unique_ptr<WitnessProcess>> WitnessProcess::start(const std::optional<sandbox::Account>& account,
                                                              std::span<char> title) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return std::unexpected(errnoError(errno, "make the witness' channel"));
  Fd ours = Fd::adopt(pair[0]);
  Fd theirs = Fd::adopt(pair[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return std::unexpected(errnoError(errno, "start the witness"));
  if (pid == 0) {
    ours.reset();
    childMain(std::move(theirs), account, title);
  }
  theirs.reset();
  std::unique_ptr<WitnessProcess> witness(new WitnessProcess(std::move(ours), pid));
  const Result<Packet> report = receivePacket(witness->channel_.borrow(), 4096);
  if (!report) return propagate(report.error());
  if (asText(report->bytes) != "ready")
    return fail(Reason::Io, fmt::format("the witness could not be confined: {}", asText(report->bytes)));
  return witness;
}

WitnessProcess::~WitnessProcess() {
  channel_.reset();
  // It ends by itself once the channel is closed, unless a file system holds it; then its parent-death signal will.
  for (int attempt = 0; attempt < 100; ++attempt) {
    if (::waitpid(pid_, nullptr, WNOHANG) != 0) return;
    ::poll(nullptr, 0, 1);
  }
}

bool WitnessProcess::lost() const {
  pollfd entry{channel_.borrow(), 0, 0};
  return lost_ || (::poll(&entry, 1, 0) == 1 && (entry.revents & (POLLHUP | POLLERR)) != 0);
}

Result<Observation> WitnessProcess::observe(pid_t pid, int pidfd, ino_t connection) {
  const std::lock_guard lock(mutex_);
  const auto gone = [&](std::string why) {
    return fail(Reason::Unavailable, "the caller cannot be examined: " + std::move(why),
                "restart wayleave-identityd; its log says why the witness stopped");
  };
  if (lost_) return gone("the witness has stopped");
  Question question{.sequence = ++sequence_, .pid = pid, .connection = connection};
  const ByteView bytes(reinterpret_cast<const uint8_t*>(&question), sizeof question);
  if (const Status sent = sendPacket(channel_.borrow(), bytes, pidfd); !sent) {
    lost_ = true;
    return gone(sent.error().message);
  }
  const Steady deadline = std::chrono::steady_clock::now() + kPatience;
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    pollfd entry{channel_.borrow(), POLLIN, 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return gone("the witness did not answer in time");
    Result<Packet> packet = receivePacket(channel_.borrow(), kMostAnswerBytes + 4096);
    if (!packet || packet->bytes.empty()) {
      lost_ = true;
      return gone("the witness has stopped");
    }
    try {
      const nlohmann::json answer = nlohmann::json::parse(packet->bytes);
      if (answer.at("sequence").get<uint64_t>() != question.sequence) continue;  // late, given up before
      Observation seen = fromJson(answer);
      seen.image = std::move(packet->descriptor);
      return seen;
    } catch (const nlohmann::json::exception& thrown) {
      return fail(Reason::Internal, fmt::format("the witness' answer is not what it should be: {}", thrown.what()));
    }
  }
}

}  // namespace wayleave::broker
