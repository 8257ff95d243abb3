// sign: a signature over a whole file by an identity of either kind of reference.

#include <unistd.h>

#include <algorithm>

#include <fmt/format.h>

#include "base/file.h"
#include "commands.h"
#include "localapi/identity_client.h"
#include "table.h"

namespace wayleave::cli {
namespace {

// The whole message goes to identityd, which hashes it itself (signing is not a raw oracle).
constexpr size_t kMostMessageBytes = 4 * 1024 * 1024;

struct SignOptions {
  std::string file, identity, out, scheme;
  int timeoutSeconds = 30;
};

// An id, or a reference in base64 or hex.
Result<localapi::IdentityInfo> find(localapi::IdentityAgent& agent, const std::string& identity) {
  Result<localapi::IdentityInfo> byId = agent.show(identity);
  if (byId || (byId.error().reason != Reason::NotFound && byId.error().reason != Reason::BadInput)) return byId;
  Result<Bytes> reference = fromHex(identity);
  if (!reference || reference->empty()) reference = fromBase64(identity);
  if (!reference || reference->empty()) return byId;
  return agent.resolve(*reference);
}

// What `openssl dgst -verify` takes without further options.
std::string usualScheme(const localapi::IdentityInfo& identity) {
  for (const std::string_view scheme :
       {"ecdsa_secp384r1_sha384", "ecdsa_secp256r1_sha256", "ecdsa_secp521r1_sha512", "rsa_pkcs1_sha256", "ecdsa_sha256"})
    if (std::ranges::find(identity.schemes, scheme) != identity.schemes.end()) return std::string(scheme);
  return identity.schemes.empty() ? std::string{} : identity.schemes.front();
}

Status write(const std::string& path, ByteView bytes) {
  if (path != "-") return writeFileAtomically(path, bytes, 0644);
  while (!bytes.empty()) {
    const ssize_t written = ::write(STDOUT_FILENO, bytes.data(), bytes.size());
    if (written < 0) return std::unexpected(errnoError(errno, "write to standard output"));
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return {};
}

void sign(Context& context, const SignOptions& options) {
  const Result<Bytes> message =
      options.file == "-" ? readAll(STDIN_FILENO, kMostMessageBytes) : readFile(options.file, kMostMessageBytes);
  if (!message) return context.fail(message.error());
  const auto timeout = std::chrono::seconds{options.timeoutSeconds};
  const auto agent = localapi::makeIdentityClient(context.socket("identity"), timeout);
  const Result<localapi::IdentityInfo> identity = find(*agent, options.identity);
  if (!identity) return context.fail(identity.error());
  const std::string scheme = options.scheme.empty() ? usualScheme(*identity) : options.scheme;
  const Result<Bytes> signature =
      agent->signMessage(identity->reference, scheme, *message, std::chrono::steady_clock::now() + timeout);
  if (!signature) return context.fail(signature.error());
  if (options.out.empty() && !context.json && isatty(STDOUT_FILENO) == 1)
    return context.fail({Reason::BadInput, "a signature is not text", "name a file with --out", 0});
  if (!options.out.empty() || !context.json)
    if (const Status written = write(options.out.empty() ? "-" : options.out, *signature); !written)
      return context.fail(written.error());
  if (context.json && options.out != "-")
    printJson({{"identity", identity->id},
               {"scheme", scheme},
               {"signature", toBase64(*signature)},
               {"bytes", signature->size()}});
  else if (!options.out.empty() && options.out != "-")
    fmt::print("{} bytes, {} by {} ({})\n", signature->size(), scheme, printable(identity->subject), identity->keyKind);
}

}  // namespace

void addSignCommand(CLI::App& app, Context& context) {
  CLI::App* command = addCommand(app, "sign", "sign a file with an identity");
  auto options = std::make_shared<SignOptions>();
  command->add_option("FILE", options->file, "the message, or - for standard input")->required();
  command->add_option("--identity", options->identity, "an id, or a reference in base64 or hex")->required();
  command->add_option("--out", options->out, "where the signature goes (default: standard output)")->type_name("FILE");
  command->add_option("--scheme", options->scheme, "as `identity show` lists them (default: the key's usual one)");
  command->add_option("--timeout", options->timeoutSeconds, "seconds to wait")
      ->check(CLI::Range(1, 600))
      ->capture_default_str();
  describeCommand(command, {{"a signature that openssl dgst -verify takes", "wayleave sign report.txt --identity ID --out report.sig"}});
  command->callback([&context, options] { sign(context, *options); });
}

}  // namespace wayleave::cli
