#pragma once

// Unix stream sockets by path: listening without stealing another daemon's socket, connecting with a deadline.

#include <sys/stat.h>
#include <sys/types.h>

#include <string>

#include "base/clock.h"
#include "base/owned.h"
#include "base/result.h"

namespace wayleave::localapi {

struct Listener {
  Fd socket;  // listening, non-blocking, close-on-exec, SO_PASSCRED
  dev_t device = 0;
  ino_t inode = 0;  // of the socket file: it is removed at the end only while it is still ours
};

// Errors: Conflict (somebody serves it, or the path is not a socket), Io, BadInput (a path longer than the kernel takes).
Result<Listener> listenAt(const std::string& path, mode_t mode);
// Removes the socket file if it is still the one `listener` made.
void removeSocketFile(const std::string& path, const Listener& listener);

// A connected, non-blocking socket. Errors: Unavailable (with the daemon to start as the hint), DeadlineExceeded,
// NotEntitled (the file's mode), BadInput, Io.
Result<Fd> connectTo(const std::string& path, Steady deadline);

// Milliseconds until `deadline` for poll(): never negative, rounded up so that it is not busy at the end.
int pollTimeout(Steady deadline);

// "wayleave-identityd" for ".../identity.sock": who serves that socket.
std::string daemonOf(const std::string& socketPath);

}  // namespace wayleave::localapi
