// Any sequence of calls with any arguments, against a canned agent: no crash, no sanitizer report, no memory written that the
// caller did not offer. Templates and mechanisms are built by the rules of C (a pointer and its true length, or a null pointer with
// any length): a lying pointer is the host's crash, not ours.

#include <cstring>

#include "localapi/identity_client.h"
#include "pkcs11/identityd_test_support.h"
#include "pkcs11/module.h"

extern "C" CK_RV C_GetFunctionList(CK_FUNCTION_LIST** list);

namespace {

using namespace wayleave;
using namespace wayleave::pkcs11;

class CannedAgent final : public localapi::IdentityAgent {
 public:
  explicit CannedAgent(std::vector<test::TestIdentity>& identities) : identities_(identities) {}

  Result<std::vector<localapi::IdentityInfo>> list() override {
    std::vector<localapi::IdentityInfo> out;
    for (const test::TestIdentity& identity : identities_) out.push_back(identity.info);
    return out;
  }
  Result<localapi::IdentityInfo> show(std::string_view id) override {
    for (const test::TestIdentity& identity : identities_)
      if (identity.info.id == id) return identity.info;
    return fail(Reason::NotFound, "");
  }
  Result<localapi::IdentityInfo> resolve(ByteView) override { return no(); }
  // Signatures of the right and of the wrong form, and refusals.
  Result<Bytes> signTls(const localapi::TlsSignRequest& request, Steady) override { return answer(request.reference, request.content); }
  Result<Bytes> signMessage(ByteView reference, std::string_view, ByteView message, Steady) override { return answer(reference, message); }

  Status beginInstallation(std::string_view) override { return no(); }
  Result<localapi::IdentityInfo> importPkcs12(localapi::ImportRequest) override { return no(); }
  Result<localapi::KeyInfo> createKey(const localapi::KeyRequest&) override { return no(); }
  Result<localapi::KeyAttestation> attestKey(std::string_view, ByteView) override { return no(); }
  Result<Bytes> signCertificationRequest(std::string_view, std::string_view, ByteView) override { return no(); }
  Result<localapi::IdentityInfo> bindCertificate(const localapi::BindRequest&) override { return no(); }
  Result<localapi::IdentityInfo> renewCertificate(std::string_view, const std::vector<Bytes>&) override { return no(); }
  Status commitInstallation(std::string_view, const std::vector<std::string>&) override { return no(); }
  Status abortInstallation(std::string_view) override { return no(); }
  Status removeProfileIdentities(std::string_view) override { return no(); }
  Result<std::vector<std::string>> pendingInstallations() override { return no(); }
  Result<localapi::AkEnrolment> beginAkEnrolment() override { return no(); }
  Result<Bytes> activateCredential(ByteView, ByteView) override { return no(); }
  Status storeAkChain(const std::vector<Bytes>&) override { return no(); }

 private:
  static std::unexpected<Error> no() { return fail(Reason::Unsupported, ""); }
  static Result<Bytes> answer(ByteView reference, ByteView content) {
    switch (content.empty() ? 0 : content[0] % 5) {
      case 0: return Bytes{0x30, 0x06, 0x02, 0x01, 0x05, 0x02, 0x01, 0x07};
      case 1: return Bytes(256, 7);
      case 2: return toBytes(reference);
      case 3: return fail(Reason::NotEntitled, "");
      default: return fail(Reason::DeadlineExceeded, "");
    }
  }
  std::vector<test::TestIdentity>& identities_;
};

class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(data, size) {}
  bool empty() const { return rest_.empty(); }
  uint8_t byte() {
    if (rest_.empty()) return 0;
    const uint8_t out = rest_[0];
    rest_ = rest_.subspan(1);
    return out;
  }
  CK_ULONG number() {  // mostly small, sometimes anything
    const uint8_t first = byte();
    if (first < 240) return first;
    CK_ULONG out = 0;
    for (int n = 0; n < 8; ++n) out = out << 8 | byte();
    return out;
  }
  Bytes bytes(size_t most) {
    const size_t size = std::min({size_t{byte()}, most, rest_.size()});
    Bytes out = toBytes(rest_.first(size));
    rest_ = rest_.subspan(size);
    return out;
  }

 private:
  ByteView rest_;
};

constexpr CK_ATTRIBUTE_TYPE kAttributes[] = {CKA_CLASS, CKA_ID, CKA_LABEL, CKA_VALUE, CKA_SUBJECT, CKA_MODULUS, CKA_EC_POINT,
                                             CKA_PRIVATE_EXPONENT, CKA_ALLOWED_MECHANISMS, CKA_TOKEN, CKA_SIGN, CKA_CERTIFICATE_TYPE};

