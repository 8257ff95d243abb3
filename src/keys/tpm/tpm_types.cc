#include "keys/tpm/tpm_types.h"

#include <algorithm>

namespace wayleave::keys::tpm {
namespace {

constexpr std::string_view kMagic = "wayleave-ak-1\n";
constexpr size_t kMaxField = 8 * 1024;

void appendField(Bytes& out, ByteView field) {
  appendU32(out, static_cast<uint32_t>(field.size()));
  append(out, field);
}

Result<Bytes> takeField(ByteView& rest) {
  if (rest.size() < 4) return fail(Reason::BadInput, "stored attestation key is cut short");
  const size_t length = readU32(rest);
  rest = rest.subspan(4);
  if (length > rest.size() || length > kMaxField) return fail(Reason::BadInput, "stored attestation key is cut short");
  Bytes field = toBytes(rest.first(length));
  rest = rest.subspan(length);
  return field;
}

}  // namespace

Status compareStorageRoot(ByteView recordedName, const StorageRoot& now) {
  if (recordedName.empty() || std::ranges::equal(recordedName, now.name)) return {};
  return fail(Reason::IdentityLost,
              "the TPM's storage root key is not the one our keys were made under: the TPM was cleared, or this is "
              "another machine's state",
              "enrol the device again; the endorsement key, and so the device's place in the inventory, is kept by a "
              "cleared TPM");
}

std::string EndorsementKey::publicKeyHash() const { return toHex(sha256(spki)); }

Bytes AttestationKey::encode() const {
  Bytes out = toBytes(kMagic);
  appendU32(out, key.parent);
  for (const Bytes* field : {&key.publicArea, &key.privateBlob, &createData, &createAttestation, &createSignature})
    appendField(out, *field);
  return out;
}

Result<AttestationKey> AttestationKey::decode(ByteView bytes) {
  if (!asText(bytes).starts_with(kMagic)) return fail(Reason::BadInput, "not a stored attestation key");
  ByteView rest = bytes.subspan(kMagic.size());
  if (rest.size() < 4) return fail(Reason::BadInput, "stored attestation key is cut short");
  AttestationKey ak;
  ak.key.parent = readU32(rest);
  rest = rest.subspan(4);
  for (Bytes* field :
       {&ak.key.publicArea, &ak.key.privateBlob, &ak.createData, &ak.createAttestation, &ak.createSignature}) {
    auto taken = takeField(rest);
    if (!taken) return propagate(taken.error());
    *field = std::move(*taken);
  }
  if (!rest.empty()) return fail(Reason::BadInput, "stored attestation key has bytes left over");
  return ak;
}

}  // namespace wayleave::keys::tpm
