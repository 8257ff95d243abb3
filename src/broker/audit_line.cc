#include "broker/audit_line.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "localapi/json_reader.h"

namespace wayleave::broker {
namespace {

constexpr std::string_view kHashMember = ",\"hash\":\"";
constexpr size_t kHexDigest = 64;
// Sentences may quote what a caller sent.
constexpr size_t kMostTextBytes = 1024;

std::string jsonString(std::string_view text) {
  return localapi::dump(nlohmann::json(std::string(text.substr(0, kMostTextBytes))));
}

}  // namespace

std::string auditGenesis() { return std::string(kHexDigest, '0'); }

std::string auditLine(const AuditEntry& entry, uint64_t sequence, std::string_view time, std::string_view previous) {
  std::string line = fmt::format("{{\"seq\":{},\"time\":\"{}\",\"event\":{},\"outcome\":{}", sequence, time,
                                 jsonString(entry.event), jsonString(entry.outcome));
  const auto member = [&](std::string_view name, const std::string& value) {
    if (!value.empty()) line += fmt::format(",\"{}\":{}", name, jsonString(value));
  };
  if (entry.pid != 0) line += fmt::format(",\"pid\":{},\"uid\":{}", entry.pid, entry.uid);
  member("executable", entry.executable);
  member("sha256", entry.sha256);
  member("unit", entry.unit);
  member("grant", entry.grant);
  member("identity", entry.identity);
  member("label", entry.label);
  member("usage", entry.usage);
  member("scheme", entry.scheme);
  member("detail", entry.detail);
  line += fmt::format(",\"prev\":\"{}\"", previous);
  const std::string hash = toHex(sha256(asBytes(line)));
  return line + std::string(kHashMember) + hash + "\"}";
}

Result<AuditLine> parseAuditLine(std::string_view line) {
  const size_t tail = kHashMember.size() + kHexDigest + 2;
  if (line.size() <= tail || line.substr(line.size() - tail, kHashMember.size()) != kHashMember ||
      !line.ends_with("\"}"))
    return fail(Reason::BadInput, "it does not end with a hash");
  const std::string_view body = line.substr(0, line.size() - tail);
  AuditLine out;
  out.hash = std::string(line.substr(line.size() - kHexDigest - 2, kHexDigest));
  if (toHex(sha256(asBytes(body))) != out.hash)
    return fail(Reason::SignatureInvalid, "its contents do not fit its hash: it was altered");
  const Result<nlohmann::json> json = localapi::parseJson(line);
  if (!json || !json->is_object()) return fail(Reason::BadInput, "it is not JSON");
  const auto text = [&](const char* name) {
    const auto found = json->find(name);
    return found != json->end() && found->is_string() ? found->get<std::string>() : std::string{};
  };
  const auto sequence = json->find("seq");
  if (sequence == json->end() || !sequence->is_number_unsigned()) return fail(Reason::BadInput, "it has no number");
  out.sequence = sequence->get<uint64_t>();
  out.previous = text("prev");
  out.event = text("event");
  out.detail = text("detail");
  return out;
}

std::string formatAuditHead(const AuditHead& head) {
  std::string out = fmt::format("{{\"first\":{},\"last\":{},\"hash\":\"{}\"}}", head.first, head.last, head.hash);
  out.resize(kAuditHeadBytes - 1, ' ');
  return out + '\n';
}

std::optional<AuditHead> parseAuditHead(std::string_view text) {
  const Result<nlohmann::json> json = localapi::parseJson(text);
  if (!json || !json->is_object()) return std::nullopt;
  const auto first = json->find("first");
  const auto last = json->find("last");
  const auto hash = json->find("hash");
  if (first == json->end() || !first->is_number_unsigned() || last == json->end() || !last->is_number_unsigned() ||
      hash == json->end() || !hash->is_string())
    return std::nullopt;
  return AuditHead{first->get<uint64_t>(), last->get<uint64_t>(), hash->get<std::string>()};
}

}  // namespace wayleave::broker
