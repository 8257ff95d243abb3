// What a SCEP server or somebody in its place may send: answers to PKIOperation, GetCACert and GetCACaps; and what
// managementd may send to identityd: signed attributes and envelopes. The first octet chooses.

#include <openssl/rsa.h>

#include "enrolment/scep/reply.h"
#include "keys/envelope.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wayleave;
  using namespace wayleave::enrolment::scep;
  if (size == 0) return 0;
  const ByteView input(data + 1, size - 1);
  static EVP_PKEY* const key = EVP_RSA_gen(2048);
  switch (data[0] % 5) {
    case 0: {
      static const Authority nobody;
      (void)readReply(input, nobody, {MessageType::PkcsReq, "T", Bytes(16, 0)});
      break;
    }
    case 1:
      if (const auto list = readCertificates(input)) (void)judgeAuthority(*list, {"https://ca", {}, {}, true});
      break;
    case 2: (void)parseCapabilities(asText(input)); break;
    case 3: (void)checkSignedAttributes(input); break;
    case 4: (void)keys::openEnvelope(key, input); break;
    default: break;
  }
  return 0;
}
