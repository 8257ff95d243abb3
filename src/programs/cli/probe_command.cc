// probe: identity × caller × question, each cell tried for real against the running broker. The matrix that the people who
// hold an unusable reference ask for: does it resolve, sign and authenticate TLS in a daemon with nobody logged in?

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "base/file.h"
#include "base/owned.h"
#include "commands.h"
#include "localapi/identity_client.h"
#include "keys/private_key.h"
#include "localapi/json_reader.h"
#include "table.h"

namespace wayleave::cli {
namespace {

using nlohmann::json;

constexpr std::chrono::seconds kSignTime{20};
constexpr size_t kMostAnswerBytes = 1024 * 1024;
constexpr size_t kMostProgramBytes = 512 * 1024 * 1024;
constexpr uid_t kNobody = 65534;

// What is asked of the broker, in the words of the matrix.
constexpr std::array kQuestions = {"resolve", "tls", "sign"};

struct CallerContext {
  std::string name, what;
  uid_t user = 0;
  bool copiedProgram = false;
};

uid_t someLoginUser() {
  if (const char* sudo = std::getenv("SUDO_UID"); sudo != nullptr && std::atoi(sudo) > 0) return static_cast<uid_t>(std::atoi(sudo));
  uid_t found = 1000;
  ::setpwent();
  while (const passwd* entry = ::getpwent())
    if (entry->pw_uid >= 1000 && entry->pw_uid < 60000) {
      found = entry->pw_uid;
      break;
    }
  ::endpwent();
  return found;
}

json verdict(const Status& outcome) {
  if (outcome) return {{"outcome", "OK"}};
  return {{"outcome", text(outcome.error().reason)}, {"osStatus", outcome.error().osStatus}, {"message", outcome.error().message}, {"hint", outcome.error().hint}};
}

// RFC 8446 section 4.4.3 with a random transcript hash: a real signature by the real key, good for no handshake.
Bytes certificateVerifyContent(keys::SignatureScheme scheme) {
  Bytes content(64, 0x20);
  append(content, asBytes("TLS 1.3, client CertificateVerify"));
  content.push_back(0);
  append(content, randomBytes(keys::digestLength(scheme) == 48 ? 48 : 32));
  return content;
}

// One caller's cells for one identity, tried in this very process.
json tryIdentity(localapi::IdentityAgent& agent, const Bytes& reference, const std::string& tlsScheme, const std::string& messageScheme) {
  json cells;
  const auto deadline = [] { return std::chrono::steady_clock::now() + kSignTime; };
  const auto resolved = agent.resolve(reference);
  cells["resolve"] = verdict(resolved ? Status{} : propagate(resolved.error()));
  const auto scheme = keys::parseScheme(tlsScheme);
  if (scheme) {
    const auto tls = agent.signTls({reference, tlsScheme, true, certificateVerifyContent(*scheme)}, deadline());
    cells["tls"] = verdict(tls ? Status{} : propagate(tls.error()));
  } else {
    cells["tls"] = verdict(propagate(scheme.error()));
  }
  const auto signature = agent.signMessage(reference, messageScheme, asBytes("wayleave probe"), deadline());
  cells["sign"] = verdict(signature ? Status{} : propagate(signature.error()));
  return cells;
}

std::string schemeFor(const localapi::IdentityInfo& identity, bool tls13) {
  for (const std::string& scheme : identity.schemes)
    if (scheme.starts_with("ecdsa_secp") || scheme.starts_with(tls13 ? "rsa_pss" : "rsa_pkcs1")) return scheme;
  return identity.schemes.empty() ? "" : identity.schemes.front();
}

// Becomes the caller: a session of its own without a terminal, another user, perhaps another program. Never returns.
[[noreturn]] void becomeCaller(const CallerContext& caller, const std::string& program, const std::vector<std::string>& arguments, int output) {
  ::setsid();
  ::dup2(output, STDOUT_FILENO);
  if (caller.user != ::geteuid()) {
    if (::setgroups(0, nullptr) != 0 || ::setgid(caller.user) != 0 || ::setuid(caller.user) != 0) {
      fmt::print("{}", json{{"problem", fmt::format("become user {}: {}", caller.user, std::strerror(errno))}}.dump());
      std::fflush(stdout);
      ::_exit(0);
    }
  }
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  char* const noEnvironment[] = {nullptr};
  ::execve(program.c_str(), argv.data(), noEnvironment);
  fmt::print("{}", json{{"problem", fmt::format("start {}: {}", program, std::strerror(errno))}}.dump());
  std::fflush(stdout);
  ::_exit(0);
}

Result<json> tryAs(const CallerContext& caller, const std::string& program, std::vector<std::string> arguments) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return std::unexpected(errnoError(errno, "pipe"));
  const Fd reader = Fd::adopt(ends[0]);
  Fd writer = Fd::adopt(ends[1]);
  arguments.insert(arguments.begin(), program);
  const pid_t child = ::fork();
  if (child < 0) return std::unexpected(errnoError(errno, "fork"));
  if (child == 0) becomeCaller(caller, program, arguments, writer.borrow());
  writer.reset();
  const Result<Bytes> output = readAll(reader.borrow(), kMostAnswerBytes);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  if (!output) return propagate(output.error());
  Result<json> answer = localapi::parseJson(asText(*output));
  if (!answer) return withContext(answer.error(), caller.name);
  if (answer->contains("problem")) return fail(Reason::Unsupported, textOf(*answer, "problem"), "run wayleave probe as root to try this caller");
  return answer;
}

// A program the broker has never heard of: our own bytes under another path.
Result<std::string> copyOfOurselves(std::string& folder) {
  folder = "/tmp/wayleave-probe.XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) return std::unexpected(errnoError(errno, "create " + folder));
  const Result<Bytes> program = readFile("/proc/self/exe", kMostProgramBytes);
  if (!program) return propagate(program.error());
  const std::string path = folder + "/unknown-program";
  if (Status written = writeFileAtomically(path, *program, 0755); !written) return propagate(written.error());
  return path;
}

void worker(Context& context, const std::vector<std::string>& work) {
  // REFERENCE TLS-SCHEME MESSAGE-SCHEME, repeated.
  const auto agent = localapi::makeIdentityClient(context.socket("identity"), kSignTime);
  json out = json::array();
  for (size_t i = 0; i + 2 < work.size(); i += 3) {
    const Result<Bytes> reference = fromHex(work[i]);
    out.push_back(reference ? tryIdentity(*agent, *reference, work[i + 1], work[i + 2]) : json::object());
  }
  fmt::print("{}", json{{"identities", out}}.dump());
}

void print(const json& matrix) {
  Table table({"IDENTITY", "CALLER", "RESOLVE", "TLS", "SIGN", "WHY NOT"});
  for (const json& row : matrix["cells"]) {
    std::string why = textOf(row, "notTried");
    std::vector<std::string> columns{textOf(row, "identity"), textOf(row, "caller")};
    for (const char* question : kQuestions) {
      const json cell = row.contains(question) ? row[question] : json::object();
      columns.push_back(cell.empty() ? "not tried" : textOf(cell, "outcome"));
      if (why.empty()) why = textOf(cell, "message");
    }
    columns.push_back(printable(why));
    table.add(std::move(columns));
  }
  table.print();
}

void probe(Context& context) {
  const auto agent = localapi::makeIdentityClient(context.socket("identity"), kSignTime);
  const auto identities = agent->list();
  if (!identities) return context.fail(identities.error());
  std::vector<CallerContext> callers = {{"root daemon, no session", "user 0, a session of its own, no terminal, nobody logged in", ::geteuid(), false},
                                        {"unprivileged daemon", "user nobody, a session of its own", kNobody, false},
                                        {"logged-in user", "an ordinary user", someLoginUser(), false},
                                        {"unknown program", "user 0, a program that no grant names", ::geteuid(), true}};
  if (::geteuid() != 0) callers.front().name = "this user's daemon, no session";
  std::vector<std::string> arguments = {"--runtime-dir", context.runtimeDir, "probe", "--worker"};
  for (const localapi::IdentityInfo& identity : *identities) {
    arguments.push_back(toHex(identity.reference));
    arguments.push_back(schemeFor(identity, true));
    arguments.push_back(schemeFor(identity, false));
  }
  std::string folder;
  const Result<std::string> copy = copyOfOurselves(folder);
  std::array<char, 4096> self{};
  const ssize_t length = ::readlink("/proc/self/exe", self.data(), self.size() - 1);
  const std::string ours(self.data(), length > 0 ? static_cast<size_t>(length) : 0);

  json matrix = {{"cells", json::array()}};
  for (const CallerContext& caller : callers) {
    const Result<json> answer = caller.copiedProgram && !copy ? Result<json>(propagate(copy.error()))
                                                              : tryAs(caller, caller.copiedProgram ? *copy : ours, arguments);
    for (size_t i = 0; i < identities->size(); ++i) {
      const localapi::IdentityInfo& identity = (*identities)[i];
      json row = {{"identity", fmt::format("{} ({}, {})", identity.source, identity.keyKind, identity.subject)},
                  {"id", identity.id},
                  {"source", identity.source},
                  {"keyKind", identity.keyKind},
                  {"caller", caller.name},
                  {"callerIs", caller.what}};
      if (!answer)
        row["notTried"] = answer.error().message;
      else if (arrayOf(*answer, "identities").size() > i)
        row.update(arrayOf(*answer, "identities")[i]);
      matrix["cells"].push_back(std::move(row));
    }
  }
  if (copy && ::unlink(copy->c_str()) != 0) matrix["leftBehind"] = *copy;
  ::rmdir(folder.c_str());
  if (context.json) return printJson(matrix);
  if (identities->empty()) return static_cast<void>(fmt::print("This machine holds no identity; install a profile first.\n"));
  print(matrix);
}

}  // namespace

void addProbeCommand(CLI::App& app, Context& context) {
  CLI::App* command = addCommand(app, "probe", "try every identity as different callers: resolve, TLS, sign");
  auto isWorker = std::make_shared<bool>(false);
  auto work = std::make_shared<std::vector<std::string>>();
  // What the command runs itself as, once per caller.
  command->add_flag("--worker", *isWorker)->group("");
  command->add_option("WORK", *work)->group("");
  describeCommand(command, {{"as root, so that every caller can be tried", "sudo wayleave probe"}});
  command->callback([&context, isWorker, work] { *isWorker ? worker(context, *work) : probe(context); });
}

}  // namespace wayleave::cli
