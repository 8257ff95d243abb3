// Everything of this folder that parses bytes: key files, the stored attestation key, attestation statements, AK
// certificates. The first byte picks the parser; statements take four length-prefixed parts.

#include <array>

#include "keys/tpm/attestation_check.h"
#include "keys/tpm/tpm_types.h"
#include "keys/tpm/wire.h"

using namespace wayleave;
using namespace wayleave::keys::tpm;

namespace {

Bytes takePart(ByteView& rest) {
  if (rest.size() < 2) return {};
  const size_t length = std::min<size_t>(static_cast<size_t>(rest[0] << 8 | rest[1]), rest.size() - 2);
  Bytes part = toBytes(rest.subspan(2, length));
  rest = rest.subspan(2 + length);
  return part;
}

void must(bool holds) {
  if (!holds) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  ByteView rest(data + 1, size - 1);
  switch (data[0] % 5) {
    case 0:
      if (const auto key = decodeTss2Pem(asText(rest)))
        must(decodeTss2Pem(encodeTss2Pem(*key).value()).value() == *key);
      break;
    case 1:
      if (const auto ak = AttestationKey::decode(rest)) must(ak->encode() == toBytes(rest));
      break;
    case 2: {
      AttestationStatement statement;
      statement.akChain.push_back(takePart(rest));
      statement.certifyInfo = takePart(rest);
      statement.signature = takePart(rest);
      statement.publicArea = takePart(rest);
      (void)validateAttestation(statement, {Bytes(32), "device-1", Wall{std::chrono::seconds{1'800'000'000}}});
      break;
    }
    case 3: (void)checkAkCertificate(rest, "device-1", Wall{std::chrono::seconds{1'800'000'000}}); break;
    case 4: {
      std::array<Bytes, 4> parts;
      for (Bytes& part : parts) part = takePart(rest);
      (void)validateAttestationKey(parts[0], parts[1], parts[2], parts[3]);
      if (const auto area = parsePublicArea(parts[0])) (void)spkiOf(*area);
      break;
    }
  }
  return 0;
}
