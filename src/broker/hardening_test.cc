// After hardening, in a child: no network, no files outside, and the store still works.

#include "broker/hardening.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/broker_test_support.h"
#include "keychain/store.h"
#include "keys/software_key.h"
#include "localapi/client.h"
#include "localapi/server.h"
#include "sandbox/seccomp.h"

namespace wayleave::broker {
namespace {

TEST(Hardening, LeavesTheDaemonItsWorkAndNothingElse) {
  TemporaryFolder folder;
  ASSERT_TRUE(ensureFolder(folder / "state", 0700));
  ASSERT_TRUE(ensureFolder(folder / "run", 0755));
  ASSERT_TRUE(ensureFolder(folder / "grants", 0755));
  ASSERT_TRUE(writeFileAtomically(folder / "secret", asBytes("other"), 0644));
  const pid_t pid = ::fork();
  if (pid == 0) {
    const auto steps = [&]() -> int {
      if (!harden({.stateFolder = folder / "state",
                   .socketFolder = folder / "run",
                   .grantsFolder = folder / "grants",
                   .tcti = ""}))
        return 1;
      // Its work: store, keys, the socket, threads.
      const auto store = keychain::Store::open(folder / "state/identities.db");
      if (!store || !(*store)->beginInstallation("i")) return 2;
      const auto key = keys::SoftwareKey::generate(keys::KeyType::EcP384);
      if (!key || !(*key)->sign(keys::SignatureScheme::EcdsaSecp384r1Sha384, asBytes("x"),
                                std::chrono::steady_clock::now() + std::chrono::seconds{5}))
        return 3;
      auto server = localapi::Server::listen(folder / "run/identity.sock", 0666,
                                             [](localapi::Request, std::shared_ptr<localapi::Responder> responder) {
                                               responder->respond({200, "application/json", "{}"});
                                             });
      if (!server) return 4;
      (*server)->start();
      if (!localapi::Client(folder / "run/identity.sock").callJson("GET", "/")) return 5;
      // And nothing else.
      for (const int family : {AF_INET, AF_INET6, AF_PACKET, AF_NETLINK, AF_VSOCK, AF_BLUETOOTH})
        for (const int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_RAW})
          if (Fd::adopt(::socket(family, type, 0))) return 6;
      if (::prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0) return 7;
      if (::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) return 8;
      if (readFile(folder / "secret", 100) && sandbox::enforcesAllowList()) return 9;
      if (sandbox::enforcesAllowList() && ::fork() >= 0) return 10;
      return 0;
    };
    ::_exit(steps());
  }
  int status = 0;
  ASSERT_EQ(pid, ::waitpid(pid, &status, 0));
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(0, WEXITSTATUS(status));
}

}  // namespace
}  // namespace wayleave::broker
