// The module as a program meets it: loaded by dlopen, called through its function list, with an identityd behind the socket.

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <openssl/err.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "base/sanitizers.h"
#include "pkcs11/cryptoki.h"
#include "pkcs11/identityd_test_support.h"

namespace wayleave::pkcs11 {
namespace {

using test::PkeyContextPtr;

// The allocators of g++ 12's sanitizers lock up in a child when another thread was allocating at the fork.
#if defined(WAYLEAVE_ADDRESS_SANITIZER) || defined(WAYLEAVE_THREAD_SANITIZER)
constexpr bool kForkNeedsQuiet = true;
#else
constexpr bool kForkNeedsQuiet = false;
#endif

CK_FUNCTION_LIST* load() {
  static CK_FUNCTION_LIST* const functions = [] {
    void* const module = dlopen(WAYLEAVE_PKCS11_MODULE, RTLD_NOW | RTLD_LOCAL);
    if (module == nullptr) throw std::runtime_error(dlerror());
    CK_FUNCTION_LIST* list = nullptr;
    const auto get = reinterpret_cast<CK_C_GetFunctionList>(dlsym(module, "C_GetFunctionList"));
    if (get(&list) != CKR_OK) throw std::runtime_error("C_GetFunctionList");
    return list;
  }();
  return functions;
}

std::string clientVerify(size_t hash = 48) {
  return std::string(64, ' ') + std::string("TLS 1.3, client CertificateVerify\0", 34) + std::string(hash, 'h');
}

class Pkcs11Module : public ::testing::Test {
 protected:
  Pkcs11Module() {
    setenv("WAYLEAVE_RUNTIME_DIR", identityd_.folder.c_str(), 1);
    EXPECT_EQ(f_->C_Initialize(nullptr), CKR_OK);
  }
  ~Pkcs11Module() override { f_->C_Finalize(nullptr); }

  // Another C_Initialize is another look at identityd, without waiting for the last one to grow old.
  void lookAgain() {
    f_->C_Finalize(nullptr);
    ASSERT_EQ(f_->C_Initialize(nullptr), CKR_OK);
  }
  CK_SESSION_HANDLE open(CK_SLOT_ID slot) {
    CK_SESSION_HANDLE session = 0;
    EXPECT_EQ(f_->C_OpenSession(slot, CKF_SERIAL_SESSION, nullptr, nullptr, &session), CKR_OK);
    return session;
  }
  std::vector<CK_OBJECT_HANDLE> find(CK_SESSION_HANDLE session, std::vector<CK_ATTRIBUTE> wanted) {
    EXPECT_EQ(f_->C_FindObjectsInit(session, wanted.data(), wanted.size()), CKR_OK);
    std::vector<CK_OBJECT_HANDLE> out(64);
    CK_ULONG count = 0;
    EXPECT_EQ(f_->C_FindObjects(session, out.data(), out.size(), &count), CKR_OK);
    EXPECT_EQ(f_->C_FindObjectsFinal(session), CKR_OK);
    out.resize(count);
    return out;
  }
  std::vector<CK_OBJECT_HANDLE> ofClass(CK_SESSION_HANDLE session, CK_OBJECT_CLASS kind) {
    return find(session, {{CKA_CLASS, &kind, sizeof(kind)}});
  }
  CK_OBJECT_HANDLE privateKey(CK_SESSION_HANDLE session, const std::string& id) {
    CK_OBJECT_CLASS kind = CKO_PRIVATE_KEY;
    std::string label = "Identity " + id;
    const auto found = find(session, {{CKA_CLASS, &kind, sizeof(kind)}, {CKA_LABEL, label.data(), label.size()}});
    EXPECT_EQ(found.size(), 1u) << id;
    return found.empty() ? 0 : found[0];
  }
  Bytes read(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type) {
    CK_ATTRIBUTE attribute{type, nullptr, 0};
    EXPECT_EQ(f_->C_GetAttributeValue(session, object, &attribute, 1), CKR_OK) << std::hex << type;
    Bytes value(attribute.ulValueLen);
    attribute.pValue = value.data();
    EXPECT_EQ(f_->C_GetAttributeValue(session, object, &attribute, 1), CKR_OK);
    return value;
  }
  bool flag(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type) { return read(session, object, type) == Bytes{1}; }

