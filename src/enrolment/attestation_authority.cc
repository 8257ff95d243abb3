#include "enrolment/attestation_authority.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace wayleave::enrolment {
namespace {

using nlohmann::json;

constexpr size_t kMaxChain = 8;

Result<json> exchange(Http& http, const std::string& url, const json& request) {
  const auto answer = http.send({"POST", url, toBytes(request.dump()), "application/json", {}});
  if (!answer) return withContext(answer.error(), "the attestation CA");
  json body = json::parse(answer->body.begin(), answer->body.end(), nullptr, false);
  // Named after its server: attezt refuses with HTTP 200 and a line of plain text, or nothing at all.
  if (!body.is_object() || answer->status < 200 || answer->status > 299) {
    std::string why = body.is_object() && body.contains("error") && body["error"].is_string() ? body["error"].get<std::string>()
                                                                                              : std::string(asText(answer->body).substr(0, 200));
    if (answer->status >= 500) return fail(Reason::ServerError, fmt::format("the attestation CA answers HTTP {}: {}", answer->status, why));
    return fail(Reason::AttestationRefused, fmt::format("the attestation CA refuses (HTTP {}): {}", answer->status, why),
                "its administrator must trust this machine's endorsement key; `wayleave doctor` shows the key's hash");
  }
  return body;
}

Result<Bytes> bytesMember(const json& object, const char* name) {
  if (!object.contains(name) || !object[name].is_string()) return fail(Reason::ServerError, fmt::format("the attestation CA's answer has no {}", name));
  auto bytes = fromBase64(object[name].get_ref<const std::string&>());
  if (!bytes) return withContext(bytes.error(), fmt::format("the attestation CA's {}", name));
  return bytes;
}

}  // namespace

Status enrolAttestationKey(localapi::IdentityAgent& agent, Http& http, const std::string& baseUrl) {
  const auto start = agent.beginAkEnrolment();
  if (!start) return withContext(start.error(), "the attestation key");
  if (start->chainValid) return {};
  json certificates = json::array();
  for (const Bytes& certificate : start->ekCertificates) certificates.push_back(toBase64(certificate));
  const json request = {
      {"tpmInfo", {{"version", 2}, {"manufacturer", start->manufacturer}, {"model", start->model}, {"firmwareVersion", start->firmwareVersion}}},
      {"ek", toBase64(start->ek)},
      {"ekCerts", certificates},
      {"params",
       {{"public", toBase64(start->akPublic)},
        {"createData", toBase64(start->createData)},
        {"createAttestation", toBase64(start->createAttestation)},
        {"createSignature", toBase64(start->createSignature)}}}};
  const auto credential = exchange(http, baseUrl + "/attest", request);
  if (!credential) return propagate(credential.error());
  const auto identity = bytesMember(*credential, "credential");
  if (!identity) return propagate(identity.error());
  const auto encrypted = bytesMember(*credential, "secret");
  if (!encrypted) return propagate(encrypted.error());

  const auto secret = agent.activateCredential(*identity, *encrypted);
  if (!secret) return withContext(secret.error(), "activate the attestation CA's credential");
  const auto issued = exchange(http, baseUrl + "/secret", {{"secret", toBase64(*secret)}});
  if (!issued) return propagate(issued.error());
  if (!issued->contains("chain") || !(*issued)["chain"].is_array() || (*issued)["chain"].empty() || (*issued)["chain"].size() > kMaxChain)
    return fail(Reason::ServerError, "the attestation CA's answer has no chain");
  std::vector<Bytes> chain;
  for (const json& entry : (*issued)["chain"]) {
    if (!entry.is_string()) return fail(Reason::ServerError, "the attestation CA's chain holds something that is no certificate");
    auto der = fromBase64(entry.get_ref<const std::string&>());
    if (!der) return withContext(der.error(), "the attestation CA's chain");
    chain.push_back(std::move(*der));
  }
  return agent.storeAkChain(chain);
}

}  // namespace wayleave::enrolment
