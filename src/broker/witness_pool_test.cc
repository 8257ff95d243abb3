// Real witnesses, looking at real processes: honest ones, and those that keep whoever looks at them waiting.

#include "broker/witness_pool.h"

#include <gtest/gtest.h>
#include <linux/fuse.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>
#include <future>

#include "broker/broker_test_support.h"
#include "broker/caller.h"

namespace wayleave::broker {
namespace {

using namespace std::chrono_literals;

Fd pidfdOf(pid_t pid) { return Fd::adopt(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }

// A user-space file system of one file, whose close() lasts until the end of this object: what a hostile user mounts.
class HangingFile {
 public:
  explicit HangingFile(const std::string& path) : path_(path) {
    device_ = Fd::adopt(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
    Fd::adopt(::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0644)).reset();
    const std::string options = "rootmode=100644,user_id=0,group_id=0,fd=" + std::to_string(device_.borrow());
    mounted_ = device_ && ::mount("fuse", path.c_str(), "fuse", 0, options.c_str()) == 0;
    if (mounted_) server_ = std::jthread([this] { serve(); });
  }
  ~HangingFile() {
    if (mounted_) ::umount2(path_.c_str(), MNT_FORCE | MNT_DETACH);  // what waits fails, and the server reads ENODEV
  }
  bool mounted() const { return mounted_; }
  void awaitClose() { EXPECT_EQ(std::future_status::ready, closing_.get_future().wait_for(20s)); }

 private:
  void serve() {
    alignas(fuse_in_header) std::array<char, 64 * 1024> in;
    for (;;) {
      if (::read(device_.borrow(), in.data(), in.size()) < static_cast<ssize_t>(sizeof(fuse_in_header))) return;
      fuse_in_header header;
      std::memcpy(&header, in.data(), sizeof header);
      switch (header.opcode) {
        case FUSE_INIT: {
          fuse_init_out out{};
          out.major = FUSE_KERNEL_VERSION;
          out.minor = 31;
          out.max_write = 4096;
          answer(header, out);
          break;
        }
        case FUSE_GETATTR: {
          fuse_attr_out out{};
          out.attr.ino = FUSE_ROOT_ID;
          out.attr.mode = S_IFREG | 0644;
          out.attr.nlink = 1;
          answer(header, out);
          break;
        }
        case FUSE_OPEN: answer(header, fuse_open_out{.fh = 1}); break;
        case FUSE_FLUSH: closing_.set_value(); break;  // and never an answer
        case FUSE_FORGET: break;
        default: {
          const fuse_out_header out{sizeof out, -ENOSYS, header.unique};
          (void)!::write(device_.borrow(), &out, sizeof out);
        }
      }
    }
  }
  template <typename Body>
  void answer(const fuse_in_header& question, const Body& body) {
    struct {
      fuse_out_header header;
      Body body;
    } out{{sizeof(fuse_out_header) + sizeof(Body), 0, question.unique}, body};
    EXPECT_EQ(static_cast<ssize_t>(sizeof out), ::write(device_.borrow(), &out, sizeof out));
  }

  const std::string path_;
  Fd device_;
  bool mounted_ = false;
  std::promise<void> closing_;
  std::jthread server_;
};

class WitnessPoolTest : public testing::Test {
 protected:
  TemporaryFolder folder;
  std::string program = copyProgram(folder / "agent");
  CallerSocket socket{folder / "socket"};
  SystemClock clock;
  const TrustedOwners owners = TrustedOwners::ofThisMachine().with(::geteuid());
};

TEST_F(WitnessPoolTest, SeesWhatWeSee) {
  const Result<std::unique_ptr<WitnessPool>> pool = WitnessPool::start({});
  ASSERT_TRUE(pool) << pool.error().message;
  CallerVerifier through(**pool, clock, owners);
  DirectWitness witness;
  CallerVerifier verifier(witness, clock, owners);
  const Child child(program, {"connect", socket.path(), "cloexec"});
  const CallerSocket::Call call = socket.accept();
  const Result<Verdict> verdict = through.verify(call.peer);
  ASSERT_TRUE(verdict) << verdict.error().message;
  // The next request of the connection: the pool's glance must say what the pool's look said, and so must ours.
  EXPECT_TRUE(call.peer.remembered.has_value());
  const Result<Observation> seen = (*pool)->observe(call.peer.uid, call.peer.pid, call.peer.pidfd.borrow(), call.peer.connection);
  ASSERT_TRUE(seen) << seen.error().message;
  EXPECT_NE("", seen->standing);
  EXPECT_EQ(seen->standing, (*pool)->glance(call.peer.uid, call.peer.pid, seen->descriptor).value());
  EXPECT_EQ(seen->standing, witness.glance(call.peer.uid, call.peer.pid, seen->descriptor).value());
  EXPECT_EQ("", (*pool)->glance(call.peer.uid, call.peer.pid, 1000).value());
  call.peer.remembered.reset();
  const Verdict direct = verifier.verify(call.peer).value();
  EXPECT_EQ(direct.sha256, verdict->sha256);
  for (size_t index = 0; index < kConditionCount; ++index)
    EXPECT_EQ(direct.conditions[index].held, verdict->conditions[index].held) << verdict->conditions[index].sentence;
}

// What was to be told of such a process did not fit into an answer; the witness ended over it, and identityd with the witness.
TEST_F(WitnessPoolTest, BugThousandsOfLoaderVariablesEndedTheBroker) {
  const Result<std::unique_ptr<WitnessPool>> pool = WitnessPool::start({});
  ASSERT_TRUE(pool) << pool.error().message;
  CallerVerifier through(**pool, clock, owners);
  const std::vector<std::string> variables(3000, "LD_LIBRARY_PATH=" + std::string(150, '\1'));
  const Child child(program, {"connect", socket.path(), "cloexec"}, variables);
  const Result<Verdict> verdict = through.verify(socket.accept().peer);
  ASSERT_TRUE(verdict) << verdict.error().message;
  EXPECT_FALSE((*verdict)[ConditionName::LoaderVariables].held);
  EXPECT_FALSE((*pool)->lost());
}

TEST_F(WitnessPoolTest, TwoCapabilitiesAreEnoughForAnotherUsersCaller) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to be two users";
  const sandbox::Account account{.uid = 64101, .gid = 64101, .groups = {}};
  const Result<std::unique_ptr<WitnessPool>> pool = WitnessPool::start({.account = account, .title = {}});
  if (!pool) GTEST_SKIP() << pool.error().message;
  CallerVerifier through(**pool, clock, owners);
  const Child child(program, {"connect", socket.path(), "cloexec"});  // runs as root, with every capability
  const CallerSocket::Call call = socket.accept();
  const Verdict verdict = through.verify(call.peer).value();
  for (const Condition& condition : verdict.conditions)
    if (condition.name != ConditionName::Undumpable) {
      EXPECT_TRUE(condition.held) << text(condition.name) << ": " << condition.sentence;
    }
}

TEST_F(WitnessPoolTest, LosingAWitnessOrTheirKeeperEndsIt) {
  const std::unique_ptr<WitnessPool> pool = WitnessPool::start({}).value();
  EXPECT_FALSE(pool->lost());
  for (const pid_t pid : pool->witnesses()) ::kill(pid, SIGKILL);
  const Fd self = pidfdOf(::getpid());
  const Result<Observation> seen = pool->observe(::getuid(), ::getpid(), self.borrow(), 0);
  ASSERT_FALSE(seen);
  EXPECT_EQ(Reason::Unavailable, seen.error().reason);
  EXPECT_TRUE(pool->lost());

  const std::unique_ptr<WitnessPool> other = WitnessPool::start({}).value();
  ::kill(other->keeper(), SIGKILL);
  ::waitpid(other->keeper(), nullptr, 0);
  EXPECT_TRUE(other->lost());
}

// What a witness of the tests below never ends to look at: a process id, which the pidfd need not fit.
constexpr pid_t kHangs = 4'000'000;
Observation hangsFor4000000(pid_t pid, int, ino_t, SocketDiagnosis&) {
  while (pid == kHangs) ::pause();
  Observation seen;
  seen.alive = true;
  return seen;
}

// Its patience must do for the looks that do not hang, too, on a busy machine and under sanitizers.
struct StubbedPool {
  explicit StubbedPool(WitnessLimits limits)
      : pool(WitnessPool::start({.account = {}, .title = {}, .look = hangsFor4000000}, limits).value()) {}
  Result<Observation> look(uid_t uid, pid_t pid) { return pool->observe(uid, pid, self.borrow(), 0); }
  std::unique_ptr<WitnessPool> pool;
  Fd self = pidfdOf(::getpid());
};

// Review of issue 5, number 1: one local user stopped all signing by letting the one witness hang.
TEST_F(WitnessPoolTest, AUserWhoseProcessHangsCostsOthersNothing) {
  StubbedPool stubbed({.patience = 60s, .slow = 0ms});
  std::vector<std::future<Result<Observation>>> hanging;
  for (int index = 0; index < 8; ++index)
    hanging.push_back(std::async(std::launch::async, [&] { return stubbed.look(1000, kHangs); }));
  // All that the user may not occupy is refused at once, however often he asks; the other two hang.
  const auto ended = [](auto& future) { return future.wait_for(0ms) == std::future_status::ready; };
  while (std::ranges::count_if(hanging, ended) < 6) std::this_thread::yield();
  for (auto& future : hanging)
    if (ended(future)) {
      EXPECT_EQ(Reason::Busy, future.get().error().reason);
    }
  for (uid_t uid = 1001; uid < 1101; ++uid) EXPECT_TRUE(stubbed.look(uid, 1));
  EXPECT_EQ(Reason::Busy, stubbed.look(1000, 1).error().reason);
  EXPECT_FALSE(stubbed.pool->lost());
  for (const pid_t pid : stubbed.pool->witnesses()) ::kill(pid, SIGKILL);  // rather than wait for a minute
}

TEST_F(WitnessPoolTest, AWitnessThatHangsIsReplacedAndItsUserNotLookedAtForAWhile) {
  StubbedPool stubbed({.witnesses = 1, .perUser = 1, .patience = 500ms, .slow = 0ms, .grudge = 60s});
  for (uid_t uid = 1000; uid < 1004; ++uid) {
    const std::vector<pid_t> before = stubbed.pool->witnesses();
    const Result<Observation> hung = stubbed.look(uid, kHangs);
    ASSERT_FALSE(hung);
    EXPECT_EQ(Reason::Unavailable, hung.error().reason);
    EXPECT_NE(before, stubbed.pool->witnesses());
    EXPECT_EQ(Reason::Busy, stubbed.look(uid, 1).error().reason);
    EXPECT_TRUE(stubbed.look(999, 1));
  }
  EXPECT_FALSE(stubbed.pool->lost());
}

TEST_F(WitnessPoolTest, AGrudgeEnds) {
  StubbedPool stubbed({.witnesses = 1, .perUser = 1, .patience = 500ms, .slow = 0ms, .grudge = 0ms});
  EXPECT_FALSE(stubbed.look(1000, kHangs));
  EXPECT_TRUE(stubbed.look(1000, 1));
}

TEST_F(WitnessPoolTest, WhoFindsAllOccupiedWaitsNoLongerThanPatience) {
  StubbedPool stubbed({.witnesses = 1, .perUser = 2, .patience = 500ms, .slow = 60s, .grudge = 60s});
  auto hanging = std::async(std::launch::async, [&] { return stubbed.look(1000, kHangs).has_value(); });
  // Asked again and again, so that at least one comes while the witness hangs: it is looked at by the successor, or gives up at
  // about the same time. One that waited for ever would not end.
  do {
    const Result<Observation> other = stubbed.look(1001, 1);
    if (!other) {
      EXPECT_EQ(Reason::Busy, other.error().reason);
    }
  } while (hanging.wait_for(0ms) != std::future_status::ready);
  EXPECT_FALSE(hanging.get());
  EXPECT_TRUE(stubbed.look(1001, 1));  // by the successor, which nobody occupies
}

// The real thing: exec closes a file of the caller's own file system while it holds what /proc/PID/maps waits for.
TEST_F(WitnessPoolTest, ACallerThatHangsInExecIsRefusedAndOthersAreServed) {
  const std::unique_ptr<WitnessPool> pool = WitnessPool::start({}, {.patience = 1s, .grudge = 60s}).value();
  CallerVerifier through(*pool, clock, owners);
  std::unique_ptr<Child> attacker;  // outlives the file: until that lets go, not even SIGKILL ends it
  HangingFile file(folder / "file");
  if (!file.mounted()) GTEST_SKIP() << "no user-space file system can be mounted here";
  attacker = std::make_unique<Child>(program, std::vector<std::string>{"open-and-exec", socket.path(), folder / "file", program, "wait"});
  const CallerSocket::Call call = socket.accept();
  file.awaitClose();
  const Result<Verdict> hung = through.verify(call.peer);
  ASSERT_FALSE(hung);
  EXPECT_EQ(Reason::Unavailable, hung.error().reason) << hung.error().message;
  EXPECT_EQ(Reason::Busy, through.verify(call.peer).error().reason);
  // As another user's: of this one nobody looks at anything now.
  const Fd self = pidfdOf(::getpid());
  for (int index = 0; index < 100; ++index) {
    const Result<Observation> seen = pool->observe(::getuid() + 1, ::getpid(), self.borrow(), 0);
    ASSERT_TRUE(seen) << seen.error().message;
    EXPECT_TRUE(seen->alive);
  }
  EXPECT_FALSE(pool->lost());
}

}  // namespace
}  // namespace wayleave::broker
