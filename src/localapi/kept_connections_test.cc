#include "localapi/kept_connections.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <set>
#include <thread>

#include "localapi/client.h"
#include "localapi/server.h"

namespace wayleave::localapi {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

Steady in(milliseconds time) { return std::chrono::steady_clock::now() + time; }

class KeptConnectionsTest : public ::testing::Test {
 protected:
  KeptConnectionsTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "wayleave-kept-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    path_ = folder_ + "/identity.sock";
    serve();
  }
  ~KeptConnectionsTest() override {
    server_.reset();
    std::filesystem::remove_all(folder_);
  }
  // Answers with the number of the connection that asked.
  void serve(ServerLimits limits = {}) {
    server_.reset();
    auto server = Server::listen(
        path_, 0600,
        [](const Request& request, std::shared_ptr<Responder> responder) {
          responder->respond({200, "text/plain", std::to_string(request.peer->connection)});
        },
        limits);
    ASSERT_TRUE(server.has_value()) << server.error().message;
    server_ = std::move(*server);
    server_->start();
  }
  Client client(size_t most) { return Client(path_, seconds{30}, std::make_shared<KeptConnections>(most)); }
  static std::string ask(const Client& client) {
    const Result<ClientResponse> answer = client.callKept(in(seconds{20}), "GET", "/");
    EXPECT_TRUE(answer.has_value()) << answer.error().message;
    return answer ? answer->body : "";
  }

  std::string folder_, path_;
  std::unique_ptr<Server> server_;
};

TEST_F(KeptConnectionsTest, OneConnectionServesCallAfterCall) {
  const Client kept = client(4);
  const std::string first = ask(kept);
  EXPECT_EQ(ask(kept), first);
  EXPECT_EQ(ask(kept), first);
  EXPECT_NE(Client(path_).call("GET", "/")->body, first) << "the other calls open their own";
}

TEST_F(KeptConnectionsTest, ConnectsAnewWhenTheDaemonClosedOrRestarted) {
  const Client kept = client(4);
  serve({.requestsPerConnection = 2});
  const std::string first = ask(kept);
  EXPECT_EQ(ask(kept), first);
  EXPECT_NE(ask(kept), first) << "it said so with the second answer";
  serve();
  EXPECT_NE(ask(kept), "");
  server_.reset();
  EXPECT_EQ(kept.callKept(in(seconds{5}), "GET", "/").error().reason, Reason::Unavailable);
}

TEST_F(KeptConnectionsTest, SharesAFewConnectionsAmongManyThreads) {
  const Client kept = client(3);
  std::mutex mutex;
  std::set<std::string> connections;
  {
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 16; ++thread)
      threads.emplace_back([&] {
        for (int call = 0; call < 50; ++call) {
          const std::string connection = ask(kept);
          const std::lock_guard lock(mutex);
          connections.insert(connection);
        }
      });
  }
  EXPECT_LE(connections.size(), 3U);
}

TEST_F(KeptConnectionsTest, ACallBehindOthersEndsAtItsDeadline) {
  KeptConnections kept(1);
  {
    const auto turn = kept.take(in(seconds{5}));
    ASSERT_TRUE(turn);
    EXPECT_EQ(kept.take(in(milliseconds{20})).error().reason, Reason::DeadlineExceeded);
  }
  EXPECT_TRUE(kept.take(in(seconds{5})));
}

// The answers' bodies are compared through the exit code: a child does as little as it can.
TEST_F(KeptConnectionsTest, AChildClosesItsCopiesAndConnectsForItself) {
  auto pool = std::make_shared<KeptConnections>(4);
  const Client kept(path_, seconds{30}, pool);
  const std::string first = ask(kept);
  int number = -1;
  {
    auto turn = pool->take(in(seconds{5}));
    ASSERT_TRUE(turn && turn->socket());
    number = turn->socket().borrow();
    turn->keep();
  }
  const pid_t child = fork();
  if (child == 0) {
    if (fcntl(number, F_GETFD) != -1) _exit(2);
    const Result<ClientResponse> answer = kept.callKept(in(seconds{20}), "GET", "/");
    if (!answer || answer->status != 200) _exit(3);
    _exit(answer->body == first ? 4 : 0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << WEXITSTATUS(status);
  EXPECT_EQ(ask(kept), first) << "and the parent's goes on";
}

}  // namespace
}  // namespace wayleave::localapi
