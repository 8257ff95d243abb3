// The part of TpmSession that asks what TPM this is: capabilities, endorsement key, EK certificates in NV.
//
// TCG EK Credential Profile 2.4: EK certificates lie in NV at fixed indices; the key is persistent at a fixed handle or
// is derived again from a default template. Oddities met in the field: RSA-3072 keys at the RSA-2048 handle (so the
// size is read from the key), certificates that belong to another key (so only matching ones are reported),
// certificates padded to the size of their NV index (so they are cut at their own length), boards without any.

#include <fmt/format.h>
#include <openssl/x509.h>

#include <algorithm>

#include "keys/openssl.h"
#include "keys/tpm/tpm_session.h"

namespace wayleave::keys::tpm {
namespace {

struct EkPlace {
  EkKind kind;
  uint32_t certificateIndex;
  uint32_t persistentHandles[2];
};
// In the order of preference: RSA is what attestation CAs know best.
constexpr EkPlace kEkPlaces[] = {
    {EkKind::Rsa2048, 0x1c00002, {0x81010001, 0x81010012}},
    {EkKind::EcP384, 0x1c00016, {0x81010016, 0}},
    {EkKind::EcP256, 0x1c0000a, {0x81010002, 0x81010014}},
};
constexpr uint32_t kNvEkFirst = 0x1c00000, kNvEkLast = 0x1c07fff;
constexpr bool isEkCertificateIndex(uint32_t index) {
  return index == 0x1c00002 || index == 0x1c0000a || (index >= 0x1c00012 && index <= 0x1c0001e && index % 2 == 0);
}
constexpr size_t kMaxCertificate = 8 * 1024;

std::string trimmed(std::string text) {
  // Vendors pad with NUL or space; anything unprintable would end up in logs and certificates.
  std::erase_if(text, [](char c) { return c < 0x20 || c > 0x7e; });
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

void appendFourCharacters(std::string& out, uint32_t value) {
  for (const int shift : {24, 16, 8, 0}) out.push_back(static_cast<char>(value >> shift & 0xff));
}

bool fits(EkKind kind, const TPMT_PUBLIC& area) {
  switch (kind) {
    case EkKind::Rsa2048: return area.type == TPM2_ALG_RSA;
    case EkKind::EcP256: return area.type == TPM2_ALG_ECC && area.parameters.eccDetail.curveID == TPM2_ECC_NIST_P256;
    case EkKind::EcP384: return area.type == TPM2_ALG_ECC && area.parameters.eccDetail.curveID == TPM2_ECC_NIST_P384;
  }
  return false;
}

std::string kindText(const TPMT_PUBLIC& area) {
  if (area.type == TPM2_ALG_RSA) return fmt::format("RSA {}", area.parameters.rsaDetail.keyBits);
  switch (area.parameters.eccDetail.curveID) {
    case TPM2_ECC_NIST_P256: return "EC P-256";
    case TPM2_ECC_NIST_P384: return "EC P-384";
    case TPM2_ECC_NIST_P521: return "EC P-521";
    default: return fmt::format("EC 0x{:x}", area.parameters.eccDetail.curveID);
  }
}

// The DER certificate at the front of `stored`, if it certifies the key in `spki`. The BIT STRINGs are compared, as
// some makers label RSA keys id-RSAES-OAEP, which OpenSSL does not decode.
std::optional<Bytes> certificateOf(ByteView stored, ByteView spki) {
  const uint8_t* cursor = stored.data();
  const X509Ptr certificate(d2i_X509(nullptr, &cursor, static_cast<long>(stored.size())));
  const uint8_t* keyCursor = spki.data();
  const X509PubkeyPtr key(d2i_X509_PUBKEY(nullptr, &keyCursor, static_cast<long>(spki.size())));
  if (!certificate || !key) {
    (void)opensslError(Reason::BadInput, "EK certificate");
    return std::nullopt;
  }
  const uint8_t* bits = nullptr;
  int length = 0;
  if (X509_PUBKEY_get0_param(nullptr, &bits, &length, nullptr, key.get()) != 1) return std::nullopt;
  const ASN1_BIT_STRING* certified = X509_get0_pubkey_bitstr(certificate.get());
  if (!std::ranges::equal(
          ByteView(bits, static_cast<size_t>(length)),
          ByteView(ASN1_STRING_get0_data(certified), static_cast<size_t>(ASN1_STRING_length(certified)))))
    return std::nullopt;
  return Bytes(stored.data(), cursor);
}

}  // namespace

TpmResult<TpmFacts> TpmSession::facts() {
  return persevere<TpmFacts>([&]() -> TpmResult<TpmFacts> {
    TpmFacts facts;
    std::string vendor[4];
    for (const uint32_t group : {TPM2_PT_FIXED, TPM2_PT_VAR}) {
      auto found = capability(TPM2_CAP_TPM_PROPERTIES, group, TPM2_MAX_TPM_PROPERTIES);
      if (!found) return passOn(found.error());
      for (uint32_t i = 0; i < found->tpmProperties.count; ++i) {
        const auto [property, value] = found->tpmProperties.tpmProperty[i];
        switch (property) {
          case TPM2_PT_MANUFACTURER:
            facts.manufacturerId = value;
            appendFourCharacters(facts.manufacturer, value);
            break;
          case TPM2_PT_VENDOR_STRING_1:
          case TPM2_PT_VENDOR_STRING_2:
          case TPM2_PT_VENDOR_STRING_3:
          case TPM2_PT_VENDOR_STRING_4: appendFourCharacters(vendor[property - TPM2_PT_VENDOR_STRING_1], value); break;
          case TPM2_PT_FIRMWARE_VERSION_1:
            facts.firmwareVersion = fmt::format("{}.{}", value >> 16, value & 0xffff);
            break;
          case TPM2_PT_PERMANENT:
            facts.inLockout = (value & TPMA_PERMANENT_INLOCKOUT) != 0;
            facts.ownerAuthSet = (value & TPMA_PERMANENT_OWNERAUTHSET) != 0;
            break;
          case TPM2_PT_HR_TRANSIENT_AVAIL: facts.transientSlots = value; break;
          case TPM2_PT_LOCKOUT_COUNTER: facts.failedTries = value; break;
          case TPM2_PT_MAX_AUTH_FAIL: facts.maxTries = value; break;
          case TPM2_PT_LOCKOUT_INTERVAL: facts.lockoutInterval = std::chrono::seconds{value}; break;
          case TPM2_PT_LOCKOUT_RECOVERY: facts.lockoutRecovery = std::chrono::seconds{value}; break;
          default: break;  // a TPM has some sixty properties
        }
      }
    }
    facts.manufacturer = trimmed(facts.manufacturer);
    facts.model = trimmed(vendor[0] + vendor[1] + vendor[2] + vendor[3]);

    auto curves = capability(TPM2_CAP_ECC_CURVES, 0, TPM2_MAX_ECC_CURVES);
    if (!curves) return passOn(curves.error());
    for (uint32_t i = 0; i < curves->eccCurves.count; ++i) {
      facts.p256 |= curves->eccCurves.eccCurves[i] == TPM2_ECC_NIST_P256;
      facts.p384 |= curves->eccCurves.eccCurves[i] == TPM2_ECC_NIST_P384;
    }
    auto rsa = capability(TPM2_CAP_ALGS, TPM2_ALG_RSA, 1);
    if (!rsa) return passOn(rsa.error());
    facts.rsa2048 = rsa->algorithms.count == 1 && rsa->algorithms.algProperties[0].alg == TPM2_ALG_RSA;

    auto nv = capability(TPM2_CAP_HANDLES, kNvEkFirst, TPM2_MAX_CAP_HANDLES);
    if (!nv) return passOn(nv.error());
    for (uint32_t i = 0; i < nv->handles.count; ++i)
      if (nv->handles.handle[i] <= kNvEkLast && isEkCertificateIndex(nv->handles.handle[i]))
        facts.ekCertificateIndices.push_back(nv->handles.handle[i]);
    return facts;
  });
}

TpmResult<EndorsementKey> TpmSession::endorsementKey() {
  auto known = facts();
  if (!known) return passOn(known.error());
  return persevere<EndorsementKey>([&]() -> TpmResult<EndorsementKey> {
    auto found = findEk();
    if (!found) return passOn(found.error());
    if (found->persistent != ESYS_TR_NONE) Esys_TR_Close(esys_, &found->persistent);
    EndorsementKey ek;
    ek.publicArea = publicAreaBytes(found->area.publicArea);
    ek.kind = kindText(found->area.publicArea);
    auto spki = spkiOf(found->area.publicArea);
    if (!spki) return passOn(spki.error());
    ek.spki = std::move(*spki);
    for (const uint32_t index : known->ekCertificateIndices) {
      auto stored = readNv(index);
      if (!stored && stored.error().reaction != Reaction::Report) return passOn(stored.error());
      if (!stored) continue;  // a protected or empty index is as good as none
      if (auto certificate = certificateOf(*stored, ek.spki)) ek.certificates.push_back(std::move(*certificate));
    }
    return ek;
  });
}

TpmResult<TpmSession::FoundEk> TpmSession::findEk() {
  if (options_.endorsementKey) return ekOfKind(*options_.endorsementKey);
  auto known = facts();
  if (!known) return passOn(known.error());
  for (const EkPlace& place : kEkPlaces)
    if (std::ranges::count(known->ekCertificateIndices, place.certificateIndex) > 0) return ekOfKind(place.kind);
  return ekOfKind(known->rsa2048 ? EkKind::Rsa2048 : EkKind::EcP256);
}

TpmResult<TpmSession::FoundEk> TpmSession::ekOfKind(EkKind kind) {
  FoundEk found;
  const auto place = std::ranges::find(kEkPlaces, kind, &EkPlace::kind);
  for (const uint32_t handle : place->persistentHandles) {
    if (handle == 0) continue;
    auto object = persistent(handle, fmt::format("find the endorsement key 0x{:x}", handle));
    if (!object && object.error().error.reason == Reason::IdentityLost) continue;  // not there
    if (!object) return passOn(object.error());
    TPM2B_PUBLIC* raw = nullptr;
    const TSS2_RC code =
        Esys_ReadPublic(esys_, *object, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &raw, nullptr, nullptr);
    const EsysPtr<TPM2B_PUBLIC> area(raw);
    if (code == TSS2_RC_SUCCESS && fits(kind, area->publicArea)) {
      found.persistent = *object;
      found.area = *area;
      return found;
    }
    Esys_TR_Close(esys_, &*object);
    if (code != TSS2_RC_SUCCESS) return failTss(code, "read the endorsement key");
  }
  auto primary = usePrimary(ESYS_TR_RH_ENDORSEMENT, endorsementTemplate(kind), "derive the endorsement key");
  if (!primary) return passOn(primary.error());
  TPM2B_PUBLIC* raw = nullptr;
  const TSS2_RC code =
      Esys_ReadPublic(esys_, primary->handle(), ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &raw, nullptr, nullptr);
  const EsysPtr<TPM2B_PUBLIC> area(raw);
  if (code != TSS2_RC_SUCCESS) return failTss(code, "read the endorsement key");
  found.primary = kind;
  found.area = *area;
  return found;
}

TpmResult<Bytes> TpmSession::readNv(uint32_t index) {
  const std::string what = fmt::format("read NV index 0x{:x}", index);
  auto object = persistent(index, what);
  if (!object) return passOn(object.error());
  struct Close {
    ESYS_CONTEXT* esys;
    ESYS_TR* object;
    ~Close() { Esys_TR_Close(esys, object); }
  } close{esys_, &*object};

  TPM2B_NV_PUBLIC* rawArea = nullptr;
  TSS2_RC code = Esys_NV_ReadPublic(esys_, *object, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &rawArea, nullptr);
  const EsysPtr<TPM2B_NV_PUBLIC> area(rawArea);
  if (code != TSS2_RC_SUCCESS) return failTss(code, what);
  const size_t size = area->nvPublic.dataSize;
  if (size == 0 || size > kMaxCertificate) return failTpm(Reason::BadInput, what + ": not the size of a certificate");
  const bool byItself = (area->nvPublic.attributes & TPMA_NV_AUTHREAD) != 0;

  // 512 is the least any TPM allows per read; a certificate takes two or three.
  constexpr size_t kChunk = 512;
  Bytes out;
  while (out.size() < size) {
    TPM2B_MAX_NV_BUFFER* raw = nullptr;
    const auto wanted = static_cast<UINT16>(std::min(kChunk, size - out.size()));
    code = Esys_NV_Read(esys_, byItself ? *object : ESYS_TR_RH_OWNER, *object, ESYS_TR_PASSWORD, ESYS_TR_NONE,
                        ESYS_TR_NONE, wanted, static_cast<UINT16>(out.size()), &raw);
    const EsysPtr<TPM2B_MAX_NV_BUFFER> chunk(raw);
    if (code != TSS2_RC_SUCCESS) return failTss(code, what);
    if (chunk->size == 0) return failTpm(Reason::BadInput, what + ": empty answer");
    append(out, viewOf(*chunk));
  }
  return out;
}

}  // namespace wayleave::keys::tpm
