#pragma once

// The pkiMessage that a SCEP client sends (RFC 8894 section 3): SignedData( EnvelopedData( payload ) ), built here and
// signed elsewhere. identityd looks at the signed attributes before it signs them, so both sides of their shape are here.

#include <openssl/x509.h>

#include <string>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/result.h"

namespace wayleave::enrolment::scep {

enum class MessageType : uint8_t { CertRep = 3, RenewalReq = 17, PkcsReq = 19, CertPoll = 20 };

// Under 2.16.840.1.113733.1.9, as dotted OIDs.
inline constexpr const char* kMessageType = "2.16.840.1.113733.1.9.2";
inline constexpr const char* kPkiStatus = "2.16.840.1.113733.1.9.3";
inline constexpr const char* kFailInfo = "2.16.840.1.113733.1.9.4";
inline constexpr const char* kSenderNonce = "2.16.840.1.113733.1.9.5";
inline constexpr const char* kRecipientNonce = "2.16.840.1.113733.1.9.6";
inline constexpr const char* kTransactionId = "2.16.840.1.113733.1.9.7";
inline constexpr size_t kNonceBytes = 16;

struct Attributes {
  MessageType type = MessageType::PkcsReq;
  std::string transactionId;  // PrintableString, at most 128 characters
  Bytes senderNonce;          // kNonceBytes
};

// DER of the SET OF signed attributes over `content`: what is signed, with PKCS #1 and SHA-256.
Bytes signedAttributes(const Attributes& attributes, ByteView content);
// Exactly those attributes, each once, of a client's message. Errors: BadInput naming what is wrong.
Status checkSignedAttributes(ByteView der);

// The complete message. `signer`: DER of the certificate whose key made `signature` over `attributes`. Errors: BadInput (signer).
Result<Bytes> assembleMessage(ByteView content, ByteView signer, ByteView attributes, ByteView signature);

// EnvelopedData of `payload` for the CA, with AES-128 or 3DES in CBC mode. Errors: Unsupported (not an RSA key), Internal.
Result<Bytes> sealFor(X509* recipient, ByteView payload, bool aes);

// IssuerAndSubject (section 3.3.3), the payload of a CertPoll; both DER names.
Bytes issuerAndSubject(ByteView issuer, ByteView subject);

// The self-signed certificate by which a requester without one signs its first request (section 2.3): subject and key of the
// request, digitalSignature and keyEncipherment, for 30 days (as long as a CA may leave a request pending).
class RequesterCertificate {
 public:
  // Errors: BadInput (name, key).
  static Result<RequesterCertificate> make(ByteView subjectName, ByteView spki, Wall now);
  const Bytes& info() const { return info_; }         // the to-be-signed part
  Bytes complete(ByteView signature) const;  // PKCS #1 with SHA-256 over info()

 private:
  explicit RequesterCertificate(Bytes info) : info_(std::move(info)) {}
  Bytes info_;
};

}  // namespace wayleave::enrolment::scep
