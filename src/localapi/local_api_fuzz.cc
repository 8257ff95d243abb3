// Any bytes at all on a connection to a local API's real socket: each request that reaches the handler is answered, what
// comes back is HTTP, and the connection ends once the caller has sent all it had. What the bodies say is the business
// of whose API it is (identity_service_fuzz.cc).

#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <string>

#include "base/log.h"
#include "localapi/json_reader.h"
#include "localapi/server.h"

namespace {

using namespace wayleave;

// Far more than any input takes.
constexpr int kPatienceMs = 9000;
constexpr size_t kMostAnswerBytes = 64 * 1024 * 1024;

std::atomic<size_t> handled{0};

void handle(localapi::Request request, const std::shared_ptr<localapi::Responder>& responder) {
  ++handled;
  if (request.body.size() > 65536 || !request.peer || request.peer->uid != ::getuid()) __builtin_trap();
  (void)localapi::parseJson(request.body);
  if (request.path == "/stream") {
    const auto stream = responder->openStream();
    if (stream) (void)stream->send("{}");
    return;  // the last reference goes: the stream ends
  }
  if (request.path == "/dropped") return;  // answered with 500
  responder->respond({200, "text/plain", request.method + " " + request.path + " " + request.contentType});
}

struct World {
  std::string folder = [] {
    std::string name = (std::filesystem::temp_directory_path() / "wayleave-fuzz.XXXXXX").string();
    return std::string(::mkdtemp(name.data()));
  }();
  std::string socket = folder + "/socket";
  std::unique_ptr<localapi::Server> server =
      localapi::Server::listen(socket, 0600, handle, {.bodyBytes = 65536, .connectionsPerUid = 512}).value();
  World() { server->start(); }
  ~World() {
    server.reset();
    std::filesystem::remove_all(folder);
  }
};

std::string answerTo(const std::string& path, std::string_view bytes) {
  const Fd socket = Fd::adopt(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  if (::connect(socket.borrow(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) __builtin_trap();
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket.borrow(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) break;  // it has heard enough
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  ::shutdown(socket.borrow(), SHUT_WR);
  std::string answer;
  for (;;) {
    pollfd entry{socket.borrow(), POLLIN, 0};
    const int ready = ::poll(&entry, 1, kPatienceMs);
    if (ready < 0 && errno == EINTR) continue;  // libFuzzer's timer
    if (ready != 1) __builtin_trap();           // the connection does not end
    char buffer[16 * 1024];
    const ssize_t got = ::recv(socket.borrow(), buffer, sizeof buffer, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return answer;  // ECONNRESET: it closed with something of ours unread
    answer.append(buffer, static_cast<size_t>(got));
    if (answer.size() > kMostAnswerBytes) __builtin_trap();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World* world = [] {
    log::start("fuzz", log::Level::Error);
    static World made;
    return &made;
  }();
  const size_t before = handled;
  const std::string answer = answerTo(world->socket, {reinterpret_cast<const char*>(data), size});
  if (!answer.empty() && !answer.starts_with("HTTP/1.1 ")) __builtin_trap();
  if (answer.empty() && handled != before) __builtin_trap();  // answered, or the server would have to have died
  return 0;
}
