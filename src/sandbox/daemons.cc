#include "sandbox/daemons.h"

#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/log.h"

namespace wayleave::sandbox {
namespace {

// What a resolver, TLS and the C library read.
std::vector<FileAccess> everydayFiles() {
  return {{"/etc", false},       {"/usr", false},          {"/lib", false},     {"/run/systemd/resolve", false},
          {"/proc/self", false}, {"/dev/urandom", false}, {"/dev/null", true}};
}

// AF_NETLINK: the resolver asks which address families this machine has; proxyd speaks to nftables.
const std::vector<int> kNetworkFamilies = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};

}  // namespace

Confinement managementdConfinement(const std::string& stateFolder, const std::string& socketFolder) {
  Confinement confinement{.files = {.paths = everydayFiles(), .denyTcp = false},
                          .calls = {.socketFamilies = kNetworkFamilies}};
  confinement.files.paths.push_back({stateFolder, true});
  confinement.files.paths.push_back({socketFolder, true});
  return confinement;
}

Confinement proxydConfinement(const std::string& socketFolder, const std::vector<std::string>& otherSocketFolders) {
  Confinement confinement{.files = {.paths = everydayFiles(), .denyTcp = false},
                          .calls = {.socketFamilies = kNetworkFamilies,
                                    .writesFiles = false,
                                    .also = {SYS_splice, SYS_unlink, SYS_unlinkat, SYS_chmod, SYS_fchmodat}}};
  confinement.files.paths.push_back({"/proc/sys/net", false});
  confinement.files.paths.push_back({socketFolder, true});
  for (const std::string& folder : otherSocketFolders) confinement.files.paths.push_back({folder, false});
  return confinement;
}

Status confine(const Confinement& confinement) {
  const Result<int> version = restrictFiles(confinement.files);
  if (!version) return propagate(version.error());
  if (*version == 0) log::warn("this kernel has no Landlock: files are guarded by their modes alone");
  if (Status done = restrictSystemCalls(confinement.calls); !done) return done;
  log::info("confined", {{"landlock", std::to_string(*version)},
                         {"seccomp", enforcesAllowList() ? "allow-list" : "deny-list (sanitizer build)"}});
  return {};
}

}  // namespace wayleave::sandbox