  CK_RV trySign(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, CK_MECHANISM mechanism, std::string_view data, Bytes& signature) {
    if (const CK_RV code = f_->C_SignInit(session, &mechanism, key); code != CKR_OK) return code;
    Bytes copy = toBytes(data);
    CK_ULONG length = 0;
    EXPECT_EQ(f_->C_Sign(session, copy.data(), copy.size(), nullptr, &length), CKR_OK);
    signature.resize(length);
    const CK_RV code = f_->C_Sign(session, copy.data(), copy.size(), signature.data(), &length);
    signature.resize(length);
    return code;
  }
  Bytes sign(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key, CK_MECHANISM mechanism, std::string_view data) {
    Bytes signature;
    EXPECT_EQ(trySign(session, key, mechanism, data, signature), CKR_OK);
    return signature;
  }
  // `md` null: `data` is the digest. ECDSA signatures in PKCS #11's form.
  bool verifies(const std::string& id, const EVP_MD* md, std::string_view data, ByteView signature, bool pss = false) {
    EVP_PKEY* key = identityd_.keyOf(id);
    Bytes wire = toBytes(signature);
    if (EVP_PKEY_is_a(key, "EC")) {
      const size_t half = signature.size() / 2;
      const Handle<ECDSA_SIG, ECDSA_SIG_free> parts(ECDSA_SIG_new());
      ECDSA_SIG_set0(parts.get(), BN_bin2bn(signature.data(), static_cast<int>(half), nullptr),
                     BN_bin2bn(signature.data() + half, static_cast<int>(half), nullptr));
      wire.resize(static_cast<size_t>(i2d_ECDSA_SIG(parts.get(), nullptr)));
      uint8_t* cursor = wire.data();
      i2d_ECDSA_SIG(parts.get(), &cursor);
    }
    Bytes digest = toBytes(data);
    if (md != nullptr) {
      digest.resize(static_cast<size_t>(EVP_MD_get_size(md)));
      EVP_Digest(data.data(), data.size(), digest.data(), nullptr, md, nullptr);
    }
    const PkeyContextPtr context(EVP_PKEY_CTX_new(key, nullptr));
    EVP_PKEY_verify_init(context.get());
    if (EVP_PKEY_is_a(key, "RSA")) EVP_PKEY_CTX_set_signature_md(context.get(), md);
    if (pss) {
      EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_PSS_PADDING);
      EVP_PKEY_CTX_set_rsa_pss_saltlen(context.get(), RSA_PSS_SALTLEN_DIGEST);
    }
    return EVP_PKEY_verify(context.get(), wire.data(), wire.size(), digest.data(), digest.size()) == 1;
  }

