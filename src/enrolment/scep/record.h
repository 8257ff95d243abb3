#pragma once

// What an enrolment by SCEP has reached, on disk before the next step begins. One small file per enrolment.
//
// The challenge is not in it, only the request in which it stands, encrypted for the CA as it goes over the wire: nobody but
// the CA can read it, and it can be sent again after a crash, and for a renewal at a server that wants its challenge again.

#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/result.h"
#include "enrolment/scep/message.h"

namespace wayleave::enrolment::scep {

struct Progress {
  std::string key;        // id at identityd; of the identity in a renewal
  Bytes publicKey;        // SPKI
  std::string url;
  Bytes request;          // EnvelopedData with the certification request
  Bytes recipient;        // SHA-256 of the CA's certificate that it is encrypted to
  bool hasChallenge = false;
  MessageType type = MessageType::PkcsReq;
  std::string transactionId;
  Bytes signer;           // certificate that signs this transaction
  Bytes subject, issuer;  // DER names, for CertPoll
  bool pending = false;
  int polls = 0;
  int64_t nextPoll = 0;   // seconds since the epoch
  std::vector<Bytes> chain;  // issued, not yet bound
};

class Record {
 public:
  // `path` need not exist yet. Errors: Io; BadInput (a file that is not ours: it is reported, never overwritten).
  static Result<Record> open(std::string path);

  const Progress& progress() const { return progress_; }
  Status write(Progress progress);  // atomic, synced
  Status remove();

 private:
  explicit Record(std::string path) : path_(std::move(path)) {}
  std::string path_;
  Progress progress_;
};

}  // namespace wayleave::enrolment::scep
