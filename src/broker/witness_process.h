#pragma once

// The far side of the witness pool: the processes that look at callers, and the one that keeps them.
//
//   identityd ── keeper ── witness, witness, …        (every line a socket pair; each witness has one to identityd, too)
//
// The keeper holds the witnesses' two capabilities, so that it can make another witness after identityd has given up
// every right; it looks at nobody itself. It does one thing: kill the witness in a place and fork another. A witness
// answers one question at a time: what do you see at this pidfd? Or, of a connection that has been looked at: does that
// still stand? (witness_pool.h says why there are several witnesses.)
//
// Messages are packets over SOCK_SEQPACKET: a question is fixed-size plus at most one descriptor; an answer its number and
// then one JSON document plus at most one descriptor, or the words of standingOf().

#include <span>
#include <string>

#include "base/bytes.h"
#include "base/owned.h"
#include "base/result.h"
#include "broker/observation.h"
#include "sandbox/privileges.h"

namespace wayleave::broker {

// How a witness looks. A test puts one that never answers here.
using Look = Observation (*)(pid_t pid, int pidfd, ino_t connection, SocketDiagnosis& sockets);

struct WitnessSettings {
  // The keeper and the witnesses become this user, when given, and keep the two capabilities as far as they have them.
  std::optional<sandbox::Account> account;
  // argv's memory of the program, overwritten in the children so that `ps` tells them apart.
  std::span<char> title;
  Look look = observe;
};

struct WitnessQuestion {
  uint64_t sequence = 0;
  pid_t pid = 0;
  ino_t connection = 0;
  int descriptor = -1;  // at least 0: the second question, about this descriptor
};
struct KeeperOrder {
  uint32_t place = 0;
};
// With the witness' channel. The witness says kWitnessReady there, or what kept it from confining itself.
struct KeeperReply {
  pid_t pid = 0;
};
inline constexpr std::string_view kWitnessReady = "ready";
// A keeper makes no more once so many of its killed witnesses refuse to die (a file system holds them).
inline constexpr size_t kMostUndead = 32;
// Below net.core.wmem_default (212,992), which bounds one packet.
inline constexpr size_t kMostAnswerBytes = 164 * 1024;
// A path, a cgroup, some numbers.
inline constexpr size_t kMostStandingBytes = 16 * 1024;

struct Packet {
  Bytes bytes;  // empty: the other side has gone
  Fd descriptor;
};
// One packet with at most one descriptor (-1: none). Never blocks: whoever leaves packets unread is no use any more.
// Errors: Io.
Status sendPacket(int socket, ByteView bytes, int descriptor);
// Blocks. Errors: Io, Internal (larger than `limit`).
Result<Packet> receivePacket(int socket, size_t limit);
// The packet without the number in front. Errors: Internal (an answer to another question).
Result<Packet> answerTo(const WitnessQuestion& question, Packet packet);
// Errors: Internal (not what a witness answers).
Result<Observation> observationFromPacket(Packet packet);

// What the keeper's process does until its parent hangs up, then it exits; its witnesses end with it. Sends
// kWitnessReady, or what kept it from confining itself, before all else.
[[noreturn]] void keepWitnesses(Fd channel, const WitnessSettings& settings);

}  // namespace wayleave::broker