  test::TestIdentityd identityd_;
  CK_FUNCTION_LIST* const f_ = load();
};

TEST_F(Pkcs11Module, ExportsOneSymbolAndNothingOfItsLibraries) {
  void* const module = dlopen(WAYLEAVE_PKCS11_MODULE, RTLD_NOW | RTLD_NOLOAD);
  ASSERT_NE(module, nullptr);
  EXPECT_NE(dlsym(module, "C_GetFunctionList"), nullptr);
  EXPECT_EQ(dlsym(module, "C_Initialize"), nullptr);
  EXPECT_EQ(dlsym(module, "_ZN8wayleave6pkcs1110agentMakerEv"), nullptr);
  dlclose(module);
}

TEST_F(Pkcs11Module, InitialisesOnceAndSaysSo) {
  EXPECT_EQ(f_->C_Initialize(nullptr), CKR_CRYPTOKI_ALREADY_INITIALIZED);
  EXPECT_EQ(f_->C_Finalize(&identityd_), CKR_ARGUMENTS_BAD);
  EXPECT_EQ(f_->C_Finalize(nullptr), CKR_OK);
  EXPECT_EQ(f_->C_Finalize(nullptr), CKR_CRYPTOKI_NOT_INITIALIZED);
  CK_INFO info;
  EXPECT_EQ(f_->C_GetInfo(&info), CKR_CRYPTOKI_NOT_INITIALIZED);

  CK_C_INITIALIZE_ARGS arguments{};
  arguments.pReserved = &info;
  EXPECT_EQ(f_->C_Initialize(&arguments), CKR_ARGUMENTS_BAD);
  arguments = {};
  arguments.LockMutex = [](void*) -> CK_RV { return CKR_OK; };
  EXPECT_EQ(f_->C_Initialize(&arguments), CKR_ARGUMENTS_BAD) << "one mutex function of four";
  arguments.UnlockMutex = arguments.DestroyMutex = arguments.LockMutex;
  arguments.CreateMutex = [](void**) -> CK_RV { return CKR_OK; };
  EXPECT_EQ(f_->C_Initialize(&arguments), CKR_CANT_LOCK);
  arguments.flags = CKF_OS_LOCKING_OK;
  EXPECT_EQ(f_->C_Initialize(&arguments), CKR_OK);
  EXPECT_EQ(f_->C_GetInfo(&info), CKR_OK);
  EXPECT_EQ(info.cryptokiVersion.major, 2);
  EXPECT_EQ(info.cryptokiVersion.minor, 40);
}

TEST_F(Pkcs11Module, HasATokenForEachKeychainThatNeedsNoLogin) {
  CK_ULONG count = 1;
  CK_SLOT_ID slots[2];
  EXPECT_EQ(f_->C_GetSlotList(CK_TRUE, slots, &count), CKR_BUFFER_TOO_SMALL);
  EXPECT_EQ(count, 2u);
  ASSERT_EQ(f_->C_GetSlotList(CK_TRUE, slots, &count), CKR_OK);
  CK_TOKEN_INFO token;
  ASSERT_EQ(f_->C_GetTokenInfo(slots[0], &token), CKR_OK);
  EXPECT_EQ(std::string_view(reinterpret_cast<char*>(token.label), 22), "Wayleave file keychain");
  EXPECT_EQ(token.flags, CKF_TOKEN_INITIALIZED | CKF_WRITE_PROTECTED);
  ASSERT_EQ(f_->C_GetTokenInfo(slots[1], &token), CKR_OK);
  EXPECT_EQ(std::string_view(reinterpret_cast<char*>(token.label), 24), "Wayleave data protection");
  EXPECT_EQ(f_->C_GetTokenInfo(2, &token), CKR_SLOT_ID_INVALID);
}

TEST_F(Pkcs11Module, WithoutIdentitydTheTokenIsNotThere) {
  identityd_.stop();
  CK_ULONG count = 9;
  EXPECT_EQ(f_->C_GetSlotList(CK_TRUE, nullptr, &count), CKR_OK);
  EXPECT_EQ(count, 0u);
  CK_TOKEN_INFO token;
  CK_SESSION_HANDLE session = 0;
  EXPECT_EQ(f_->C_GetTokenInfo(0, &token), CKR_TOKEN_NOT_PRESENT);
  EXPECT_EQ(f_->C_OpenSession(0, CKF_SERIAL_SESSION, nullptr, nullptr, &session), CKR_TOKEN_NOT_PRESENT);
}

TEST_F(Pkcs11Module, AProgramWithoutAGrantMeetsAnEmptyToken) {
  identityd_.usages.clear();
  const CK_SESSION_HANDLE session = open(0);
  EXPECT_TRUE(find(session, {}).empty());
}

TEST_F(Pkcs11Module, PairsCertificateAndKeysByTheKeychainsHash) {
  const CK_SESSION_HANDLE session = open(0);
  const auto certificates = ofClass(session, CKO_CERTIFICATE);
  EXPECT_EQ(certificates.size(), 4u) << "three leaves and the authority they share";
  const auto keys = ofClass(session, CKO_PRIVATE_KEY);
  EXPECT_EQ(keys.size(), 3u);
  for (const CK_OBJECT_HANDLE key : keys) {
    Bytes id = read(session, key, CKA_ID);
    EXPECT_EQ(id.size(), 20u);
    EXPECT_EQ(find(session, {{CKA_ID, id.data(), id.size()}}).size(), 3u);
  }
  // Another slot's objects are not this session's.
  const CK_SESSION_HANDLE other = open(1);
  CK_ATTRIBUTE attribute{CKA_ID, nullptr, 0};
  EXPECT_EQ(f_->C_GetAttributeValue(other, keys[0], &attribute, 1), CKR_OBJECT_HANDLE_INVALID);
}

TEST_F(Pkcs11Module, DescribesCertificatesAsTheStandardSays) {
  const CK_SESSION_HANDLE session = open(1);
  Bytes value = identityd_.identities[0].info.chain[0];
  const auto found = find(session, {{CKA_VALUE, value.data(), value.size()}});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(read(session, found[0], CKA_SERIAL_NUMBER), (Bytes{0x02, 0x02, 0x03, 0xec}));
  EXPECT_EQ(read(session, found[0], CKA_SUBJECT)[0], 0x30);
  EXPECT_EQ(read(session, found[0], CKA_START_DATE).size(), 8u);
  EXPECT_EQ(read(session, found[0], CKA_CHECK_VALUE).size(), 3u);
  EXPECT_EQ(read(session, found[0], CKA_HASH_OF_SUBJECT_PUBLIC_KEY), read(session, found[0], CKA_ID));
  EXPECT_EQ(read(session, found[0], CKA_HASH_OF_ISSUER_PUBLIC_KEY).size(), 20u);
  EXPECT_FALSE(flag(session, found[0], CKA_TRUSTED));
  Bytes subject = read(session, found[0], CKA_ISSUER);
  CK_OBJECT_CLASS kind = CKO_CERTIFICATE;
  EXPECT_EQ(find(session, {{CKA_CLASS, &kind, sizeof(kind)}, {CKA_SUBJECT, subject.data(), subject.size()}}).size(), 1u)
      << "the issuer is found by its subject";
}

TEST_F(Pkcs11Module, GivesNoKeyMaterialAndTellsTheTruthAboutAKeysLife) {
  const CK_SESSION_HANDLE session = open(0);
  const CK_OBJECT_HANDLE imported = privateKey(session, "p384"), born = privateKey(session, "p521"), rsa = privateKey(session, "rsa");
  uint8_t buffer[600];
  CK_ULONG kind = 0;
  CK_ATTRIBUTE wanted[] = {{CKA_VALUE, buffer, sizeof(buffer)}, {CKA_CLASS, &kind, sizeof(kind)}};
  EXPECT_EQ(f_->C_GetAttributeValue(session, imported, wanted, 2), CKR_ATTRIBUTE_SENSITIVE);
  EXPECT_EQ(wanted[0].ulValueLen, CK_UNAVAILABLE_INFORMATION);
  EXPECT_EQ(kind, CKO_PRIVATE_KEY) << "what can be told is told all the same";
  for (const CK_ATTRIBUTE_TYPE type : {CKA_PRIVATE_EXPONENT, CKA_PRIME_1, CKA_COEFFICIENT}) {
    CK_ATTRIBUTE secret{type, nullptr, 0};
    EXPECT_EQ(f_->C_GetAttributeValue(session, rsa, &secret, 1), CKR_ATTRIBUTE_SENSITIVE);
  }
  CK_ATTRIBUTE foreign{CKA_MODULUS, nullptr, 0};
  EXPECT_EQ(f_->C_GetAttributeValue(session, born, &foreign, 1), CKR_ATTRIBUTE_TYPE_INVALID);
  CK_ATTRIBUTE small{CKA_LABEL, buffer, 1};
  EXPECT_EQ(f_->C_GetAttributeValue(session, born, &small, 1), CKR_BUFFER_TOO_SMALL);
  for (const CK_OBJECT_HANDLE key : {imported, born, rsa}) {
    EXPECT_TRUE(flag(session, key, CKA_SENSITIVE) && flag(session, key, CKA_SIGN));
    EXPECT_FALSE(flag(session, key, CKA_EXTRACTABLE) || flag(session, key, CKA_DECRYPT) || flag(session, key, CKA_DERIVE));
  }
  EXPECT_TRUE(flag(session, born, CKA_ALWAYS_SENSITIVE) && flag(session, born, CKA_NEVER_EXTRACTABLE));
  EXPECT_FALSE(flag(session, imported, CKA_NEVER_EXTRACTABLE)) << "it came in a file";
}

TEST_F(Pkcs11Module, SignsADigestWithEveryCurveWhateverTheDigestsLength) {
  for (const auto& [id, slot] : {std::pair<std::string, CK_SLOT_ID>{"p256", 1}, {"p384", 0}, {"p521", 0}}) {
    const CK_SESSION_HANDLE session = open(slot);
    const CK_OBJECT_HANDLE key = privateKey(session, id);
    for (const size_t length : {20, 32, 48, 64}) {
      const std::string digest(length, 'd');
      EXPECT_TRUE(verifies(id, nullptr, digest, sign(session, key, {CKM_ECDSA, nullptr, 0}, digest))) << id << " " << length;
    }
    Bytes none;
    EXPECT_EQ(trySign(session, key, {CKM_ECDSA, nullptr, 0}, std::string(65, 'd'), none), CKR_DATA_LEN_RANGE);
    EXPECT_EQ(trySign(session, key, {CKM_ECDSA, nullptr, 0}, "", none), CKR_DATA_LEN_RANGE);
    EXPECT_EQ(trySign(session, key, {CKM_ECDSA, nullptr, 0}, std::string(500, 'd'), none), CKR_DATA_LEN_RANGE);
  }
}

TEST_F(Pkcs11Module, HashesAndSignsWithEveryMechanism) {
  const CK_SESSION_HANDLE session = open(0);
  for (const auto& [mechanism, md] : {std::pair{CKM_ECDSA_SHA256, EVP_sha256()}, {CKM_ECDSA_SHA384, EVP_sha384()}, {CKM_ECDSA_SHA512, EVP_sha512()}})
    for (const char* id : {"p384", "p521"})
      EXPECT_TRUE(verifies(id, md, "a message", sign(session, privateKey(session, id), {mechanism, nullptr, 0}, "a message"))) << id << mechanism;
  const CK_OBJECT_HANDLE rsa = privateKey(session, "rsa");
  for (const auto& [mechanism, md] : {std::pair{CKM_SHA256_RSA_PKCS, EVP_sha256()}, {CKM_SHA384_RSA_PKCS, EVP_sha384()}, {CKM_SHA512_RSA_PKCS, EVP_sha512()}})
    EXPECT_TRUE(verifies("rsa", md, "a message", sign(session, rsa, {mechanism, nullptr, 0}, "a message")));
  CK_RSA_PKCS_PSS_PARAMS pss{CKM_SHA384, CKG_MGF1_SHA384, 48};
  EXPECT_TRUE(verifies("rsa", EVP_sha384(), "a message", sign(session, rsa, {CKM_SHA384_RSA_PKCS_PSS, &pss, sizeof(pss)}, "a message"), true));
  Bytes digest(48);
  EVP_Digest("a message", 9, digest.data(), nullptr, EVP_sha384(), nullptr);
  EXPECT_TRUE(verifies("rsa", EVP_sha384(), "a message", sign(session, rsa, {CKM_RSA_PKCS_PSS, &pss, sizeof(pss)}, asText(digest)), true));
  const Bytes info = [&] {
    Bytes out{0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0x04, 0x30};
    append(out, digest);
    return out;
  }();
  EXPECT_TRUE(verifies("rsa", EVP_sha384(), "a message", sign(session, rsa, {CKM_RSA_PKCS, nullptr, 0}, asText(info))));
}

TEST_F(Pkcs11Module, RefusesWhatNoSchemeCovers) {
  const CK_SESSION_HANDLE session = open(0);
  const CK_OBJECT_HANDLE rsa = privateKey(session, "rsa"), ec = privateKey(session, "p384");
  Bytes none;
  EXPECT_EQ(trySign(session, rsa, {CKM_RSA_PKCS, nullptr, 0}, std::string(36, 'x'), none), CKR_DATA_INVALID) << "MD5 and SHA-1 of old TLS";
  EXPECT_EQ(trySign(session, rsa, {CKM_ECDSA, nullptr, 0}, std::string(32, 'x'), none), CKR_KEY_TYPE_INCONSISTENT);
  EXPECT_EQ(trySign(session, ec, {CKM_SHA1_RSA_PKCS, nullptr, 0}, "x", none), CKR_MECHANISM_INVALID);
  CK_RSA_PKCS_PSS_PARAMS shortSalt{CKM_SHA256, CKG_MGF1_SHA256, 20};
  EXPECT_EQ(trySign(session, rsa, {CKM_RSA_PKCS_PSS, &shortSalt, sizeof(shortSalt)}, "x", none), CKR_MECHANISM_PARAM_INVALID);
  EXPECT_EQ(trySign(session, rsa, {CKM_RSA_PKCS_PSS, nullptr, 0}, "x", none), CKR_MECHANISM_PARAM_INVALID);
  EXPECT_EQ(trySign(session, ofClass(session, CKO_PUBLIC_KEY)[0], {CKM_ECDSA, nullptr, 0}, "x", none), CKR_KEY_HANDLE_INVALID);
  CK_MECHANISM mechanism{CKM_ECDSA, nullptr, 0};
  EXPECT_EQ(f_->C_GenerateKey(session, &mechanism, nullptr, 0, nullptr), CKR_FUNCTION_NOT_SUPPORTED);
  EXPECT_EQ(f_->C_DestroyObject(session, ec), CKR_FUNCTION_NOT_SUPPORTED);
}

TEST_F(Pkcs11Module, ATlsClientGrantSignsAWholeCertificateVerifyAndNothingElse) {
  identityd_.usages = {"list", "tls-client"};
  const CK_SESSION_HANDLE session = open(0);
  const CK_OBJECT_HANDLE key = privateKey(session, "p384");
  const std::string content = clientVerify();
  EXPECT_TRUE(verifies("p384", EVP_sha384(), content, sign(session, key, {CKM_ECDSA_SHA384, nullptr, 0}, content)));
  EXPECT_EQ(identityd_.asked().back(), "/v1/sign/tls tls1.3");
  Bytes none;
  std::string server = content;
  server.replace(73, 6, "server");
  EXPECT_EQ(trySign(session, key, {CKM_ECDSA_SHA384, nullptr, 0}, server, none), CKR_FUNCTION_REJECTED);
  EXPECT_EQ(trySign(session, key, {CKM_ECDSA_SHA384, nullptr, 0}, "a message", none), CKR_FUNCTION_REJECTED);
  EXPECT_EQ(trySign(session, key, {CKM_ECDSA, nullptr, 0}, std::string(48, 'd'), none), CKR_FUNCTION_REJECTED);
}

TEST_F(Pkcs11Module, AsksForTheUsageThatWorkedLastTimeFirst) {
  identityd_.usages = {"list", "digest"};
  const CK_SESSION_HANDLE session = open(0);
  const CK_OBJECT_HANDLE key = privateKey(session, "p384");
  for (int n = 0; n < 3; ++n) EXPECT_TRUE(verifies("p384", EVP_sha384(), "text", sign(session, key, {CKM_ECDSA_SHA384, nullptr, 0}, "text")));
  EXPECT_EQ(std::ranges::count(identityd_.asked(), "/v1/sign/message"), 1) << "one refusal in the audit log, not one for each signature";
}

TEST_F(Pkcs11Module, SignsInPartsWithoutALimit) {
  const CK_SESSION_HANDLE session = open(0);
  const CK_OBJECT_HANDLE key = privateKey(session, "p521");
  std::string whole;
  for (const size_t size : {size_t{0}, size_t{10}, size_t{3} << 20}) {
    CK_MECHANISM mechanism{CKM_ECDSA_SHA512, nullptr, 0};
    ASSERT_EQ(f_->C_SignInit(session, &mechanism, key), CKR_OK);
    EXPECT_EQ(f_->C_SignInit(session, &mechanism, key), CKR_OPERATION_ACTIVE);
    std::string part(size, 'p');
    for (int n = 0; n < 2; ++n) ASSERT_EQ(f_->C_SignUpdate(session, reinterpret_cast<CK_BYTE*>(part.data()), part.size()), CKR_OK);
    Bytes signature(132);
    CK_ULONG length = 131;
    EXPECT_EQ(f_->C_SignFinal(session, signature.data(), &length), CKR_BUFFER_TOO_SMALL);
    EXPECT_EQ(length, 132u);
    ASSERT_EQ(f_->C_SignFinal(session, signature.data(), &length), CKR_OK);
    EXPECT_TRUE(verifies("p521", EVP_sha512(), part + part, signature));
    EXPECT_EQ(f_->C_SignFinal(session, signature.data(), &length), CKR_OPERATION_NOT_INITIALIZED);
  }
  CK_MECHANISM mechanism{CKM_ECDSA_SHA512, nullptr, 0};
  ASSERT_EQ(f_->C_SignInit(session, &mechanism, key), CKR_OK);
  CK_BYTE byte = 1;
  CK_ULONG length = 0;
  ASSERT_EQ(f_->C_SignUpdate(session, &byte, 1), CKR_OK);
  EXPECT_EQ(f_->C_Sign(session, &byte, 1, nullptr, &length), CKR_OPERATION_ACTIVE);
}

TEST_F(Pkcs11Module, KeysKeepTheirHandleAcrossARenewalAndCertificatesDoNot) {
  const CK_SESSION_HANDLE session = open(0);
  const CK_OBJECT_HANDLE key = privateKey(session, "p384");
  Bytes old = identityd_.identities[1].info.chain[0];
  const auto before = find(session, {{CKA_VALUE, old.data(), old.size()}});
  ASSERT_EQ(before.size(), 1u);
  identityd_.renew("p384");
  // The look is a second old before there is another; what is waited for is the change, not the time.
  const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds{10};
  while (!find(session, {{CKA_VALUE, old.data(), old.size()}}).empty() && std::chrono::steady_clock::now() < patience) std::this_thread::yield();
  EXPECT_TRUE(find(session, {{CKA_VALUE, old.data(), old.size()}}).empty());
  CK_ATTRIBUTE attribute{CKA_VALUE, nullptr, 0};
  EXPECT_EQ(f_->C_GetAttributeValue(session, before[0], &attribute, 1), CKR_OBJECT_HANDLE_INVALID);
  EXPECT_EQ(f_->C_GetAttributeValue(session, key, &(attribute = {CKA_ID, nullptr, 0}), 1), CKR_OK);
}

TEST_F(Pkcs11Module, SessionsAreCountedAndBounded) {
  CK_SESSION_HANDLE session = 0;
  EXPECT_EQ(f_->C_OpenSession(0, 0, nullptr, nullptr, &session), CKR_SESSION_PARALLEL_NOT_SUPPORTED);
  EXPECT_EQ(f_->C_OpenSession(7, CKF_SERIAL_SESSION, nullptr, nullptr, &session), CKR_SLOT_ID_INVALID);
  for (int n = 0; n < 1024; ++n) ASSERT_EQ(f_->C_OpenSession(0, CKF_SERIAL_SESSION, nullptr, nullptr, &session), CKR_OK);
  EXPECT_EQ(f_->C_OpenSession(1, CKF_SERIAL_SESSION, nullptr, nullptr, &session), CKR_SESSION_COUNT);
  EXPECT_EQ(f_->C_CloseAllSessions(0), CKR_OK);
  EXPECT_EQ(f_->C_CloseSession(session), CKR_SESSION_HANDLE_INVALID);
  EXPECT_EQ(f_->C_FindObjectsInit(session, nullptr, 0), CKR_SESSION_HANDLE_INVALID);
  EXPECT_EQ(f_->C_OpenSession(1, CKF_SERIAL_SESSION | CKF_RW_SESSION, nullptr, nullptr, &session), CKR_OK);
  EXPECT_EQ(f_->C_Login(session, CKU_SO, nullptr, 0), CKR_USER_TYPE_INVALID);
  EXPECT_EQ(f_->C_Login(session, CKU_USER, nullptr, 0), CKR_OK);
  EXPECT_EQ(f_->C_Login(session, CKU_USER, nullptr, 0), CKR_USER_ALREADY_LOGGED_IN);
  CK_SESSION_INFO info;
  EXPECT_EQ(f_->C_GetSessionInfo(session, &info), CKR_OK);
  EXPECT_EQ(info.state, CKS_RW_USER_FUNCTIONS);
  EXPECT_EQ(f_->C_CloseSession(session), CKR_OK);
}

TEST_F(Pkcs11Module, ThreadsSignSideBySide) {
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int n = 0; n < 8; ++n)
    threads.emplace_back([&, n] {
      const std::string id = n % 2 ? "p384" : "p521";
      for (int round = 0; round < 20; ++round) {
        const CK_SESSION_HANDLE session = open(0);
        const std::string digest(48, static_cast<char>('a' + round));
        if (verifies(id, nullptr, digest, sign(session, privateKey(session, id), {CKM_ECDSA, nullptr, 0}, digest))) ++good;
        EXPECT_EQ(f_->C_CloseSession(session), CKR_OK);
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 160);
}

// A child starts anew even if threads of its parent were in the middle of calls when it was born.
TEST_F(Pkcs11Module, AForkedChildInitialisesAgainWhileTheParentGoesOn) {
  if (kForkNeedsQuiet) GTEST_SKIP() << "the sanitizer's allocator locks up in the child; the plain build runs this test";
  const CK_SESSION_HANDLE session = open(0);
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    CK_TOKEN_INFO token;
    while (!stop) (void)f_->C_GetTokenInfo(0, &token);
  });
  for (int n = 0; n < 20; ++n) {
    const pid_t child = fork();
    if (child == 0) {
      CK_INFO info;
      if (f_->C_GetInfo(&info) != CKR_CRYPTOKI_NOT_INITIALIZED) _exit(1);
      if (f_->C_Initialize(nullptr) != CKR_OK) _exit(2);
      CK_SESSION_HANDLE own = 0;
      if (f_->C_OpenSession(0, CKF_SERIAL_SESSION, nullptr, nullptr, &own) != CKR_OK) _exit(3);
      if (f_->C_FindObjectsInit(own, nullptr, 0) != CKR_OK) _exit(4);
      CK_OBJECT_HANDLE found[4];
      CK_ULONG count = 0;
      if (f_->C_FindObjects(own, found, 4, &count) != CKR_OK || count != 4) _exit(5);
      if (f_->C_Finalize(nullptr) != CKR_OK) _exit(6);
      _exit(0);
    }
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
  }
  stop = true;
  busy.join();
  CK_SESSION_INFO info;
  EXPECT_EQ(f_->C_GetSessionInfo(session, &info), CKR_OK) << "the parent's session is untouched";
}

