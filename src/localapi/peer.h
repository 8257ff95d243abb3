#pragma once

// Who is at the other end of a unix socket, as the kernel recorded it when the connection was made.

#include <optional>

#include "base/result.h"
#include "localapi/server.h"

namespace wayleave::localapi {

// Reads SO_PEERCRED, SO_PEERGROUPS and SO_PEERPIDFD of a connected unix stream socket. Where the kernel has no
// SO_PEERPIDFD the pidfd is opened by number, at once: the window in which a number could be reused is the time since
// the peer connected, and the broker closes it by checking that the process is older than the connection.
// A peer that has already exited has no pidfd and `pidfd` stays empty. Errors: Io.
Result<Peer> peerOf(int socket);

// Whether the kernel's credentials make an administrator: root, this process' own user (who owns what it guards anyway), or a
// member of the group.
bool isAdministrator(const Peer& peer, std::optional<gid_t> administrators);

}  // namespace wayleave::localapi
