#include "enrolment/scep/record.h"

#include <unistd.h>

#include <cerrno>

#include "base/file.h"
#include "localapi/identity_json.h"
#include "localapi/json_reader.h"

namespace wayleave::enrolment::scep {
namespace {

// A chain of a few certificates and a request of a few KiB, in base64.
constexpr size_t kMostBytes = 1024 * 1024;

}  // namespace

Result<Record> Record::open(std::string path) {
  Record record(std::move(path));
  const Result<Bytes> bytes = readFile(record.path_, kMostBytes);
  if (!bytes && bytes.error().reason == Reason::NotFound) return record;
  if (!bytes) return withContext(bytes.error(), "the enrolment's record");
  const auto foreign = [&](const Error& error) {
    return fail(Reason::BadInput, record.path_ + " is not the record of an enrolment by SCEP: " + error.message, "move the file away to enrol anew");
  };
  const auto document = localapi::parseJson(asText(*bytes));
  if (!document) return foreign(document.error());
  Progress& p = record.progress_;
  int64_t type = 0, polls = 0;
  localapi::ObjectReader reader(*document, "record");
  reader.text("key", p.key);
  reader.bytes("publicKey", p.publicKey);
  reader.text("url", p.url);
  reader.bytes("request", p.request);
  reader.bytes("recipient", p.recipient);
  reader.boolean("hasChallenge", p.hasChallenge);
  reader.integer("type", type, 0, 255);
  reader.text("transactionId", p.transactionId);
  reader.bytes("signer", p.signer);
  reader.bytes("subject", p.subject);
  reader.bytes("issuer", p.issuer);
  reader.boolean("pending", p.pending);
  reader.integer("polls", polls, 0, 1'000'000);
  reader.integer("nextPoll", p.nextPoll, INT64_MIN, INT64_MAX);
  reader.bytesList("chain", p.chain);
  if (Status read = reader.finish(localapi::ObjectReader::Unknown::Ignore); !read) return foreign(read.error());
  p.type = type == 17 ? MessageType::RenewalReq : MessageType::PkcsReq;
  p.polls = static_cast<int>(polls);
  return record;
}

Status Record::write(Progress p) {
  const nlohmann::json document = {{"key", p.key}, {"publicKey", toBase64(p.publicKey)}, {"url", p.url}, {"request", toBase64(p.request)}, {"recipient", toBase64(p.recipient)},
                                   {"hasChallenge", p.hasChallenge}, {"type", static_cast<int>(p.type)}, {"transactionId", p.transactionId},
                                   {"signer", toBase64(p.signer)}, {"subject", toBase64(p.subject)}, {"issuer", toBase64(p.issuer)},
                                   {"pending", p.pending}, {"polls", p.polls}, {"nextPoll", p.nextPoll},
                                   {"chain", localapi::bytesListJson("chain", p.chain)["chain"]}};
  if (Status written = writeFileAtomically(path_, asBytes(document.dump()), 0600); !written) return withContext(written.error(), "the enrolment's record");
  progress_ = std::move(p);
  return {};
}

Status Record::remove() {
  if (::unlink(path_.c_str()) != 0 && errno != ENOENT) return std::unexpected(errnoError(errno, "remove " + path_));
  progress_ = {};
  return {};
}

}  // namespace wayleave::enrolment::scep
