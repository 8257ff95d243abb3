#include "broker/hardening.h"

#include <openssl/crypto.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <string_view>

#include "base/log.h"
#include "sandbox/daemons.h"
#include "sandbox/privileges.h"

namespace wayleave::broker {
namespace {

// Room for the private numbers of some dozens of keys; below the usual RLIMIT_MEMLOCK of 8 MiB.
constexpr size_t kLockedBytes = 1024 * 1024;
constexpr size_t kLeastLockedPiece = 32;

std::string deviceOf(std::string_view tcti) {
  constexpr std::string_view kDevice = "device:";
  constexpr std::string_view kSocket = "swtpm:path=";
  for (const std::string_view prefix : {kDevice, kSocket})
    if (tcti.starts_with(prefix)) return std::string(tcti.substr(prefix.size(), tcti.find(',') - prefix.size()));
  return {};
}

}  // namespace

Status harden(const HardeningOptions& options) {
  if (Status done = sandbox::noNewPrivileges(); !done) return done;
  if (Status done = sandbox::noCoreDumps(); !done) return done;
  if (CRYPTO_secure_malloc_init(kLockedBytes, kLeastLockedPiece) != 1)
    log::warn("private keys may be swapped out: memory could not be locked", {{"hint", "raise LimitMEMLOCK"}});

  sandbox::Confinement confinement;
  confinement.files.paths = {{options.stateFolder, true},
                             {options.socketFolder, true},
                             {options.grantsFolder, false},
                             // Users and groups of grants; OpenSSL's configuration; libraries that are loaded on demand (OpenSSL's
                             // legacy provider for old PKCS#12 files, the TSS's transport).
                             {"/etc/passwd", false},
                             {"/etc/group", false},
                             {"/etc/ssl", false},
                             {"/etc/localtime", false},
                             {"/etc/ld.so.cache", false},
                             {"/usr", false},
                             {"/lib", false},
                             {"/lib64", false},
                             {"/proc/self", false},
                             {"/dev/null", true},
                             {"/dev/urandom", false}};
  if (const std::string device = deviceOf(options.tcti); !device.empty()) confinement.files.paths.push_back({device, true});
  confinement.calls = {
      .socketFamilies = {AF_UNIX}, .processes = false, .writesFiles = true, .also = {SYS_wait4}};  // buries the witnesses' keeper
  return sandbox::confine(confinement);
}

}  // namespace wayleave::broker
