#pragma once

// A software TPM for tests: Debian's swtpm on a unix socket in a folder of its own. Header-only, so that any test
// program can include it.
//
//   class MyTest : public ::testing::Test {
//    protected:
//     void SetUp() override { if (const auto why = SwTpm::missing()) GTEST_SKIP() << *why; }
//     SwTpm tpm_;  // started by start()
//   };
//
// Manufacture (endorsement keys and certificates, a persistent storage root: 2.5 s) happens once per test program; each
// SwTpm gets a copy of that state, so all manufactured ones are *the same* TPM. A blank one is another TPM: its own
// seeds, no certificates, no persistent keys.

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace wayleave::keys::tpm {

struct ToolResult {
  int status = -1;     // exit status; -1: it did not run
  std::string output;  // stdout and stderr together
};

// Runs a program with extra environment ("NAME=value") and waits for it.
inline ToolResult runTool(const std::vector<std::string>& command, const std::vector<std::string>& environment = {}) {
  int pipeFds[2];
  if (::pipe2(pipeFds, O_CLOEXEC) != 0) return {};
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::dup2(pipeFds[1], 1);
    ::dup2(pipeFds[1], 2);
    for (const std::string& variable : environment) ::putenv(const_cast<char*>(variable.c_str()));
    std::vector<char*> argv;
    for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  ::close(pipeFds[1]);
  ToolResult result;
  char chunk[4096];
  for (ssize_t got; (got = ::read(pipeFds[0], chunk, sizeof chunk)) > 0;) result.output.append(chunk, got);
  ::close(pipeFds[0]);
  int status = 0;
  if (child > 0 && ::waitpid(child, &status, 0) == child && WIFEXITED(status)) result.status = WEXITSTATUS(status);
  return result;
}

class TestFolder {
 public:
  TestFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "wayleave-tpm.XXXXXX").string();
    if (!::mkdtemp(name.data())) throw std::runtime_error("mkdtemp");
    path_ = name;
  }
  TestFolder(const TestFolder&) = delete;
  ~TestFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

class SwTpm {
 public:
  enum class Kind : uint8_t { Manufactured, Blank };

  // Why software TPMs cannot be used here, or nothing.
  static std::optional<std::string> missing() {
    for (const char* program : {"swtpm", "swtpm_setup", "tpm2_clear"})
      if (runTool({program, "--version"}).status != 0 && runTool({program, "--help"}).status != 0)
        return std::string(program) + " is not installed (packages swtpm, swtpm-tools, tpm2-tools)";
    if (!manufactured()) return "swtpm_setup failed";
    return std::nullopt;
  }

  explicit SwTpm(Kind kind = Kind::Manufactured) {
    std::filesystem::create_directory(stateFolder());
    if (kind == Kind::Manufactured)
      std::filesystem::copy(
          *manufactured() / "state", stateFolder(),
          std::filesystem::copy_options::recursive | std::filesystem::copy_options::overwrite_existing);
  }
  SwTpm(const SwTpm&) = delete;
  ~SwTpm() { kill(); }

  // Returns once it accepts connections.
  void start() {
    kill();
    const std::string server = "type=unixio,path=" + socketPath().string();
    const std::string control = server + ".ctrl", state = "dir=" + stateFolder().string();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
      for (const int fd : {0, 1, 2}) ::dup2(null, fd);
      ::execlp("swtpm", "swtpm", "socket", "--tpm2", "--tpmstate", state.c_str(), "--server", server.c_str(), "--ctrl",
               control.c_str(), "--flags", "not-need-init,startup-clear", nullptr);
      ::_exit(127);
    }
    // It unlinks and binds the socket itself; there is nothing to wait on but the socket.
    for (int tries = 0; tries < 5000; ++tries) {
      if (accepts()) return;
      std::this_thread::sleep_for(std::chrono::milliseconds{2});
    }
    throw std::runtime_error("swtpm does not start");
  }
  // As by a power cut.
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
    std::error_code ignored;
    std::filesystem::remove(socketPath(), ignored);
    std::filesystem::remove(controlPath(), ignored);
  }
  void hang() const { ::kill(pid_, SIGSTOP); }
  void resume() const { ::kill(pid_, SIGCONT); }

  // tpm2-tools on this TPM. swtpm serves one connection at a time: disconnect the device under test first.
  ToolResult tool(const std::vector<std::string>& command) const {
    return runTool(command, {"TPM2TOOLS_TCTI=" + tcti(), "TSS2_LOG=all+none"});
  }
  // Takes the owner's seed away, as a firmware menu's "clear TPM" does.
  bool clear() const { return tool({"tpm2_clear", "-c", "p"}).status == 0; }

  std::string tcti() const { return "swtpm:path=" + socketPath().string(); }
  std::filesystem::path folder() const { return folder_.path(); }
  std::filesystem::path stateFolder() const { return folder_.path() / "state"; }
  std::filesystem::path socketPath() const { return folder_.path() / "s"; }
  // The certification authority that issued the EK certificates: root and issuing certificate (PEM).
  static std::filesystem::path certificateAuthority() { return *manufactured() / "ca"; }

 private:
  std::filesystem::path controlPath() const { return folder_.path() / "s.ctrl"; }

  bool accepts() const {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, socketPath().c_str(), sizeof address.sun_path - 1);
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const bool connected = ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
    ::close(fd);
    return connected;
  }

  // The folder with `state` and `ca`, made at the first call.
  static const std::optional<std::filesystem::path>& manufactured() {
    static const TestFolder folder;
    static const std::optional<std::filesystem::path> made = manufacture(folder.path());
    return made;
  }
  static std::optional<std::filesystem::path> manufacture(const std::filesystem::path& at) {
    const auto ca = (at / "ca").string(), state = (at / "state").string();
    std::filesystem::create_directory(ca);
    std::filesystem::create_directory(state);
    std::ofstream(at / "localca.conf") << "statedir=" << ca << "\nsigningkey=" << ca
                                       << "/signkey.pem\nissuercert=" << ca << "/issuercert.pem\ncertserial=" << ca
                                       << "/certserial\n";
    std::ofstream(at / "localca.options")
        << "--platform-manufacturer Test\n--platform-version 1.0\n--platform-model QEMU\n";
    std::ofstream(at / "setup.conf") << "create_certs_tool=/usr/bin/swtpm_localca\ncreate_certs_tool_config="
                                     << (at / "localca.conf").string()
                                     << "\ncreate_certs_tool_options=" << (at / "localca.options").string()
                                     << "\nactive_pcr_banks=sha256\n";
    const ToolResult made =
        runTool({"swtpm_setup", "--tpm2", "--tpmstate", state, "--create-ek-cert", "--ecc", "--create-spk",
                 "--lock-nvram", "--config", (at / "setup.conf").string(), "--overwrite"});
    if (made.status != 0) return std::nullopt;
    return at;
  }

  TestFolder folder_;
  pid_t pid_ = -1;
};

}  // namespace wayleave::keys::tpm
