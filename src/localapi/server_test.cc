#include <gtest/gtest.h>

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <thread>

#include "localapi/client.h"
#include "localapi/server.h"
#include "localapi/unix_socket.h"

namespace wayleave::localapi {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class LocalApi : public ::testing::Test {
 protected:
  LocalApi() {
    std::string pattern = (std::filesystem::temp_directory_path() / "wayleave-api-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    path_ = folder_ + "/identity.sock";
  }
  ~LocalApi() override {
    server_.reset();
    std::filesystem::remove_all(folder_);
  }

  void serve(Handler handler, ServerLimits limits = {}) {
    auto server = Server::listen(path_, 0666, std::move(handler), limits);
    ASSERT_TRUE(server.has_value()) << server.error().message;
    server_ = std::move(*server);
    server_->start();
  }

  Fd connected() {
    Result<Fd> socket = connectTo(path_, std::chrono::steady_clock::now() + seconds{5});
    EXPECT_TRUE(socket.has_value());
    return socket ? std::move(*socket) : Fd{};
  }

  // Sends what is given and returns all that comes until the server closes, or until `enough` was seen.
  static std::string converse(const Fd& socket, std::string_view text, std::string_view enough = "\xff\xff") {
    size_t sent = 0;
    std::string got;
    for (;;) {
      pollfd poller{socket.borrow(), static_cast<short>(POLLIN | (sent < text.size() ? POLLOUT : 0)), 0};
      if (poll(&poller, 1, 20'000) <= 0) return got + "<timeout>";
      if (poller.revents & POLLIN) {
        char buffer[65536];
        const ssize_t count = recv(socket.borrow(), buffer, sizeof buffer, 0);
        if (count <= 0) return got;
        got.append(buffer, static_cast<size_t>(count));
        if (got.find(enough) != std::string::npos) return got;
      } else if (poller.revents & POLLOUT) {
        const ssize_t count = ::send(socket.borrow(), text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
        sent = count < 0 ? text.size() : sent + static_cast<size_t>(count);
      } else {
        return got;
      }
    }
  }

  static void echo(Request request, std::shared_ptr<Responder> responder) {
    std::string out = request.method + " " + request.path;
    for (const auto& [name, value] : request.query) out += " " + name + "=" + value;
    responder->respond({200, "text/plain", out + " " + request.contentType + " " + request.body});
  }

  std::string folder_, path_;
  std::unique_ptr<Server> server_;
};

TEST_F(LocalApi, CarriesMethodPathQueryTypeAndBody) {
  serve(echo);
  const auto answer = Client(path_).call("POST", "/v1/a%20b?since=7&x=%C3%A4", "hello", "application/json");
  ASSERT_TRUE(answer.has_value()) << answer.error().message;
  EXPECT_EQ(answer->status, 200);
  EXPECT_EQ(answer->contentType, "text/plain");
  EXPECT_EQ(answer->body, "POST /v1/a b since=7 x=ä application/json hello");
}

TEST_F(LocalApi, KnowsThePeerFromTheKernel) {
  serve([](const Request& request, std::shared_ptr<Responder> responder) {
    const Peer& peer = *request.peer;
    const bool mine = peer.pid == getpid() && peer.uid == geteuid() && peer.gid == getegid() &&
                      static_cast<int>(peer.groups.size()) == getgroups(0, nullptr) && peer.pidfd;
    responder->respond({mine ? 200 : 500, "text/plain", {}});
  });
  EXPECT_EQ(Client(path_).call("GET", "/")->status, 200);
}

TEST_F(LocalApi, ServesManyRequestsOnOneConnectionAndPipelinedOnes) {
  serve(echo);
  const Fd socket = connected();
  const std::string one = "GET /one HTTP/1.1\r\nHost: x\r\n\r\n";
  EXPECT_NE(converse(socket, one, "/one").find("200 OK"), std::string::npos);
  const std::string both = one + "GET /two HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  const std::string got = converse(socket, both);
  EXPECT_LT(got.find("/one"), got.find("/two"));
  EXPECT_NE(got.find("/two"), std::string::npos);
}

TEST_F(LocalApi, AnswersExpectContinueBeforeTheBody) {
  serve(echo);
  const Fd socket = connected();
  converse(socket, "POST /x HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", "100 Continue");
  EXPECT_NE(converse(socket, "ok", "POST /x").find("200 OK"), std::string::npos);
}

TEST_F(LocalApi, RefusesWhatIsNotHttp) {
  serve(echo);
  for (const std::string_view garbage :
       {"\x16\x03\x01\x02\x01\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}) {
    const std::string got = converse(connected(), garbage);
    EXPECT_NE(got.find("HTTP/1.1 400"), std::string::npos) << garbage << " -> " << got;
    EXPECT_NE(got.find("BAD_INPUT"), std::string::npos) << got;
  }
  EXPECT_EQ(Client(path_).call("GET", "/still-alive")->status, 200);
}

TEST_F(LocalApi, RefusesBadTargetsAndMethods) {
  serve(echo);
  EXPECT_EQ(Client(path_).call("GET", "/%zz")->status, 400);
  EXPECT_EQ(Client(path_).call("GET", "/a%00b")->status, 400);
  EXPECT_EQ(Client(path_).call("GET", "/?a=1&a=2")->status, 400);
  EXPECT_EQ(Client(path_).call("PATCH", "/")->status, 405);
  EXPECT_EQ(Client(path_).call("GET", "no-slash").error().reason, Reason::BadInput);
  EXPECT_EQ(Client(path_).call("GET", "/a b").error().reason, Reason::BadInput);
}

TEST_F(LocalApi, RefusesOversizedHeadersAndBodies) {
  serve(echo, {.bodyBytes = 1000, .headerBytes = 1024});
  EXPECT_EQ(Client(path_).call("POST", "/", std::string(1000, 'x'))->status, 200);
  EXPECT_EQ(Client(path_).call("POST", "/", std::string(1001, 'x'))->status, 413);
  // Announced, never sent: refused by the announcement.
  EXPECT_NE(converse(connected(), "POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n").find("413"),
            std::string::npos);
  // Not announced: chunks that add up.
  std::string chunks = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 11; ++i) chunks += "64\r\n" + std::string(100, 'y') + "\r\n";
  EXPECT_NE(converse(connected(), chunks + "0\r\n\r\n").find("413"), std::string::npos);
  const std::string header = "GET / HTTP/1.1\r\nX: " + std::string(2000, 'h') + "\r\n\r\n";
  EXPECT_NE(converse(connected(), header).find("431"), std::string::npos);
}

TEST_F(LocalApi, SendsALargeEarlyRefusalToACallerStillSending) {
  serve(echo, {.bodyBytes = 1000});
  const auto answer = Client(path_).call("POST", "/", std::string(4 * 1024 * 1024, 'x'));
  ASSERT_TRUE(answer.has_value()) << answer.error().message;
  EXPECT_EQ(answer->status, 413);
}

TEST_F(LocalApi, CutsSlowSendersHoweverTheyTrickle) {
  serve(echo, {.requestTimeout = seconds{1}});
  const Fd socket = connected();
  const auto start = std::chrono::steady_clock::now();
  std::string got;
  const std::string_view head = "POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n";
  ASSERT_GT(::send(socket.borrow(), head.data(), head.size(), MSG_NOSIGNAL), 0);
  // A byte every 100 ms would restart a naive timer for ever; the poll below is the pace.
  bool cut = false;
  for (int i = 0; i < 100 && !cut; ++i) {
    pollfd poller{socket.borrow(), POLLIN, 0};
    cut = poll(&poller, 1, 100) > 0 || ::send(socket.borrow(), "x", 1, MSG_NOSIGNAL) < 0;
  }
  EXPECT_TRUE(cut);
  EXPECT_LT(std::chrono::steady_clock::now() - start, seconds{5});
  EXPECT_EQ(Client(path_).call("GET", "/still-alive")->status, 200);
}

TEST_F(LocalApi, CutsIdleConnections) {
  serve(echo, {.idleTimeout = seconds{1}});
  const Fd socket = connected();
  pollfd poller{socket.borrow(), POLLIN, 0};
  ASSERT_EQ(poll(&poller, 1, 10'000), 1);
  char byte = 0;
  EXPECT_EQ(recv(socket.borrow(), &byte, 1, 0), 0);
}

TEST_F(LocalApi, BoundsOneUsersConnectionsAndRecovers) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = std::min<rlim_t>(files.rlim_max, 4096);
  setrlimit(RLIMIT_NOFILE, &files);

  serve(echo, {.connectionsPerUid = 64});
  std::vector<Fd> sockets;
  for (int i = 0; i < 1000; ++i) sockets.push_back(connected());
  int open = 0, turnedAway = 0;
  // The last one first: by then all have been let in or turned away. (One that has been answered would make room.)
  std::ranges::reverse(sockets);
  for (const Fd& socket : sockets) {
    const std::string got = converse(socket, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n", "\r\n\r\n");
    if (got.starts_with("HTTP/1.1 200")) ++open;
    if (got.starts_with("HTTP/1.1 429")) ++turnedAway;
  }
  EXPECT_EQ(open, 64);
  EXPECT_EQ(turnedAway, 1000 - 64);
  sockets.clear();
  // Their slots come back as soon as the server has seen the hang-ups.
  int status = 429;
  for (int i = 0; i < 1000 && status == 429; ++i) status = Client(path_).call("GET", "/x")->status;
  EXPECT_EQ(status, 200);
}

// Kept connections.
constexpr std::string_view kAsk = "GET /x HTTP/1.1\r\nHost: x\r\n\r\n";

TEST_F(LocalApi, ClosesAConnectionAfterItsShareOfRequests) {
  serve(echo, {.requestsPerConnection = 3});
  const Fd socket = connected();
  for (int request = 1; request < 3; ++request)
    EXPECT_EQ(converse(socket, kAsk, "GET /x").find("Connection: close"), std::string::npos);
  EXPECT_NE(converse(socket, kAsk).find("Connection: close"), std::string::npos) << "and the server hangs up";
}

TEST_F(LocalApi, KeepsSoManyOfOneUserAndClosesTheLongestIdle) {
  serve(echo, {.keptPerUid = 2});
  std::vector<Fd> sockets;
  for (int index = 0; index < 3; ++index) {
    sockets.push_back(connected());
    converse(sockets.back(), kAsk, "GET /x");
  }
  EXPECT_EQ(converse(sockets[0], {}), "") << "closed";
  for (int index : {1, 2}) EXPECT_NE(converse(sockets[index], kAsk, "GET /x").find("200 OK"), std::string::npos);
}

TEST_F(LocalApi, KeptConnectionsKeepNobodyOut) {
  serve(echo, {.connections = 3, .connectionsPerUid = 3, .keptPerUid = 3});
  std::vector<Fd> sockets;
  for (int index = 0; index < 3; ++index) {
    sockets.push_back(connected());
    converse(sockets.back(), kAsk, "GET /x");
  }
  EXPECT_NE(converse(connected(), kAsk, "GET /x").find("200 OK"), std::string::npos);
  EXPECT_EQ(converse(sockets[0], {}), "") << "it gave way";
  EXPECT_NE(converse(sockets[2], kAsk, "GET /x").find("200 OK"), std::string::npos);
}

// What a child process writes to its parent's connection is the child's, not the parent's.
class HandedOn : public LocalApi {
 protected:
  void sendFromChild(const Fd& socket, std::string_view text) {
    const pid_t child = fork();
    if (child == 0) {
      const ssize_t sent = ::send(socket.borrow(), text.data(), text.size(), MSG_NOSIGNAL);
      _exit(sent == static_cast<ssize_t>(text.size()) ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0);
  }
};

TEST_F(HandedOn, RefusesTheFirstRequestOfAnotherProcess) {
  serve(echo);
  const Fd socket = connected();
  sendFromChild(socket, kAsk);
  const std::string got = converse(socket, {});
  EXPECT_NE(got.find("HTTP/1.1 403"), std::string::npos) << got;
  EXPECT_NE(got.find("CALLER_UNVERIFIED"), std::string::npos) << got;
}

TEST_F(HandedOn, RefusesALaterRequestOfAnotherProcess) {
  serve(echo);
  const Fd socket = connected();
  EXPECT_NE(converse(socket, kAsk, "GET /x").find("200 OK"), std::string::npos);
  sendFromChild(socket, kAsk);
  const std::string got = converse(socket, {});
  EXPECT_NE(got.find("HTTP/1.1 403"), std::string::npos) << got;
  EXPECT_EQ(got.find("GET /x"), std::string::npos) << "the handler must not have seen it: " << got;
}

TEST_F(HandedOn, RefusesARequestThatAnotherProcessCompletes) {
  serve(echo);
  const Fd socket = connected();
  const std::string_view head = "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n12";
  ASSERT_EQ(::send(socket.borrow(), head.data(), head.size(), MSG_NOSIGNAL), static_cast<ssize_t>(head.size()));
  sendFromChild(socket, "34");
  const std::string got = converse(socket, {});
  EXPECT_NE(got.find("HTTP/1.1 403"), std::string::npos) << got;
}

TEST_F(HandedOn, DropsDescriptorsThatComeWithARequest) {
  serve(echo);
  const Fd socket = connected();
  const Fd gift = Fd::adopt(open("/dev/null", O_RDONLY | O_CLOEXEC));
  std::string text(kAsk);
  iovec part{text.data(), text.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  const int raw = gift.borrow();
  std::memcpy(CMSG_DATA(header), &raw, sizeof raw);
  const auto count = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator{});
  };
  converse(socket, kAsk, "GET /x");
  const auto before = count();
  ASSERT_GT(sendmsg(socket.borrow(), &message, MSG_NOSIGNAL), 0);
  EXPECT_NE(converse(socket, {}, "GET /x").find("200 OK"), std::string::npos);
  EXPECT_EQ(count(), before);
}

TEST_F(LocalApi, AnswersFromAnotherThreadAndOnlyOnce) {
  std::vector<std::jthread> threads;
  std::mutex mutex;
  serve([&](const Request&, std::shared_ptr<Responder> responder) {
    const std::lock_guard lock(mutex);
    threads.emplace_back([responder] {
      responder->respond({201, "text/plain", "first"});
      responder->respond({202, "text/plain", "second"});
      EXPECT_FALSE(responder->openStream()->send("{}"));
    });
  });
  const auto answer = Client(path_).call("GET", "/");
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->status, 201);
  EXPECT_EQ(answer->body, "first");
  server_.reset();
}

TEST_F(LocalApi, TellsTheHandlerThatTheCallerHungUp) {
  std::mutex mutex;
  std::condition_variable arrived;
  std::shared_ptr<Responder> held;
  serve([&](const Request& request, std::shared_ptr<Responder> responder) {
    if (request.path == "/ping") return responder->respond({200, "text/plain", {}});
    const std::lock_guard lock(mutex);
    held = std::move(responder);
    arrived.notify_all();
  });
  const auto begin = [&] {
    Fd socket = connected();
    constexpr std::string_view kRequest = "PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    EXPECT_EQ(static_cast<ssize_t>(kRequest.size()), ::send(socket.borrow(), kRequest.data(), kRequest.size(), 0));
    std::unique_lock lock(mutex);
    EXPECT_TRUE(arrived.wait_for(lock, seconds{20}, [&] { return held != nullptr; }));
    return socket;
  };
  Fd socket = begin();
  EXPECT_FALSE(held->gone());
  // Half a hang-up still listens. A call behind it has the server look at everything before.
  ::shutdown(socket.borrow(), SHUT_WR);
  EXPECT_EQ(Client(path_).call("GET", "/ping")->status, 200);
  EXPECT_FALSE(held->gone());
  socket = Fd{};
  EXPECT_EQ(Client(path_).call("GET", "/ping")->status, 200);
  EXPECT_TRUE(held->gone());
  held->respond({200, "text/plain", "for nobody"});
  held = nullptr;
  server_.reset();
}

TEST_F(LocalApi, AnswersADroppedRequestAndAThrowingHandlerWith500) {
  serve([](const Request& request, std::shared_ptr<Responder>) {
    if (request.path == "/throw") throw std::runtime_error("broken");
  });
  EXPECT_EQ(Client(path_).call("GET", "/drop")->status, 500);
  const auto thrown = Client(path_).callJson("GET", "/throw");
  ASSERT_FALSE(thrown.has_value());
  EXPECT_EQ(thrown.error().reason, Reason::Internal);
}

TEST_F(LocalApi, MapsErrorsToStatusesAndBack) {
  const Error errors[] = {
      {Reason::NotFound, "no such identity", "list them", -25300},
      {Reason::NotEntitled, "no grant", "", -34018},
      {Reason::WrongPassword, "caf\xe9", "", 0},
      {Reason::Busy, "", "", 0},
      {Reason::IdentityLost, "gone", "enrol again", 0},
  };
  const int statuses[] = {404, 403, 422, 429, 503};
  for (size_t i = 0; i < std::size(errors); ++i) {
    const Response response = errorResponse(errors[i]);
    EXPECT_EQ(response.status, statuses[i]);
    const Error back = errorFromResponse({response.status, response.contentType, response.body});
    EXPECT_EQ(back.reason, errors[i].reason);
    EXPECT_EQ(back.hint, errors[i].hint);
    EXPECT_EQ(back.osStatus, errors[i].osStatus);
  }
  EXPECT_NE(errorResponse(errors[0]).body.find("errSecItemNotFound"), std::string::npos);
  EXPECT_EQ(errorFromResponse({503, "text/html", "<html>"}).reason, Reason::Unavailable);
  EXPECT_EQ(errorFromResponse({500, "", R"({"error":{"reason":"OK"}})"}).reason, Reason::Internal);
}

TEST_F(LocalApi, StreamsLinesUntilTheSenderLetsGo) {
  serve([](const Request&, std::shared_ptr<Responder> responder) {
    const auto stream = responder->openStream();
    for (int i = 0; i < 5; ++i) EXPECT_TRUE(stream->send(std::to_string(i)));
  });
  std::string got;
  const Status end = Client(path_).follow(
      "/v1/watch",
      [&](std::string_view line) {
        got += line;
        return true;
      },
      {});
  EXPECT_TRUE(end.has_value()) << end.error().message;
  EXPECT_EQ(got, "01234");
}

TEST_F(LocalApi, TellsTheSenderWhenTheReaderIsGoneOrTooSlow) {
  std::mutex mutex;
  std::condition_variable changed;
  std::shared_ptr<EventStream> stream;
  serve([&](const Request&, std::shared_ptr<Responder> responder) {
    const std::lock_guard lock(mutex);
    stream = responder->openStream();
    changed.notify_all();
  });
  const auto taken = [&] {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return stream != nullptr; });
    return std::exchange(stream, nullptr);
  };

  Fd reader = connected();
  converse(reader, "GET /v1/watch HTTP/1.1\r\nHost: x\r\n\r\n", "\r\n\r\n");
  auto slow = taken();
  size_t accepted = 0;  // the reader reads nothing: the socket's buffer fills, then the queue, then it is cut off
  while (accepted < 1'000'000 && slow->send(std::string(4096, 'x'))) ++accepted;
  EXPECT_LT(accepted, 1'000'000U);

  Fd leaver = connected();
  converse(leaver, "GET /v1/watch HTTP/1.1\r\nHost: x\r\n\r\n", "\r\n\r\n");
  auto left = taken();
  EXPECT_TRUE(left->send("{}"));
  leaver.reset();
  const auto start = std::chrono::steady_clock::now();
  while (left->send("{}") && std::chrono::steady_clock::now() - start < seconds{10}) std::this_thread::yield();
  EXPECT_FALSE(left->send("{}"));
}

TEST_F(LocalApi, FollowStopsOnRequestAndOnTheCallersWord) {
  std::shared_ptr<EventStream> held;
  serve([&](const Request& request, std::shared_ptr<Responder> responder) {
    if (request.path == "/refused") return responder->respond(errorResponse({Reason::NotEntitled, "no", "", 0}));
    held = responder->openStream();
    held->send("{}");
  });
  std::stop_source source;
  EXPECT_TRUE(Client(path_).follow("/a", [&](std::string_view) { return source.request_stop(); }, source.get_token()));
  EXPECT_TRUE(Client(path_).follow("/b", [](std::string_view) { return false; }, {}));
  const Status refused = Client(path_).follow("/refused", [](std::string_view) { return true; }, {});
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().reason, Reason::NotEntitled);
  server_.reset();
}

TEST_F(LocalApi, ReplacesAStaleSocketButNotAServedOneNorAFile) {
  serve(echo);
  const auto second = Server::listen(path_, 0666, echo);
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().reason, Reason::Conflict);
  server_.reset();
  EXPECT_FALSE(std::filesystem::exists(path_));

  {  // What a killed daemon leaves: a bound file, nobody listening.
    const Fd dead = Fd::adopt(::socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    path_.copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(bind(dead.borrow(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  serve(echo);
  EXPECT_EQ(Client(path_).call("GET", "/")->status, 200);

  const std::string file = folder_ + "/file";
  close(open(file.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  const auto overFile = Server::listen(file, 0666, echo);
  ASSERT_FALSE(overFile.has_value());
  EXPECT_EQ(overFile.error().reason, Reason::Conflict);
  EXPECT_TRUE(std::filesystem::exists(file));
  EXPECT_FALSE(Server::listen(folder_ + "/" + std::string(120, 'x'), 0666, echo).has_value());
}

TEST_F(LocalApi, SetsTheSocketsModeExactly) {
  const mode_t before = umask(0077);
  serve(echo);
  umask(before);
  struct stat info{};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0666U);
}

TEST_F(LocalApi, ClientSaysWhichDaemonIsMissingAndWhenItIsSilent) {
  const auto missing = Client(path_).call("GET", "/");
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().reason, Reason::Unavailable);
  EXPECT_NE(missing.error().hint.find("wayleave-identityd"), std::string::npos);

  std::shared_ptr<Responder> silent;
  serve([&](const Request&, std::shared_ptr<Responder> responder) { silent = std::move(responder); });
  const auto late = Client(path_, milliseconds{50}).call("GET", "/");
  ASSERT_FALSE(late.has_value());
  EXPECT_EQ(late.error().reason, Reason::DeadlineExceeded);
  server_.reset();
  silent.reset();  // after the server: must not touch what is gone
}

TEST_F(LocalApi, ClientNamesABrokenOrOversizedAnswer) {
  Result<Listener> listener = listenAt(path_, 0600);
  ASSERT_TRUE(listener.has_value());
  const auto answerWith = [&](std::string_view text) {
    std::jthread server([&] {
      pollfd poller{listener->socket.borrow(), POLLIN, 0};
      poll(&poller, 1, 10'000);
      const Fd peer = Fd::adopt(accept(listener->socket.borrow(), nullptr, nullptr));
      char buffer[4096];
      recv(peer.borrow(), buffer, sizeof buffer, 0);
      ::send(peer.borrow(), text.data(), text.size(), MSG_NOSIGNAL);
    });
    return Client(path_).call("GET", "/");
  };
  EXPECT_EQ(answerWith("").error().reason, Reason::Unavailable);
  EXPECT_EQ(answerWith("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").error().reason, Reason::Unavailable);
  EXPECT_EQ(answerWith("SSH-2.0-OpenSSH\r\n\r\n").error().reason, Reason::Io);
  EXPECT_EQ(answerWith("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n").error().reason, Reason::Io);
  EXPECT_EQ(answerWith("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end")->body, "to the end");
}

}  // namespace
}  // namespace wayleave::localapi
