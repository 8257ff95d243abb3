// The part of TpmSession that vouches: certification of a key by the attestation key, and the proof to an attestation
// CA that its credential reached the TPM with this endorsement key (TPM 2.0 Library, part 1, sections 24 and 31).

#include <fmt/format.h>

#include "keys/tpm/tpm_session.h"

namespace wayleave::keys::tpm {

TpmResult<Certification> TpmSession::certify(const KeyBlob& key, const KeyBlob& attestationKey,
                                             ByteView qualifyingData) {
  auto qualifying = sizedBuffer<TPM2B_DATA>(qualifyingData, "qualifying data");
  if (!qualifying) return passOn(qualifying.error());
  return persevere<Certification>([&]() -> TpmResult<Certification> {
    auto ak = use(attestationKey);
    if (!ak) return passOn(ak.error());
    auto object = use(key);
    if (!object) return passOn(object.error());
    TPMT_SIG_SCHEME scheme{};
    scheme.scheme = TPM2_ALG_NULL;  // the attestation key's own: a restricted key takes no other
    TPM2B_ATTEST* rawAttest = nullptr;
    TPMT_SIGNATURE* rawSignature = nullptr;
    const TSS2_RC code = Esys_Certify(esys_, object->handle(), ak->handle(), ESYS_TR_PASSWORD, ESYS_TR_PASSWORD,
                                      ESYS_TR_NONE, &*qualifying, &scheme, &rawAttest, &rawSignature);
    const EsysPtr<TPM2B_ATTEST> attest(rawAttest);
    const EsysPtr<TPMT_SIGNATURE> signature(rawSignature);
    if (code != TSS2_RC_SUCCESS) return failTss(code, "certify a key with the attestation key");
    return Certification{toBytes(ByteView(attest->attestationData, attest->size)),
                         marshal<Tss2_MU_TPMT_SIGNATURE_Marshal>(*signature), key.publicArea,
                         signature->sigAlg == TPM2_ALG_RSASSA ? kCoseRs256 : kCoseEs256};
  });
}

TpmResult<Bytes> TpmSession::activateCredential(const KeyBlob& attestationKey, ByteView credential, ByteView secret) {
  auto idObject = unmarshal<Tss2_MU_TPM2B_ID_OBJECT_Unmarshal, TPM2B_ID_OBJECT>(credential, "credential");
  if (!idObject) return passOn(idObject.error());
  auto encrypted = unmarshal<Tss2_MU_TPM2B_ENCRYPTED_SECRET_Unmarshal, TPM2B_ENCRYPTED_SECRET>(secret, "secret");
  if (!encrypted) return passOn(encrypted.error());
  return persevere<Bytes>([&]() -> TpmResult<Bytes> {
    auto found = findEk();
    if (!found) return passOn(found.error());
    auto ak = use(attestationKey);
    if (!ak) return passOn(ak.error());
    std::optional<Use> primary;
    ESYS_TR ek = found->persistent;
    if (found->primary) {
      auto made =
          usePrimary(ESYS_TR_RH_ENDORSEMENT, endorsementTemplate(*found->primary), "derive the endorsement key");
      if (!made) return passOn(made.error());
      primary.emplace(std::move(*made));
      ek = primary->handle();
    } else {
      makeRoom(1);
    }
    auto session = policySessionFor(found->area.publicArea);
    if (!session) {
      if (!primary) Esys_TR_Close(esys_, &ek);
      return passOn(session.error());
    }
    TPM2B_DIGEST* raw = nullptr;
    const TSS2_RC code = Esys_ActivateCredential(esys_, ak->handle(), ek, ESYS_TR_PASSWORD, *session, ESYS_TR_NONE,
                                                 &*idObject, &*encrypted, &raw);
    const EsysPtr<TPM2B_DIGEST> opened(raw);
    const bool stillWorks =
        code == TSS2_RC_SUCCESS || Esys_ReadPublic(esys_, ak->handle(), ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                                   nullptr, nullptr, nullptr) == TSS2_RC_SUCCESS;
    // A policy session is used up by a success and kept by a failure.
    if (*session != ESYS_TR_PASSWORD) Esys_FlushContext(esys_, *session);
    if (!primary) Esys_TR_Close(esys_, &ek);
    if (code != TSS2_RC_SUCCESS) {
      TpmFailure failure = tssFailure(code, "activate the attestation CA's credential");
      // All keys are loaded by now, so a failed integrity check is the credential's. libtpms answers FAILURE to a
      // credential for another RSA key, and goes on working.
      const bool mismatch = failure.error.reason == Reason::IdentityLost || (code == TPM2_RC_FAILURE && stillWorks);
      if (mismatch) {
        failure.error =
            Error{Reason::KeyMismatch,
                  fmt::format("the attestation CA's credential does not open with our keys (0x{:x})", code),
                  "it was made for another endorsement or attestation key: compare the EK with its certificate"};
      }
      return passOn(std::move(failure));
    }
    return toBytes(viewOf(*opened));
  });
}

TpmResult<ESYS_TR> TpmSession::policySessionFor(const TPMT_PUBLIC& ek) {
  // The profile's high-range keys may be used with their (empty) authorisation value.
  if (ek.objectAttributes & TPMA_OBJECT_USERWITHAUTH) return ESYS_TR_PASSWORD;
  TPMT_SYM_DEF noEncryption{};
  noEncryption.algorithm = TPM2_ALG_NULL;
  ESYS_TR session = ESYS_TR_NONE;
  TSS2_RC code = Esys_StartAuthSession(esys_, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                       nullptr, TPM2_SE_POLICY, &noEncryption, ek.nameAlg, &session);
  if (code != TSS2_RC_SUCCESS) return failTss(code, "start a policy session");
  code = Esys_PolicySecret(esys_, ESYS_TR_RH_ENDORSEMENT, session, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE,
                           nullptr, nullptr, nullptr, 0, nullptr, nullptr);
  if (code != TSS2_RC_SUCCESS) {
    Esys_FlushContext(esys_, session);
    return failTss(code, "authorise the endorsement hierarchy");
  }
  return session;
}

}  // namespace wayleave::keys::tpm
