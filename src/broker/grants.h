#pragma once

// Grants: which program may use which identities, for what. Files NAME.toml in grants.d, read in order of their names:
//
//   [[grant]]
//   name = "proxyd"                                  # shown in refusals and in the audit log
//   executable = "${program-dir}/wayleave-proxyd"    # or a list; absolute, no symbolic links
//   sha256 = "…"                                     # optional, or a list: exactly these contents
//   user = "wayleave-proxyd"                         # name or number
//   group = "…"                                      # primary or supplementary
//   unit = "wayleave-proxyd.service"                 # systemd's system manager started it
//   owner = "root"                                   # of the executable file; default: any trusted owner
//   require = ["undumpable"]                         # further conditions of broker/caller.h
//   accept = ["loader-variables"]                    # conditions that need not hold
//   access-groups = ["com.apple.managed.vpn.shared"] # or "*"
//   usages = ["tls-client"]
//   signatures-per-minute = 600
//   signature-burst = 60
//
// and, for the programs that declarations name (broker/applications.h):
//
//   [[application]]
//   identifier = "com.example.agent (TEAM123456)"    # or the Bundle-ID alone; no variables in it
//   executable = "/opt/agent/bin/agent"              # and every other key that describes a caller
//   usages = ["tls-client"]                          # the default; "digest" and "sign" can be given as well
//   signatures-per-minute = 600
//   signature-burst = 60
//
// which gives that program exactly the identities that declarations bring for the identifier: it may list them, follow
// them by name, resolve them, and sign as the usages say. The name alone gives the least that mutual TLS needs: an
// agent that signs messages, as a ManagedApp program on macOS could with its SecIdentity, is told so by its
// administrator and not by the server that declares.
//
// A caller must satisfy everything that a grant says; at least one of executable, user, group and unit must be said.
// What no grant gives does not exist for the caller: not even an identity's name. Strings may hold ${variables} from
// the command line. A set of files is taken whole or not at all: with one error anywhere, the grants in force stay.

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "broker/applications.h"
#include "broker/caller.h"

namespace wayleave::broker {

enum class Usage : uint8_t {
  TlsClient,  // sign the CertificateVerify of a TLS 1.3 client
  Digest,  // sign a ready digest: TLS 1.2 and raw PKCS#11 mechanisms. The policy switch: a raw oracle, never by default
  Sign,    // sign any message
  List,    // enumerate
  Manage,  // install, renew and remove identities: managementd
  Inspect,  // read the audit log, examine callers, reload grants: administrators
};
std::string_view text(Usage usage);  // "tls-client", "digest", "sign", "list", "manage", "inspect"

struct Grant {
  std::string name;
  std::string application;  // composed identifier: an [[application]] entry, whose access groups are empty
  std::string file;
  int line = 0;

  std::vector<std::string> executables;
  std::vector<std::string> sha256;  // lower-case hex
  std::optional<uid_t> user;
  std::optional<gid_t> group;
  std::string unit;
  std::optional<uid_t> owner;
  std::set<ConditionName> require, accept;

  bool everyAccessGroup = false;
  std::set<std::string> accessGroups;
  std::set<Usage> usages;
  double signaturesPerMinute = 600;
  double signatureBurst = 60;

  bool covers(std::string_view accessGroup) const {
    return everyAccessGroup || accessGroups.contains(std::string(accessGroup));
  }
};

struct GrantProblem {
  std::string file;
  int line = 0;
  std::string key;  // "grant[2].usages[0]", "application[0].identifier"; empty for the file as a whole
  std::string message;
};
std::string describe(const GrantProblem& problem);  // "10-wayleave.toml:12: grant[2].usages[0]: …"

using Variables = std::map<std::string, std::string, std::less<>>;

struct GrantSet {
  std::vector<Grant> grants;
  std::vector<GrantProblem> problems;  // all of them; grants are in force only when this is empty
};
// One file's text. Never throws.
GrantSet parseGrants(std::string_view toml, const std::string& file, const Variables& variables);
// Every *.toml of the folder. The folder and its files must belong to root, to this process' user or to a trusted
// owner, and be writable by nobody else. A missing folder is a problem, an empty one is not.
GrantSet loadGrants(const std::string& folder, const Variables& variables);

// packaging/grants.d/10-wayleave.toml, as it was when this program was built.
std::string_view shippedGrants();

// What a verified caller may do: the grants and application entries that describe it, and why others that nearly do, do
// not.
class Entitlements {
 public:
  Entitlements(std::shared_ptr<const std::vector<Grant>> all, const Verdict& caller, Declared declared = {});

  bool any() const { return !granted_.empty() || !applications_.empty(); }
  // The first grant that gives `usage` (for `accessGroup`), else null. Lives as long as this object. With `identity`
  // also an application entry that is declared this very identity.
  const Grant* find(Usage usage) const;
  const Grant* find(Usage usage, std::string_view accessGroup, std::string_view identity = {}) const;
  // May the caller know that this identity, of this access group, exists?
  bool sees(std::string_view accessGroup, std::string_view identity) const;

  // Is there an application entry for this caller, declared anything or not?
  bool isApplication() const { return !applications_.empty(); }
  // What declarations bring for it, by name. Of two declarations (or entries) with the same name the first counts.
  std::vector<localapi::DeclaredApplication::Item> provisions() const;
  // Another set was declared; the caller is the same.
  void redeclare(Declared declared) { declared_ = std::move(declared); }

  // Why there is no grant: CallerUnverified (a grant names this program, and a condition failed: which, and what to do)
  // or NotEntitled (no grant names it, or none gives `usage`). OSStatus -34018.
  Error refusal(Usage usage) const;
  // Names of the grants in force for this caller, and the failed conditions: for the audit log and for `caller check`.
  std::vector<std::string> grantNames() const;
  struct NearMiss {
    std::string grant;
    std::vector<std::string> failures;  // a sentence each
    std::string hint;
  };
  const std::vector<NearMiss>& nearMisses() const { return nearMisses_; }

 private:
  bool isDeclared(const Grant& entry, std::string_view identity) const;

  std::shared_ptr<const std::vector<Grant>> all_;
  Declared declared_;
  std::vector<const Grant*> granted_;
  std::vector<const Grant*> applications_;
  std::vector<NearMiss> nearMisses_;
  std::string callerText_;
};

// The grants in force. Thread-safe.
class GrantTable {
 public:
  // `fallback`: the text of grants that apply while there is no such folder; empty: a missing folder is a problem.
  GrantTable(std::string folder, Variables variables, std::string_view fallback = {})
      : folder_(std::move(folder)), variables_(std::move(variables)), fallback_(fallback) {}
  // Takes the folder's grants, or keeps those in force and returns the problems.
  std::vector<GrantProblem> reload();
  std::shared_ptr<const std::vector<Grant>> current() const;
  std::vector<GrantProblem> problems() const;  // of the last reload

 private:
  const std::string folder_;
  const Variables variables_;
  const std::string fallback_;
  mutable std::mutex mutex_;
  std::shared_ptr<const std::vector<Grant>> grants_ = std::make_shared<const std::vector<Grant>>();
  std::vector<GrantProblem> problems_;
};

}  // namespace wayleave::broker
