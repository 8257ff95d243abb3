#include "keys/tpm/transport.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <tss2/tss2_tctildr.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/bytes.h"
#include "keys/tpm/tss_error.h"

namespace wayleave::keys::tpm {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr size_t kHeaderBytes = 10;         // tag, size, code
constexpr size_t kMaxResponse = 64 * 1024;  // real TPMs answer at most 4 KiB

// Serves both a character device and a connected stream socket.
class FdTransport final : public Transport {
 public:
  FdTransport(Fd fd, bool isDevice, bool isDirect, const TransportOptions& options)
      : fd_(std::move(fd)), isDevice_(isDevice), isDirect_(isDirect), options_(options) {
    tcti_.common.v1.magic = 0x5741594c45415645;  // "WAYLEAVE"
    tcti_.common.v1.version = 2;
    tcti_.common.v1.transmit = [](TSS2_TCTI_CONTEXT* context, size_t size, const uint8_t* command) {
      return self(context).transmit(ByteView(command, size));
    };
    tcti_.common.v1.receive = [](TSS2_TCTI_CONTEXT* context, size_t* size, uint8_t* response, int32_t timeout) {
      return self(context).receive(size, response, timeout);
    };
    tcti_.self = this;
  }

  TSS2_TCTI_CONTEXT* context() override { return reinterpret_cast<TSS2_TCTI_CONTEXT*>(&tcti_); }
  bool direct() const override { return isDirect_; }
  bool timedOut() const override { return timedOut_; }

 private:
  // What the TSS sees is the common part; `self` follows it.
  struct Tcti {
    TSS2_TCTI_CONTEXT_COMMON_V2 common{};
    FdTransport* self = nullptr;
  };
  static FdTransport& self(TSS2_TCTI_CONTEXT* context) { return *reinterpret_cast<Tcti*>(context)->self; }

  TSS2_RC transmit(ByteView command) {
    timedOut_ = false;
    response_.clear();
    started_ = SteadyClock::now();
    // A device takes a command in one write; a socket may take it in pieces.
    while (!command.empty()) {
      if (!isDevice_ && !await(POLLOUT, started_ + options_.commandTimeout)) return TSS2_TCTI_RC_IO_ERROR;
      const ssize_t wrote = isDevice_ ? ::write(fd_.borrow(), command.data(), command.size())
                                      : ::send(fd_.borrow(), command.data(), command.size(), MSG_NOSIGNAL);
      if (wrote < 0) {
        if (errno == EINTR || (errno == EAGAIN && !isDevice_)) continue;
        return TSS2_TCTI_RC_IO_ERROR;
      }
      command = command.subspan(static_cast<size_t>(wrote));
    }
    return TSS2_RC_SUCCESS;
  }

  // The library always waits for ever (timeout -1) in its synchronous calls; the bound is ours.
  TSS2_RC receive(size_t* size, uint8_t* response, int32_t timeout) {
    if (size == nullptr) return TSS2_TCTI_RC_BAD_REFERENCE;
    const auto bound = timeout < 0 ? options_.commandTimeout : std::chrono::milliseconds{timeout};
    const auto deadline = SteadyClock::now() + bound;
    while (!complete()) {
      if (!await(POLLIN, deadline)) return timeout >= 0 && timedOut_ ? TSS2_TCTI_RC_TRY_AGAIN : TSS2_TCTI_RC_IO_ERROR;
      uint8_t chunk[4096];
      const ssize_t got = ::read(fd_.borrow(), chunk, sizeof chunk);
      if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (got <= 0) return TSS2_TCTI_RC_IO_ERROR;  // 0: swtpm died, or closed its side
      append(response_, ByteView(chunk, static_cast<size_t>(got)));
      if (response_.size() >= kHeaderBytes && (wanted() < kHeaderBytes || wanted() > kMaxResponse))
        return TSS2_TCTI_RC_MALFORMED_RESPONSE;
    }
    if (response_.size() != wanted()) return TSS2_TCTI_RC_MALFORMED_RESPONSE;
    if (response == nullptr) {
      *size = response_.size();
      return TSS2_RC_SUCCESS;
    }
    if (*size < response_.size()) return TSS2_TCTI_RC_INSUFFICIENT_BUFFER;
    std::memcpy(response, response_.data(), response_.size());
    *size = response_.size();
    response_.clear();
    if (options_.observer) options_.observer->commandDone(SteadyClock::now() - started_);
    return TSS2_RC_SUCCESS;
  }

  size_t wanted() const { return readU32(ByteView(response_).subspan(2, 4)); }
  bool complete() const { return response_.size() >= kHeaderBytes && response_.size() >= wanted(); }