TEST_F(Pkcs11Module, LeavesTheHostsErrorQueueAsItWas) {
  ERR_clear_error();
  ERR_raise(ERR_LIB_USER, 1);
  const unsigned long before = ERR_peek_last_error();
  identityd_.identities[1].info.chain[0] = {0x30, 0x03, 1, 2, 3};
  identityd_.identities[1].info.sha256 = "another";
  lookAgain();
  const CK_SESSION_HANDLE session = open(0);
  EXPECT_EQ(ofClass(session, CKO_PRIVATE_KEY).size(), 2u) << "an identity that cannot be read is left out";
  EXPECT_EQ(ERR_peek_last_error(), before);
  ERR_clear_error();
}

TEST_F(Pkcs11Module, NullPointersAreArgumentsBad) {
  const CK_SESSION_HANDLE session = open(0);
  CK_ULONG count = 0;
  EXPECT_EQ(f_->C_GetInfo(nullptr), CKR_ARGUMENTS_BAD);
  EXPECT_EQ(f_->C_GetSlotList(CK_FALSE, nullptr, nullptr), CKR_ARGUMENTS_BAD);
  EXPECT_EQ(f_->C_OpenSession(0, CKF_SERIAL_SESSION, nullptr, nullptr, nullptr), CKR_ARGUMENTS_BAD);
  EXPECT_EQ(f_->C_FindObjectsInit(session, nullptr, 1), CKR_ARGUMENTS_BAD);
  EXPECT_EQ(f_->C_FindObjects(session, nullptr, 1, &count), CKR_ARGUMENTS_BAD);
  EXPECT_EQ(f_->C_FindObjects(session, nullptr, 0, &count), CKR_OPERATION_NOT_INITIALIZED);
  EXPECT_EQ(f_->C_GetAttributeValue(session, 1, nullptr, 1), CKR_ARGUMENTS_BAD);
  EXPECT_EQ(f_->C_SignInit(session, nullptr, 1), CKR_ARGUMENTS_BAD);
  EXPECT_EQ(f_->C_Sign(session, nullptr, 1, nullptr, &count), CKR_ARGUMENTS_BAD);
  EXPECT_EQ(f_->C_GetFunctionList(nullptr), CKR_ARGUMENTS_BAD);
}

}  // namespace
}  // namespace wayleave::pkcs11
