// profile new: a profile to start from, from flags or from answers, judged by lint before it is written.

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "authoring/lint.h"
#include "authoring/new_declarations.h"
#include "authoring/new_profile.h"
#include "base/file.h"
#include "commands.h"
#include "management/cms_certificate.h"
#include "questions.h"

namespace wayleave::cli {
namespace {

using authoring::NewIdentity;
using authoring::NewProfile;
using nlohmann::json;

constexpr size_t kMostFileBytes = 1024 * 1024;  // certificates and PKCS#12 files are thousands of bytes
constexpr size_t kMostSecretBytes = 4096;

struct NewOptions {
  std::string file;
  bool force = false, declarations = false;
  std::string documentUrl;
  std::string identifier, name, organization;
  std::string gateway, gatewayProtocol = "auto", gatewayServerName, failurePolicy = "block", connectTarget = "address";
  std::vector<std::string> gatewayAddresses, trustAnchors, include, exclude;
  std::string identity, subject;
  std::string pkcs12, passwordFile;
  std::string scepUrl, scepName, challengeFile, caFingerprint;
  std::string acmeDirectory, clientIdentifier, attestationUrl, keyType;
  int keySize = 0;
  bool hardwareBound = false, attest = false;
};

std::string firstLineOf(Bytes bytes) {
  std::string text(asText(bytes));
  std::ranges::fill(bytes, uint8_t{0});
  return text.substr(0, text.find_first_of("\r\n"));
}

std::string httpsProblem(const std::string& url) {
  if (url.starts_with("https://") && url.size() > 8) return "";
  return fmt::format("\"{}\" is no https URL", url);
}

std::string ruleProblem(const std::string& text) {
  const auto rule = authoring::parseNewRule(text);
  return rule ? "" : rule.error().message + " (" + rule.error().hint + ")";
}

std::string identifierProblem(const std::string& text) {
  const bool fits = std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' || c == '-'; });
  return fits && text.contains('.') && !text.starts_with('.') && !text.ends_with('.') ? "" : fmt::format("\"{}\" is not in reverse DNS form, as com.example.wayleave is", text);
}

Result<Bytes> fingerprintOf(std::string text) {
  std::erase_if(text, [](char c) { return c == ':' || c == ' '; });
  Result<Bytes> bytes = fromHex(text);
  if (!bytes || (bytes->size() != 32 && bytes->size() != 64))
    return fail(Reason::BadInput, "the fingerprint is no SHA-256 or SHA-512 in hex", "openssl x509 -in ca.pem -noout -fingerprint -sha256");
  return bytes;
}

std::string fingerprintProblem(const std::string& text) {
  const auto bytes = fingerprintOf(text);
  return bytes ? "" : bytes.error().message + " (" + bytes.error().hint + ")";
}

std::string subjectProblem(const std::string& text) {
  const auto subject = authoring::parseSubject(text);
  return subject ? "" : subject.error().message;
}

std::string fileProblem(const std::string& path) { return ::access(path.c_str(), R_OK) == 0 ? "" : fmt::format("{} cannot be read", path); }

void askPkcs12(Questions& ask, const NewOptions& options, NewProfile& profile, std::string& file) {
  file = ask.text(options.pkcs12, "--pkcs12", "PKCS #12 file with the identity", "", fileProblem);
  if (options.passwordFile.empty() && ask.interactive()) profile.password = ask.secret("Its password");
}

void askScep(Questions& ask, const NewOptions& options, NewProfile& profile, std::string& fingerprint, std::string& subject) {
  profile.scepUrl = ask.text(options.scepUrl, "--scep-url", "URL of the SCEP server", "", [](const std::string& url) {
    return url.starts_with("https://") || url.starts_with("http://") ? "" : fmt::format("\"{}\" is no http or https URL", url);
  });
  profile.scepName = ask.optional(options.scepName, "--scep-name", "Name of the CA at the server");
  // Over plain http nothing but the fingerprint tells the CA from somebody else.
  constexpr const char* kQuestion = "SHA-256 fingerprint of the CA's certificate";
  fingerprint = profile.scepUrl.starts_with("http://") ? ask.text(options.caFingerprint, "--ca-fingerprint", kQuestion, "", fingerprintProblem)
                                                      : ask.optional(options.caFingerprint, "--ca-fingerprint", kQuestion, fingerprintProblem);
  if (options.challengeFile.empty() && ask.interactive())
    if (Secret challenge = ask.secret("Challenge, if the server wants one"); !challenge.empty()) profile.challenge = std::move(challenge);
  profile.keySize = options.keySize == 0 ? 2048 : options.keySize;
  subject = ask.text(options.subject, "--subject", "Subject of the certificate, as CN=device-1,O=Example", "", subjectProblem);
}

void askAcme(Questions& ask, const NewOptions& options, NewProfile& profile, std::string& subject) {
  profile.directoryUrl = ask.text(options.acmeDirectory, "--acme-directory", "Directory URL of the ACME CA", "", httpsProblem);
  profile.clientIdentifier = ask.text(options.clientIdentifier, "--client-identifier", "Identifier that the CA knows the device by");
  profile.hardwareBound = ask.yes(options.hardwareBound || options.attest, "Make the key in the TPM, which it never leaves?", true);
  profile.attest = profile.hardwareBound && ask.yes(options.attest, "Let the TPM vouch for the key to the CA?", !options.hardwareBound);
  if (profile.attest) profile.attestationUrl = ask.text(options.attestationUrl, "--attestation-url", "URL of the attestation CA that knows this machine's TPM", "", httpsProblem);
  const std::string keyType = profile.hardwareBound && options.keyType.empty() ? "EC" : options.keyType.empty() ? ask.interactive() ? ask.choice("", "--key-type", "Kind of key", {"EC", "RSA"}) : "EC" : options.keyType;
  profile.keyType = keyType == "RSA" ? management::KeyType::Rsa : management::KeyType::EcSecPrimeRandom;
  profile.keySize = options.keySize != 0 ? options.keySize : keyType == "RSA" ? 2048 : 256;
  std::string escaped;
  for (const char c : profile.clientIdentifier) escaped += (c == ',' || c == '\\' ? "\\" : "") + std::string(1, c);
  subject = ask.text(options.subject, "--subject", "Subject of the certificate", escaped.empty() ? "" : "CN=" + escaped, subjectProblem);
}

Result<Secret> secretFrom(const std::string& file) {
  Result<Bytes> bytes = file == "-" ? readAll(STDIN_FILENO, kMostSecretBytes) : readFile(file, kMostSecretBytes);
  if (!bytes) return propagate(bytes.error());
  return Secret::copyOf(firstLineOf(std::move(*bytes)));
}

// Asks for what the flags leave open, then reads the files.
Result<NewProfile> gather(Questions& ask, const NewOptions& options) {
  NewProfile profile;
  std::string pkcs12File, fingerprint, subject;
  profile.gatewayUrl = ask.text(options.gateway, "--gateway", "Gateway, as https://gateway.example:8443", "", httpsProblem);
  profile.identifier = ask.text(options.identifier, "--identifier", "Identifier of the profile, in reverse DNS form", "", identifierProblem);
  profile.name = ask.text(options.name, "--name", "Name that people see", "Wayleave");
  profile.organization = options.organization;
  const std::vector<std::string> anchorFiles = ask.list(options.trustAnchors, "--trust-anchor", "Certificate file of the gateway's CA (the system's CAs otherwise)", false, fileProblem);
  const std::vector<std::string> included = ask.list(options.include, "--include", "What goes to the gateway, as corp.example or tcp:10.0.0.0/8:443", true, ruleProblem);
  const std::vector<std::string> excluded = ask.list(options.exclude, "--exclude", "What of it does not", false, ruleProblem);
  const std::string kind = ask.choice(options.identity, "--identity", "Identity of the device", {"acme", "scep", "pkcs12"});
  profile.identity = kind == "pkcs12" ? NewIdentity::Pkcs12 : kind == "scep" ? NewIdentity::Scep : NewIdentity::Acme;
  switch (profile.identity) {
    case NewIdentity::Pkcs12: askPkcs12(ask, options, profile, pkcs12File); break;
    case NewIdentity::Scep: askScep(ask, options, profile, fingerprint, subject); break;
    case NewIdentity::Acme:
      if (!kind.empty()) askAcme(ask, options, profile, subject);
      break;
  }
  if (Status complete = ask.finish(); !complete) return propagate(complete.error());

  profile.gatewayProtocol = options.gatewayProtocol;
  profile.gatewayServerName = options.gatewayServerName;
  profile.gatewayAddresses = options.gatewayAddresses;
  profile.failDirect = options.failurePolicy == "direct";
  profile.connectByName = options.connectTarget == "hostname";
  const auto addRules = [](const std::vector<std::string>& texts, std::vector<authoring::NewRule>& out) {
    for (const std::string& text : texts)
      if (const auto rules = authoring::parseNewRule(text)) out.insert(out.end(), rules->begin(), rules->end());  // checked above
  };
  addRules(included, profile.included);
  addRules(excluded, profile.excluded);
  if (!subject.empty()) profile.subject = authoring::parseSubject(subject).value_or(management::Subject{});
  if (!fingerprint.empty()) profile.caFingerprint = fingerprintOf(fingerprint).value_or(Bytes{});
  for (const std::string& file : anchorFiles) {
    const Result<Bytes> bytes = readFile(file, kMostFileBytes);
    if (!bytes) return propagate(bytes.error());
    const Result<management::CertificateFile> certificates = management::readCertificateFile(*bytes);
    if (!certificates) return withContext(certificates.error(), file);
    for (const management::CertificateInfo& certificate : certificates->certificates) profile.trustAnchors.push_back(certificate.der);
  }
  if (profile.identity == NewIdentity::Pkcs12) {
    Result<Bytes> bytes = readFile(pkcs12File, kMostFileBytes);
    if (!bytes) return propagate(bytes.error());
    profile.pkcs12 = std::move(*bytes);
  }
  for (const auto& [file, secret] : {std::pair(&options.passwordFile, &profile.password), std::pair(&options.challengeFile, &profile.challenge)})
    if (!file->empty()) {
      Result<Secret> read = secretFrom(*file);
      if (!read) return propagate(read.error());
      *secret = std::move(*read);
    }
  return profile;
}

void printFindings(const std::vector<authoring::LintFinding>& findings) {
  for (const authoring::LintFinding& finding : findings) {
    const bool error = finding.severity == authoring::Severity::Error;
    fmt::print(stderr, "{} {}{}\n", styled(STDERR_FILENO, error ? "1;31" : "1;33", fmt::format("{}:", text(finding.severity))),
               finding.where.empty() ? "" : printable(finding.where) + ": ", printable(finding.message));
    if (!finding.hint.empty()) fmt::print(stderr, "    {}\n", printable(finding.hint));
  }
}

// What lint has to say, notes left out; false: it would be refused, and nothing is written.
bool passes(Context& context, const std::vector<authoring::LintInput>& inputs, size_t& warnings) {
  std::vector<authoring::LintFinding> findings = authoring::lint(inputs);
  std::erase_if(findings, [](const authoring::LintFinding& finding) { return finding.severity == authoring::Severity::Note; });
  printFindings(findings);
  warnings = findings.size();
  if (authoring::count(findings).errors == 0) return true;
  context.fail({Reason::BadInput, "what you asked for would be refused; nothing was written", "correct what is said above", 0});
  return false;
}

void makeDeclarations(Context& context, const NewOptions& options, const NewProfile& profile, const std::string& folder) {
  const Result<std::vector<authoring::NewFile>> files = authoring::writeDeclarations(profile, options.documentUrl);
  if (!files) {
    context.fail(files.error());
    context.exit = Exit::Usage;
    return;
  }
  std::vector<authoring::LintInput> inputs;
  for (const authoring::NewFile& file : *files) {
    const std::string path = folder + "/" + file.name;
    if (!options.force && std::filesystem::exists(std::filesystem::symlink_status(path)))
      return context.fail({Reason::Duplicate, path + " is there already", "choose another folder, or replace it with --force", 0});
    if (file.name.ends_with(".json")) inputs.push_back({path, toBytes(file.text)});
  }
  size_t warnings = 0;
  if (!passes(context, inputs, warnings)) return;
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  if (!failed && !options.documentUrl.empty()) std::filesystem::create_directories(folder + "/documents", failed);
  if (failed) return context.fail({Reason::Io, fmt::format("make folder {}: {}", folder, failed.message()), {}, failed.value()});
  json names = json::array();
  for (const authoring::NewFile& file : *files) {
    if (const Status written = writeFileAtomically(folder + "/" + file.name, asBytes(file.text), file.isSecret ? 0600 : 0644); !written) return context.fail(written.error());
    names.push_back(file.name);
  }
  if (context.json) return printJson({{"folder", folder}, {"identifier", profile.identifier}, {"files", names}, {"warnings", warnings}});
  for (const authoring::NewFile& file : *files) fmt::print("{}/{}{}\n", folder, file.name, file.isSecret ? "  readable by you alone: it holds a secret" : "");
  fmt::print("Check them with `wayleave lint {}`; let the MDM server offer them{}.\n", folder,
             options.documentUrl.empty() ? "" : fmt::format(", and serve {}/documents at {}", folder, options.documentUrl));
}

void makeProfile(Context& context, const NewOptions& options) {
  Questions ask;
  const Result<NewProfile> profile = gather(ask, options);
  if (!profile) {
    context.fail(profile.error());
    if (profile.error().reason == Reason::BadInput) context.exit = Exit::Usage;
    return;
  }
  if (options.declarations) {
    const std::string folder = options.file.empty() && ask.interactive() ? ask.text("", "FILE", "Into which folder", "declarations") : options.file;
    if (const Status complete = ask.finish(); !complete) return context.fail(complete.error());
    if (folder.empty() || folder == "-") {
      context.fail({Reason::BadInput, "declarations are several files: name a folder for them", "wayleave profile new --declarations FOLDER …", 0});
      context.exit = Exit::Usage;
      return;
    }
    return makeDeclarations(context, options, *profile, folder);
  }
  std::string file = options.file.empty() && ask.interactive() ? ask.text("", "FILE", "Where to", "wayleave.mobileconfig") : options.file;
  if (file.empty()) file = "-";
  if (const Status complete = ask.finish(); !complete) return context.fail(complete.error());
  if (file != "-" && !options.force && std::filesystem::exists(std::filesystem::symlink_status(file)))
    return context.fail({Reason::Duplicate, file + " is there already", "choose another name, or replace it with --force", 0});

  const std::string text = authoring::writeProfile(*profile);
  size_t warnings = 0;
  if (!passes(context, {{file, toBytes(text)}}, warnings)) return;
  if (file == "-") return fmt::print("{}", text);
  if (const Status written = writeFileAtomically(file, asBytes(text), profile->holdsSecret() ? 0600 : 0644); !written) return context.fail(written.error());
  if (context.json) return printJson({{"file", file}, {"identifier", profile->identifier}, {"warnings", warnings}});
  fmt::print("Written to {}{}.\nTry it here with `wayleave profile install {}`, or let the MDM server deliver it.\n", file,
             profile->holdsSecret() ? ", readable by you alone: it holds a secret" : "", file);
}

void addGatewayOptions(CLI::App* command, NewOptions& options) {
  command->add_option("--gateway", options.gateway, "the gateway, as https://gateway.example:8443")->type_name("URL");
  command->add_option("--gateway-protocol", options.gatewayProtocol, "HTTP/1.1, HTTP/2, or what both can do")->check(CLI::IsMember({"auto", "h1", "h2"}))->capture_default_str();
  command->add_option("--gateway-server-name", options.gatewayServerName, "name in the gateway's certificate (default: the URL's)")->type_name("NAME");
  command->add_option("--gateway-address", options.gatewayAddresses, "connect to this address instead of looking the name up (may be repeated)")->type_name("ADDRESS")->allow_extra_args(false);
  command->add_option("--trust-anchor", options.trustAnchors, "certificate of the gateway's CA, PEM or DER (may be repeated; default: the system's CAs)")->type_name("FILE")->allow_extra_args(false);
  command->add_option("--include", options.include, "what goes to the gateway: corp.example, tcp:10.0.0.0/8:443, * (may be repeated)")->type_name("RULE")->allow_extra_args(false);
  command->add_option("--exclude", options.exclude, "what does not, whatever is included (may be repeated)")->type_name("RULE")->allow_extra_args(false);
  command->add_option("--failure-policy", options.failurePolicy, "what happens to included flows without the gateway")->check(CLI::IsMember({"block", "direct"}))->capture_default_str();
  command->add_option("--connect-target", options.connectTarget, "what the gateway is asked for")->check(CLI::IsMember({"address", "hostname"}))->capture_default_str();
}

void addIdentityOptions(CLI::App* command, NewOptions& options) {
  command->add_option("--identity", options.identity, "where the device's identity comes from")->check(CLI::IsMember({"pkcs12", "scep", "acme"}));
  command->add_option("--subject", options.subject, "of the certificate: CN=device-1,O=Example (scep; acme: CN of the client identifier)")->type_name("NAME");
  command->add_option("--pkcs12", options.pkcs12, "the identity's PKCS #12 file")->type_name("FILE");
  command->add_option("--password-file", options.passwordFile, "holds the PKCS #12 file's password in its first line; - for standard input")->type_name("FILE");
  command->add_option("--scep-url", options.scepUrl, "the SCEP server")->type_name("URL");
  command->add_option("--scep-name", options.scepName, "the CA's name at the SCEP server")->type_name("NAME");
  command->add_option("--ca-fingerprint", options.caFingerprint, "SHA-256 of the SCEP CA's certificate; needed over plain http")->type_name("HEX");
  command->add_option("--challenge-file", options.challengeFile, "holds the SCEP challenge in its first line; - for standard input")->type_name("FILE");
  command->add_option("--acme-directory", options.acmeDirectory, "the ACME CA's directory")->type_name("URL");
  command->add_option("--client-identifier", options.clientIdentifier, "what the ACME CA knows the device by")->type_name("NAME");
  command->add_option("--key-type", options.keyType, "of the ACME key (EC)")->check(CLI::IsMember({"EC", "RSA"}));
  command->add_option("--key-size", options.keySize, "bits (EC 256, RSA 2048)")->check(CLI::Range(192, 4096));
  command->add_flag("--hardware-bound", options.hardwareBound, "make the ACME key in the TPM, which it never leaves");
  command->add_flag("--attest", options.attest, "let the TPM vouch for the key to the CA; implies --hardware-bound");
  command->add_option("--attestation-url", options.attestationUrl, "the attestation CA that knows this machine's TPM; needed with --attest")->type_name("URL");
}

}  // namespace

void addProfileNewCommand(CLI::App& profile, Context& context) {
  CLI::App* command = addCommand(profile, "new", "write a profile to start from, or declarations");
  auto options = std::make_shared<NewOptions>();
  command->add_option("FILE", options->file, "where to (default: standard output)")->type_name("FILE");
  command->add_flag("--force", options->force, "replace FILE if it is there");
  CLI::Option* declarations = command->add_flag("--declarations", options->declarations, "write declarations into the folder FILE instead of a profile");
  command->add_option("--document-url", options->documentUrl, "with --declarations: where the assets' documents will be served (default: inside the declarations, which Wayleave alone reads)")
      ->type_name("URL")
      ->needs(declarations)
      ->check([](const std::string& url) { return httpsProblem(url); });
  command->add_option("--identifier", options->identifier, "PayloadIdentifier, as com.example.wayleave; decides what the profile replaces")->type_name("NAME");
  command->add_option("--name", options->name, "what people see (Wayleave)")->type_name("TEXT");
  command->add_option("--organization", options->organization, "whose profile it is")->type_name("TEXT");
  addGatewayOptions(command, *options);
  addIdentityOptions(command, *options);
  describeCommand(command,
                  {{"asks for everything, and writes what you answered", "wayleave profile new device.mobileconfig"},
                   {"a key in the TPM, attested to the CA",
                    "wayleave profile new device.mobileconfig --identifier com.example.wayleave \\\n"
                    "      --gateway https://gateway.example:8443 --trust-anchor ca.pem --include corp.example \\\n"
                    "      --identity acme --acme-directory https://ca.example/acme/directory \\\n"
                    "      --client-identifier device-1 --attest --attestation-url https://attest.example"},
                   {"the same as declarations, for a server that serves their documents",
                    "wayleave profile new declarations --declarations --document-url https://mdm.example/documents …"}},
                  "0 written, 1 FILE is there already or cannot be written, 2 options missing or wrong, 6 the profile would be refused");
  command->callback([&context, options] { makeProfile(context, *options); });
}

}  // namespace wayleave::cli