  // False: the deadline passed (timedOut_), or somebody wants the owner thread back.
  bool await(short events, SteadyClock::time_point deadline) {
    while (true) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - SteadyClock::now());
      if (left.count() <= 0) {
        timedOut_ = true;
        return false;
      }
      pollfd fds[2] = {{fd_.borrow(), events, 0}, {options_.wakeFd, POLLIN, 0}};
      const int ready = ::poll(fds, 2, static_cast<int>(std::min<int64_t>(left.count(), 60'000)));
      if (ready < 0 && errno != EINTR) return false;
      if (ready <= 0) continue;
      if (fds[1].revents != 0) return false;
      if (fds[0].revents != 0) return true;  // errors show in the read or write that follows
    }
  }

  Fd fd_;
  const bool isDevice_, isDirect_;
  const TransportOptions options_;
  Tcti tcti_;
  Bytes response_;
  SteadyClock::time_point started_{};
  bool timedOut_ = false;
};

class LoadedTransport final : public Transport {
 public:
  explicit LoadedTransport(TSS2_TCTI_CONTEXT* raw) : raw_(raw) {}
  LoadedTransport(const LoadedTransport&) = delete;
  ~LoadedTransport() override { Tss2_TctiLdr_Finalize(&raw_); }
  TSS2_TCTI_CONTEXT* context() override { return raw_; }
  bool direct() const override { return false; }
  bool timedOut() const override { return false; }

 private:
  TSS2_TCTI_CONTEXT* raw_;
};

Result<Fd> openDevice(const std::string& path) {
  // O_NONBLOCK makes the kernel queue the command, so that poll() can bound the wait for the answer.
  Fd fd = Fd::adopt(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!fd) return propagate(openFailure(errno, path));
  return fd;
}

Result<Fd> connectSocket(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path)
    return fail(Reason::Unsupported, fmt::format("swtpm socket path \"{}\" is empty or too long", path));
  std::memcpy(address.sun_path, path.data(), path.size());
  Fd fd = Fd::adopt(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return propagate(errnoError(errno, "unix socket"));
  // Bounds connect() when the other side hangs with a full backlog.
  const timeval patience{2, 0};
  ::setsockopt(fd.borrow(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (::connect(fd.borrow(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return propagate(openFailure(errno, path));
  // Only after connect: a non-blocking connect to a full backlog would fail at once.
  if (::fcntl(fd.borrow(), F_SETFL, O_NONBLOCK) != 0) return propagate(errnoError(errno, "swtpm socket"));
  return fd;
}

}  // namespace

Error openFailure(int number, const std::string& path) {
  const std::string what = fmt::format("open TPM {}", path);
  Error error = errnoError(number, what);
  switch (number) {
    case EACCES:
    case EPERM:
      error.reason = Reason::KeyPermission;
      error.hint = "let the service's user into the group tss (usermod -aG tss), or check the device's udev rule";
      break;
    case EBUSY:
      error.reason = Reason::Busy;
      error.hint = "another program has this device open; /dev/tpmrm0 can be shared, /dev/tpm0 cannot (fuser -v " +
                   path + " names it)";
      break;
    case ENOENT:
    case ENODEV:
    case ENXIO:
      error.reason = Reason::Unavailable;
      error.hint = "this machine shows no TPM here: enable it in the firmware settings, or correct the TCTI";
      break;
    case ECONNREFUSED:
    case EAGAIN:
      error.reason = Reason::Unavailable;
      error.hint = "nobody answers there: start the software TPM";
      break;
    default: error.reason = Reason::Unavailable;
  }
  return error;
}

Result<std::unique_ptr<Transport>> openTransport(const TransportOptions& options) {
  const std::string_view tcti = options.tcti;
  constexpr std::string_view kDevice = "device:";
  constexpr std::string_view kSwtpm = "swtpm:path=";
  if (tcti.starts_with(kDevice)) {
    const std::string path(tcti.substr(kDevice.size()));
    auto fd = openDevice(path);
    if (!fd) return propagate(fd.error());
    // The resource manager ("…rm0") keeps other programs' objects out of our sight and flushes ours when we go.
    const bool managed = path.find("tpmrm") != std::string::npos;
    return std::make_unique<FdTransport>(std::move(*fd), true, !managed, options);
  }
  if (tcti.starts_with(kSwtpm)) {
    auto fd = connectSocket(std::string(tcti.substr(kSwtpm.size())));
    if (!fd) return propagate(fd.error());
    return std::make_unique<FdTransport>(std::move(*fd), false, true, options);
  }
  TSS2_TCTI_CONTEXT* raw = nullptr;
  if (const TSS2_RC code = Tss2_TctiLdr_Initialize(options.tcti.c_str(), &raw); code != TSS2_RC_SUCCESS)
    return propagate(tssFailure(code, fmt::format("open TPM by TCTI \"{}\"", options.tcti)).error);
  return std::make_unique<LoadedTransport>(raw);
}

}  // namespace wayleave::keys::tpm
