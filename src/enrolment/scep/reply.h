#pragma once

// Reads a CertRep (RFC 8894 section 3.3.2): its signature, whether it answers what we asked, and what it says.

#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "enrolment/scep/authority.h"
#include "enrolment/scep/message.h"

namespace wayleave::enrolment::scep {

struct Reply {
  enum class Status : uint8_t { Success, Failure, Pending };
  Status status = Status::Failure;
  Bytes envelope;                // Success: EnvelopedData with the certificates, for our key
  std::optional<Error> failure;  // Failure: failInfo as a sentence, with the server's own text where it sent one
  std::vector<std::string> warnings;
};

// `asked`: the request it must answer. Errors: BadInput (not a CertRep), SignatureInvalid, Untrusted (signed by nobody that
// GetCACert named), ServerError (another transaction, another nonce, a status that does not exist).
Result<Reply> readReply(ByteView der, const Authority& authority, const Attributes& asked);

// failInfo as a sentence. Reasons: Unsupported (badAlg), SignatureInvalid (badMessageCheck), NotEntitled (badRequest), Conflict
// (badTime), NotFound (badCertId), ServerError (others).
Error failureOf(std::string_view failInfo, std::string_view serverText);

}  // namespace wayleave::enrolment::scep
