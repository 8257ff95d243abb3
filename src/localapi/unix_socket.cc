#include "localapi/unix_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace wayleave::localapi {
namespace {

// A burst of a whole fleet of callers must queue, not fail; the kernel caps it at net.core.somaxconn.
constexpr int kBacklog = 4096;

Result<sockaddr_un> addressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path)
    return fail(Reason::BadInput,
                "socket path of " + std::to_string(path.size()) + " bytes: the kernel takes 1 to " +
                    std::to_string(sizeof address.sun_path - 1),
                "choose a shorter runtime directory");
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

const sockaddr* generic(const sockaddr_un& address) { return reinterpret_cast<const sockaddr*>(&address); }

Result<Fd> newSocket() {
  Fd socket = Fd::adopt(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return std::unexpected(errnoError(errno, "create a unix socket"));
  return socket;
}

Status makeNonBlocking(int socket) {
  const int flags = fcntl(socket, F_GETFL);
  if (flags < 0 || fcntl(socket, F_SETFL, flags | O_NONBLOCK) != 0)
    return std::unexpected(errnoError(errno, "make a socket non-blocking"));
  return {};
}

// A daemon that was killed leaves its socket file behind; only one that nobody answers on may be replaced.
Status clearStale(const std::string& path, const sockaddr_un& address) {
  struct stat info{};
  if (lstat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) return {};
    return std::unexpected(errnoError(errno, "look at " + path));
  }
  if (!S_ISSOCK(info.st_mode)) return fail(Reason::Conflict, path + " exists and is not a socket", "move it away");

  Result<Fd> probe = newSocket();
  if (!probe) return propagate(probe.error());
  if (Status ready = makeNonBlocking(probe->borrow()); !ready) return ready;
  // EAGAIN is a served socket with a full backlog.
  if (connect(probe->borrow(), generic(address), sizeof address) == 0 || errno == EAGAIN)
    return fail(Reason::Conflict, path + " is already served by another process",
                "stop the running " + daemonOf(path) + " first");
  if (errno != ECONNREFUSED) return std::unexpected(errnoError(errno, "probe the existing socket " + path));
  if (unlink(path.c_str()) != 0 && errno != ENOENT)
    return std::unexpected(errnoError(errno, "remove the stale socket " + path));
  return {};
}

Error connectError(int number, const std::string& path) {
  const std::string what = "connect to " + path;
  if (number == ENOENT || number == ECONNREFUSED || number == ENOTDIR) {
    Error error = errnoError(number, what, Reason::Unavailable);
    error.hint = "start " + daemonOf(path) + ", or name its runtime directory with WAYLEAVE_RUNTIME_DIR";
    return error;
  }
  if (number == EAGAIN || number == EWOULDBLOCK)
    return Error{Reason::DeadlineExceeded, what + ": " + daemonOf(path) + " accepts no connection", {}, 0};
  if (number == EACCES || number == EPERM) {
    Error error = errnoError(number, what, Reason::NotEntitled);
    error.hint = "the socket's mode or a directory above it keeps this user out";
    return error;
  }
  return errnoError(number, what);
}

}  // namespace

Result<Listener> listenAt(const std::string& path, mode_t mode) {
  Result<sockaddr_un> address = addressOf(path);
  if (!address) return propagate(address.error());
  if (Status clear = clearStale(path, *address); !clear) return propagate(clear.error());

  Result<Fd> socket = newSocket();
  if (!socket) return propagate(socket.error());
  if (Status ready = makeNonBlocking(socket->borrow()); !ready) return propagate(ready.error());
  // Accepted connections inherit it: what arrives on them is marked with its sender, from the first byte.
  const int on = 1;
  if (setsockopt(socket->borrow(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0)
    return std::unexpected(errnoError(errno, "have senders marked at " + path));
  if (bind(socket->borrow(), generic(*address), sizeof *address) != 0)
    return std::unexpected(
        errnoError(errno, "bind " + path, errno == EADDRINUSE ? Reason::Conflict : Reason::Io));
  // Until listen() every connect is refused, so nobody gets in under the mode the umask left.
  struct stat info{};
  if (chmod(path.c_str(), mode) != 0 || lstat(path.c_str(), &info) != 0)
    return std::unexpected(errnoError(errno, "set the mode of " + path));
  Listener listener{std::move(*socket), info.st_dev, info.st_ino};
  if (listen(listener.socket.borrow(), kBacklog) != 0) {
    const int number = errno;
    removeSocketFile(path, listener);
    return std::unexpected(errnoError(number, "listen at " + path));
  }
  return listener;
}

void removeSocketFile(const std::string& path, const Listener& listener) {
  struct stat info{};
  if (lstat(path.c_str(), &info) == 0 && info.st_dev == listener.device && info.st_ino == listener.inode)
    unlink(path.c_str());
}

Result<Fd> connectTo(const std::string& path, Steady deadline) {
  Result<sockaddr_un> address = addressOf(path);
  if (!address) return propagate(address.error());
  Result<Fd> socket = newSocket();
  if (!socket) return socket;

  // connect() to a full backlog waits as long as SO_SNDTIMEO says; a non-blocking one would fail at once.
  const int left = std::max(1, pollTimeout(deadline));
  const timeval timeout{.tv_sec = left / 1000, .tv_usec = (left % 1000) * 1000};
  if (setsockopt(socket->borrow(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) != 0)
    return std::unexpected(errnoError(errno, "set the connect timeout"));
  int outcome = 0;
  do {
    outcome = connect(socket->borrow(), generic(*address), sizeof *address);
  } while (outcome != 0 && errno == EINTR && std::chrono::steady_clock::now() < deadline);
  if (outcome != 0) return std::unexpected(connectError(errno, path));
  if (Status ready = makeNonBlocking(socket->borrow()); !ready) return propagate(ready.error());
  return socket;
}

int pollTimeout(Steady deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
  return static_cast<int>(std::clamp<decltype(left)>(left, 0, 24 * 3600 * 1000));
}

std::string daemonOf(const std::string& socketPath) {
  std::string name = socketPath.substr(socketPath.rfind('/') + 1);
  if (const size_t dot = name.find('.'); dot != std::string::npos) name.resize(dot);
  return "wayleave-" + name + "d";
}

}  // namespace wayleave::localapi
