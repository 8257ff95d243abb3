#include "enrolment/attestation_object.h"

#include <nlohmann/json.hpp>

namespace wayleave::enrolment {

Bytes tpmAttestationObject(const localapi::KeyAttestation& attestation) {
  // ordered_json: the plain type sorts its keys and would write attStmt before fmt.
  using Cbor = nlohmann::ordered_json;
  Cbor chain = Cbor::array();
  for (const Bytes& certificate : attestation.akChain) chain.push_back(Cbor::binary(certificate));
  Cbor statement;
  statement["alg"] = attestation.algorithm;
  statement["sig"] = Cbor::binary(attestation.signature);
  statement["ver"] = "2.0";
  statement["x5c"] = std::move(chain);
  statement["pubArea"] = Cbor::binary(attestation.publicArea);
  statement["certInfo"] = Cbor::binary(attestation.certifyInfo);
  Cbor object;
  object["fmt"] = "tpm";
  object["attStmt"] = std::move(statement);
  return Cbor::to_cbor(object);
}

}  // namespace wayleave::enrolment
