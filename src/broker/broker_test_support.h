#pragma once

// What several tests of the broker need: folders of their own, real callers on a real socket.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <mutex>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/owned.h"
#include "broker/witness.h"
#include "localapi/peer.h"

namespace wayleave::broker {

// Looks from this very process, which may see its children.
class DirectWitness final : public Witness {
 public:
  DirectWitness() : sockets_(SocketDiagnosis::open()) {}
  Result<Observation> observe(uid_t, pid_t pid, int pidfd, ino_t connection) override {
    const std::lock_guard lock(mutex_);
    return broker::observe(pid, pidfd, connection, sockets_);
  }
  Result<std::string> glance(uid_t, pid_t pid, int descriptor) override { return standingOf(pid, descriptor); }

 private:
  std::mutex mutex_;
  SocketDiagnosis sockets_;
};

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "wayleave-broker.XXXXXX").string();
    path_ = ::mkdtemp(name.data());
    ::chmod(path_.c_str(), 0755);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A started program, killed and reaped at the end.
class Child {
 public:
  Child(const std::string& program, std::vector<std::string> arguments, std::vector<std::string> environment = {}) {
    arguments.insert(arguments.begin(), program);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    std::vector<char*> env;
    for (std::string& entry : environment) env.push_back(entry.data());
    env.push_back(nullptr);
    if (::posix_spawn(&pid_, program.c_str(), nullptr, nullptr, argv.data(), env.data()) != 0) pid_ = -1;
  }
  ~Child() { end(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  pid_t pid() const { return pid_; }
  void end() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
};

// A listening unix socket that hands out peers as the server would.
class CallerSocket {
 public:
  explicit CallerSocket(std::string path) : path_(std::move(path)) {
    listener_ = Fd::adopt(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(0, ::bind(listener_.borrow(), reinterpret_cast<sockaddr*>(&address), sizeof address));
    EXPECT_EQ(0, ::listen(listener_.borrow(), 64));
    ::chmod(path_.c_str(), 0666);
  }
  struct Call {
    Fd connection;
    localapi::Peer peer;
  };
  // Waits until the caller has sent its byte.
  Call accept() {
    Call call{Fd::adopt(::accept4(listener_.borrow(), nullptr, nullptr, SOCK_CLOEXEC)), {}};
    char byte = 0;
    EXPECT_EQ(1, ::read(call.connection.borrow(), &byte, 1));
    Result<localapi::Peer> peer = localapi::peerOf(call.connection.borrow());
    EXPECT_TRUE(peer.has_value());
    if (peer) call.peer = std::move(*peer);
    return call;
  }
  Fd acceptOnly() { return Fd::adopt(::accept4(listener_.borrow(), nullptr, nullptr, SOCK_CLOEXEC)); }
  const std::string& path() const { return path_; }
  int listener() const { return listener_.borrow(); }

 private:
  std::string path_;
  Fd listener_;
};

inline std::string copyProgram(const std::string& to) {
  std::filesystem::copy_file(WAYLEAVE_TEST_CALLER, to, std::filesystem::copy_options::overwrite_existing);
  ::chmod(to.c_str(), 0755);
  return to;
}

}  // namespace wayleave::broker
