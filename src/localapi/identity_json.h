#pragma once

// The JSON of identityd's local API, both ways, shared by the client and the server so that they cannot disagree.
// Members are named as the fields of identity_client.h; bytes are standard base64. What stands in the path (the
// installation, a key's or an identity's id) does not stand in the body. Requests are strict (an unknown member is an
// error that names it); answers may carry members a newer daemon added.

#include <chrono>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "localapi/identity_client.h"

namespace wayleave::localapi {

// Bodies of requests that have no struct of their own.
struct TlsSignBody {
  TlsSignRequest request;
  std::chrono::milliseconds deadline{0};  // from now; 0..600000
};
struct MessageSignBody {
  Bytes reference;
  std::string scheme;
  Bytes message;
  std::chrono::milliseconds deadline{0};
};
struct CertificationRequestBody {
  std::string scheme;
  Bytes certificationRequestInfo;
};
struct CredentialBody {
  Bytes credential, secret;
};

nlohmann::json toJson(const IdentityInfo& identity);
nlohmann::json toJson(const TlsSignBody& body);
nlohmann::json toJson(const MessageSignBody& body);
// The password stands in the result in base64: wipe what you make of it (wipeText).
nlohmann::json toJson(const ImportRequest& request);
nlohmann::json toJson(const KeyRequest& request);
nlohmann::json toJson(const KeyInfo& key);
nlohmann::json toJson(const KeyAttestation& attestation);
nlohmann::json toJson(const OpenedReply& reply);
nlohmann::json toJson(const BindRequest& request);
nlohmann::json toJson(const CertificationRequestBody& body);
nlohmann::json toJson(const CredentialBody& body);
nlohmann::json toJson(const AkEnrolment& enrolment);
nlohmann::json toJson(const IdentityEvent& event);
nlohmann::json toJson(const std::vector<DeclaredApplication>& applications);  // {"applications":[…]}
// {"<name>": "<base64>"}: signatures, secrets, references, qualifying data.
nlohmann::json bytesJson(const char* name, ByteView bytes);
// {"<name>": ["<base64>", …]} and {"<name>": ["…", …]}.
nlohmann::json bytesListJson(const char* name, const std::vector<Bytes>& list);
nlohmann::json textsJson(const char* name, const std::vector<std::string>& list);

// Errors of all: BadInput with the member's path.
Result<IdentityInfo> identityInfoFromJson(const nlohmann::json& value);
Result<std::vector<IdentityInfo>> identitiesFromJson(const nlohmann::json& value);  // {"identities":[…]}
Result<TlsSignBody> tlsSignBodyFromJson(const nlohmann::json& value);
Result<MessageSignBody> messageSignBodyFromJson(const nlohmann::json& value);
Result<ImportRequest> importRequestFromJson(const nlohmann::json& value, std::string installation);
Result<KeyRequest> keyRequestFromJson(const nlohmann::json& value, std::string installation);
Result<KeyInfo> keyInfoFromJson(const nlohmann::json& value);
Result<KeyAttestation> keyAttestationFromJson(const nlohmann::json& value);
Result<OpenedReply> openedReplyFromJson(const nlohmann::json& value);
Result<BindRequest> bindRequestFromJson(const nlohmann::json& value, std::string installation);
Result<CertificationRequestBody> certificationRequestBodyFromJson(const nlohmann::json& value);
Result<CredentialBody> credentialBodyFromJson(const nlohmann::json& value);
Result<AkEnrolment> akEnrolmentFromJson(const nlohmann::json& value);
Result<IdentityEvent> identityEventFromJson(const nlohmann::json& value);
Result<std::vector<DeclaredApplication>> applicationsFromJson(const nlohmann::json& value);
Result<Bytes> bytesFromJson(const nlohmann::json& value, const char* name);
Result<std::vector<Bytes>> bytesListFromJson(const nlohmann::json& value, const char* name);
Result<std::vector<std::string>> textsFromJson(const nlohmann::json& value, const char* name);

// Overwrites a string that held a secret before it is freed.
void wipeText(std::string& text);

}  // namespace wayleave::localapi