void run(CK_FUNCTION_LIST& f, Input& in) {
  CK_SESSION_HANDLE session = 1;
  while (!in.empty()) {
    Bytes buffer = in.byte() & 1 ? Bytes(in.number() % 700) : Bytes{};
    CK_BYTE* const out = buffer.empty() ? nullptr : buffer.data();
    CK_ULONG length = out != nullptr ? buffer.size() : in.number();
    const CK_SESSION_HANDLE handle = in.byte() < 230 ? session : in.number();
    switch (in.byte() % 18) {
      case 0: {
        CK_SESSION_HANDLE opened = 0;
        if (f.C_OpenSession(in.number() % 3, in.number(), nullptr, nullptr, &opened) == CKR_OK) session = opened;
        break;
      }
      case 1: (void)f.C_CloseSession(handle); break;
      case 2: (void)f.C_CloseAllSessions(in.number() % 3); break;
      case 3: {
        std::vector<Bytes> values;
        std::vector<CK_ATTRIBUTE> wanted;
        for (int n = in.byte() % 4; n > 0; --n) {
          values.push_back(in.bytes(64));
          const CK_ATTRIBUTE_TYPE type = in.byte() < 200 ? kAttributes[in.byte() % std::size(kAttributes)] : in.number();
          wanted.push_back({type, nullptr, values.back().size()});
        }
        for (size_t n = 0; n < values.size(); ++n)
          if (in.byte() & 3) wanted[n].pValue = values[n].data();
        (void)f.C_FindObjectsInit(handle, wanted.data(), wanted.size());
        break;
      }
      case 4: {
        std::vector<CK_OBJECT_HANDLE> found(in.byte() % 20);
        CK_ULONG count = 0;
        (void)f.C_FindObjects(handle, found.data(), found.size(), &count);
        break;
      }
      case 5: (void)f.C_FindObjectsFinal(handle); break;
      case 6: {
        std::vector<Bytes> values;
        std::vector<CK_ATTRIBUTE> wanted;
        for (int n = in.byte() % 6; n > 0; --n) {
          values.emplace_back(in.number() % 600);
          const CK_ATTRIBUTE_TYPE type = in.byte() < 200 ? kAttributes[in.byte() % std::size(kAttributes)] : in.number();
          wanted.push_back({type, nullptr, 0});
        }
        for (size_t n = 0; n < values.size(); ++n) {
          wanted[n].pValue = values[n].empty() ? nullptr : values[n].data();
          wanted[n].ulValueLen = values[n].empty() ? in.number() : values[n].size();
        }
        (void)f.C_GetAttributeValue(handle, in.number() % 40, wanted.data(), wanted.size());
        break;
      }
      case 7:
      case 8: {
        Bytes parameters = in.bytes(64);
        CK_RSA_PKCS_PSS_PARAMS pss{0x250 + (in.byte() % 3) * 0x10u, in.byte() % 6u, 32 + in.byte() % 3 * 16u};
        CK_MECHANISM mechanism{in.byte() < 200 ? pkcs11::mechanisms()[in.byte() % pkcs11::mechanisms().size()] : in.number(), nullptr, 0};
        if (in.byte() & 1) mechanism = {mechanism.mechanism, &pss, sizeof(pss)};
        if (in.byte() % 8 == 0) mechanism = {mechanism.mechanism, parameters.data(), parameters.size()};
        (void)f.C_SignInit(handle, &mechanism, in.number() % 40);
        break;
      }
      case 9:
      case 10: {
        Bytes data = in.bytes(200);
        (void)f.C_Sign(handle, data.data(), data.size(), out, &length);
        break;
      }
      case 11: {
        Bytes data = in.bytes(200);
        (void)f.C_SignUpdate(handle, data.data(), data.size());
        break;
      }
      case 12: (void)f.C_SignFinal(handle, out, &length); break;
      case 13: {
        CK_SLOT_ID slots[3];
        CK_ULONG count = in.byte() % 4;
        (void)f.C_GetSlotList(in.byte() & 1, in.byte() & 1 ? slots : nullptr, &count);
        break;
      }
      case 14: {
        CK_TOKEN_INFO token;
        CK_SLOT_INFO slot;
        (void)f.C_GetTokenInfo(in.number(), &token);
        (void)f.C_GetSlotInfo(in.number(), &slot);
        break;
      }
      case 15: {
        CK_MECHANISM_INFO info;
        (void)f.C_GetMechanismInfo(in.number() % 3, in.number(), &info);
        CK_MECHANISM_TYPE types[12];
        CK_ULONG count = in.byte() % 13;
        (void)f.C_GetMechanismList(in.number() % 3, in.byte() & 1 ? types : nullptr, &count);
        break;
      }
      case 16: {
        CK_SESSION_INFO info;
        (void)f.C_GetSessionInfo(handle, &info);
        (void)f.C_Login(handle, in.byte() % 4, nullptr, 0);
        (void)f.C_Logout(handle);
        break;
      }
      default: {
        CK_ULONG size = 0;
        (void)f.C_GetObjectSize(handle, in.number() % 40, &size);
        (void)f.C_WaitForSlotEvent(in.number(), &size, nullptr);
        break;
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static std::vector<test::TestIdentity>* const identities = [] {
    auto* made = new std::vector<test::TestIdentity>;
    const test::PkeyPtr authority(EVP_EC_gen("P-256"));
    const test::X509Ptr root = test::certify(authority.get(), "CA", nullptr, authority.get(), 1);
    made->push_back(test::makeIdentity(test::PkeyPtr(EVP_EC_gen("P-256")), "a", "data-protection", "acme", root.get(), authority.get()));
    made->push_back(test::makeIdentity(test::PkeyPtr(EVP_EC_gen("P-521")), "b", "file", "scep", root.get(), authority.get()));
    made->push_back(test::makeIdentity(test::PkeyPtr(EVP_RSA_gen(2048)), "c", "file", "pkcs12", root.get(), authority.get()));
    wayleave::pkcs11::agentMaker() = [made] { return std::make_unique<CannedAgent>(*made); };
    return made;
  }();
  (void)identities;
  CK_FUNCTION_LIST* functions = nullptr;
  if (C_GetFunctionList(&functions) != CKR_OK || functions->C_Initialize(nullptr) != CKR_OK) std::abort();
  Input in(data, size);
  run(*functions, in);
  if (functions->C_Finalize(nullptr) != CKR_OK) std::abort();
  return 0;
}
