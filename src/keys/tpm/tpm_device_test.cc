// The TPM device and its keys on a real software TPM.

#include "keys/tpm/tpm_device.h"

#include <sys/fsuid.h>

#include <fstream>
#include <thread>

#include "keys/tpm/tpm_test_support.h"

namespace wayleave::keys::tpm {
namespace {

using namespace std::chrono_literals;

class TpmDeviceTest : public SwTpmTest {};

TEST_F(TpmDeviceTest, SignsWithEverySchemeOfEveryKeyType) {
  const auto device = open();
  for (const KeyType type : {KeyType::EcP256, KeyType::EcP384, KeyType::Rsa}) {
    const auto key = makeKey(device, type);
    ASSERT_TRUE(key);
    EXPECT_EQ(key->publicKey().type, type);
    for (const SignatureScheme scheme : key->supportedSchemes()) {
      const auto signature = key->sign(scheme, asBytes("hello"), soon());
      ASSERT_TRUE(signature.has_value()) << text(scheme) << ": " << describe(signature.error());
      EXPECT_TRUE(verifies(key->publicKey(), scheme, asBytes("hello"), *signature)) << text(scheme);
      EXPECT_FALSE(verifies(key->publicKey(), scheme, asBytes("hallo"), *signature)) << text(scheme);
    }
  }
}

TEST_F(TpmDeviceTest, RefusesSchemesAndDigestsThatDoNotFitTheKey) {
  const auto key = makeKey(open(), KeyType::EcP384);
  EXPECT_EQ(key->signDigest(SignatureScheme::EcdsaSecp256r1Sha256, Bytes(32), soon()).error().reason,
            Reason::Unsupported);
  EXPECT_EQ(key->signDigest(SignatureScheme::EcdsaSecp384r1Sha384, Bytes(32), soon()).error().reason, Reason::BadInput);
}

TEST_F(TpmDeviceTest, RefusesKeysThatNoTpmCanHold) {
  const auto device = open();
  EXPECT_EQ(device->createKey(KeyType::EcP521, 521, soon()).error().reason, Reason::Unsupported);
  EXPECT_EQ(device->createKey(KeyType::Rsa, 4096, soon()).error().reason, Reason::Unsupported);
}

TEST_F(TpmDeviceTest, TenKeysShareThreeSlots) {
  const auto device = open();
  std::vector<std::unique_ptr<TpmKey>> keys;
  for (int i = 0; i < 10; ++i) keys.push_back(makeKey(device, i % 2 ? KeyType::EcP256 : KeyType::EcP384));
  for (int round = 0; round < 3; ++round)
    for (const auto& key : keys) EXPECT_EQ(tryToSign(*key), Reason::Ok);
  EXPECT_EQ(device->metrics().reopened, 0u);
  EXPECT_EQ(device->metrics().failures, 0u);
}

TEST_F(TpmDeviceTest, LeftoversOfACrashedRunAreFlushed) {
  // Nothing else takes object slots away for good on a TPM without a resource manager.
  ASSERT_EQ(tpm_->tool({"tpm2_createprimary", "-C", "o", "-c", (tpm_->folder() / "1.ctx").string()}).status, 0);
  ASSERT_EQ(tpm_->tool({"tpm2_createprimary", "-C", "o", "-c", (tpm_->folder() / "2.ctx").string()}).status, 0);
  const auto device = open();
  EXPECT_EQ(tryToSign(*makeKey(device)), Reason::Ok);
  EXPECT_EQ(device->facts(soon())->transientSlots + 1, 3u);  // the one key still loaded
}

TEST_F(TpmDeviceTest, AKeySurvivesStorageAndASecondProcess) {
  std::string pem;
  {
    const auto key = makeKey(open(), KeyType::EcP384);
    pem = key->pem().value();
  }
  const auto again = TpmKey::fromPem(open(), pem);
  ASSERT_TRUE(again.has_value()) << describe(again.error());
  EXPECT_EQ(tryToSign(**again), Reason::Ok);
}

TEST_F(TpmDeviceTest, RestartOfTheTpmInMidUseIsNotNoticed) {
  const auto device = open();
  const auto key = makeKey(device);
  const auto other = makeKey(device);
  for (int round = 0; round < 3; ++round) {
    EXPECT_EQ(tryToSign(*key), Reason::Ok);
    EXPECT_EQ(tryToSign(*other), Reason::Ok);
    tpm_->kill();
    tpm_->start();
  }
  EXPECT_EQ(tryToSign(*key), Reason::Ok);
  EXPECT_EQ(device->metrics().reopened, 3u);
}

TEST_F(TpmDeviceTest, DyingInMidCommandIsAnErrorAndTheNextCallRecovers) {
  const auto device = open();
  const auto key = makeKey(device);
  ASSERT_EQ(tryToSign(*key), Reason::Ok);
  tpm_->hang();
  std::jthread caller([&] { EXPECT_EQ(tryToSign(*key), Reason::IdentityUnavailable); });
  while (device->metrics().queueDepth == 0) std::this_thread::yield();
  tpm_->kill();
  caller.join();
  tpm_->start();
  EXPECT_EQ(tryToSign(*key), Reason::Ok);
}

TEST_F(TpmDeviceTest, ClearedTpmLosesTheKeysAndEnrolsAgainAsTheSameDevice) {
  const auto device = open();
  const auto key = makeKey(device);
  const auto ak = device->createAttestationKey(soon());
  ASSERT_TRUE(ak.has_value()) << describe(ak.error());
  const StorageRoot before = device->storageRoot(soon()).value();
  const EndorsementKey identity = device->endorsementKey(soon()).value();
  EXPECT_EQ(before.handle, kPersistentSrk);
  ASSERT_TRUE(device->disconnect(soon()).has_value());
  ASSERT_TRUE(tpm_->clear());

  EXPECT_EQ(tryToSign(*key), Reason::IdentityLost);
  EXPECT_EQ(device->certify(key->blob(), *ak, Bytes(32), soon()).error().reason, Reason::IdentityLost);
  const auto now = device->storageRoot(soon());
  ASSERT_TRUE(now.has_value());
  EXPECT_EQ(now->handle, kOwnerHierarchy);
  EXPECT_EQ(compareStorageRoot(before.name, *now).error().reason, Reason::IdentityLost);

  const auto fresh = makeKey(device);
  EXPECT_EQ(tryToSign(*fresh), Reason::Ok);
  EXPECT_TRUE(device->createAttestationKey(soon()).has_value());
  EXPECT_EQ(device->endorsementKey(soon())->spki, identity.spki);
  EXPECT_EQ(device->endorsementKey(soon())->certificates, identity.certificates);
}

TEST_F(TpmDeviceTest, AnotherTpmCannotUseCopiedKeys) {
  SwTpm other(SwTpm::Kind::Blank);
  other.start();
  std::string persistentPem, derivedPem;
  {
    persistentPem = makeKey(open())->pem().value();
    derivedPem = makeKey(open(other))->pem().value();
  }
  const auto here = open();
  const auto there = open(other);
  // Its parent handle is not there.
  EXPECT_EQ(tryToSign(**TpmKey::fromPem(there, persistentPem)), Reason::IdentityLost);
  // Its parent is there, derived by the same template, but from another seed.
  EXPECT_EQ(tryToSign(**TpmKey::fromPem(here, derivedPem)), Reason::IdentityLost);
  EXPECT_NE(here->storageRoot(soon())->name, there->storageRoot(soon())->name);
  EXPECT_NE(here->endorsementKey(soon())->publicKeyHash(), there->endorsementKey(soon())->publicKeyHash());
}

TEST_F(TpmDeviceTest, BlankTpmWorksFromTheFixedTemplateAcrossRestarts) {
  SwTpm blank(SwTpm::Kind::Blank);
  blank.start();
  const auto device = open(blank);
  const StorageRoot root = device->storageRoot(soon()).value();
  EXPECT_EQ(root.handle, kOwnerHierarchy);
  std::vector<std::unique_ptr<TpmKey>> keys;
  for (int i = 0; i < 5; ++i) keys.push_back(makeKey(device));
  const auto ak = device->createAttestationKey(soon());
  ASSERT_TRUE(ak.has_value()) << describe(ak.error());
  for (int round = 0; round < 2; ++round) {
    for (const auto& key : keys) {
      EXPECT_EQ(tryToSign(*key), Reason::Ok);
      EXPECT_TRUE(key->certify(*ak, Bytes(32, 1), soon()).has_value());
    }
    blank.kill();
    blank.start();
  }
  EXPECT_EQ(device->storageRoot(soon())->name, root.name);
  EXPECT_TRUE(device->endorsementKey(soon())->certificates.empty());
}

TEST_F(TpmDeviceTest, StorageRootIsMadePersistentWhenAllowed) {
  SwTpm blank(SwTpm::Kind::Blank);
  blank.start();
  const Bytes derived = open(blank)->storageRoot(soon())->name;
  const auto device = open(blank, {.persistStorageRoot = true});
  const auto key = makeKey(device);
  EXPECT_EQ(key->blob().parent, kPersistentSrk);
  EXPECT_EQ(tryToSign(*key), Reason::Ok);
  EXPECT_EQ(device->storageRoot(soon())->name, derived);
}

TEST_F(TpmDeviceTest, LockoutByAForeignKeyDoesNotStopOurs) {
  const auto device = open();
  const auto key = makeKey(device);
  ASSERT_TRUE(device->disconnect(soon()).has_value());
  const auto at = [&](const char* name) { return (tpm_->folder() / name).string(); };
  ASSERT_EQ(tpm_->tool({"tpm2_create", "-C", "0x81000001", "-G", "ecc256", "-p", "right", "-a",
                        "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign", "-u", at("u"), "-r", at("r")})
                .status,
            0);
  ASSERT_EQ(tpm_->tool({"tpm2_load", "-C", "0x81000001", "-u", at("u"), "-r", at("r"), "-c", at("c")}).status, 0);
  std::ofstream(at("m")) << "m";
  std::string last;
  for (int i = 0; i < 5; ++i) {
    (void)tpm_->tool({"tpm2_flushcontext", "-t"});
    last = tpm_->tool({"tpm2_sign", "-c", at("c"), "-p", "wrong", "-o", at("s"), at("m")}).output;
  }
  ASSERT_NE(last.find("0x921"), std::string::npos) << last;
  (void)tpm_->tool({"tpm2_flushcontext", "-t"});

  EXPECT_EQ(tryToSign(*key), Reason::Ok);
  const TpmFacts facts = device->facts(soon()).value();
  EXPECT_TRUE(facts.inLockout);
  EXPECT_EQ(facts.failedTries, facts.maxTries);
  // A key that is not exempt gets the vocabulary's word.
  std::ifstream publicFile(at("u"), std::ios::binary), privateFile(at("r"), std::ios::binary);
  const std::string u{std::istreambuf_iterator<char>(publicFile), {}},
      r{std::istreambuf_iterator<char>(privateFile), {}};
  const KeyBlob foreign{kPersistentSrk, toBytes(u.substr(2)), toBytes(r.substr(2))};
  const auto refused = device->sign(foreign, SignatureScheme::EcdsaSha256, Bytes(32), soon());
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().reason, Reason::KeyLockout) << describe(refused.error());
  EXPECT_FALSE(refused.error().hint.empty());
}

TEST_F(TpmDeviceTest, HungTpmDoesNotHoldItsCallers) {
  const auto device = open({.queueLimit = 2, .commandTimeout = 60s});
  const auto key = makeKey(device);
  ASSERT_EQ(tryToSign(*key), Reason::Ok);
  tpm_->hang();
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(tryToSign(*key, soon(50ms)), Reason::DeadlineExceeded);  // in the TPM
  EXPECT_EQ(tryToSign(*key, soon(50ms)), Reason::DeadlineExceeded);  // in the queue
  EXPECT_EQ(tryToSign(*key, soon(50ms)), Reason::DeadlineExceeded);
  EXPECT_EQ(tryToSign(*key, soon(50ms)), Reason::Busy);  // the queue is full
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
  const TpmMetrics metrics = device->metrics();
  EXPECT_EQ(metrics.queueDepth, 3u);
  EXPECT_EQ(metrics.abandoned, 3u);
  EXPECT_EQ(metrics.refusedFull, 1u);
  tpm_->resume();  // the owner thread finishes the abandoned command, and drops what nobody waits for
  while (device->metrics().queueDepth > 0) std::this_thread::yield();
  EXPECT_EQ(device->metrics().expired, 2u);
  EXPECT_EQ(tryToSign(*key), Reason::Ok);
  EXPECT_EQ(device->metrics().reopened, 0u);
}

TEST_F(TpmDeviceTest, CommandTimeoutClosesTheConnectionAndTheNextCallOpensIt) {
  const auto device = open({.commandTimeout = 500ms});
  const auto key = makeKey(device);
  ASSERT_EQ(tryToSign(*key), Reason::Ok);
  tpm_->hang();
  EXPECT_EQ(tryToSign(*key), Reason::DeadlineExceeded);
  tpm_->resume();
  EXPECT_EQ(tryToSign(*key), Reason::Ok);
  EXPECT_EQ(device->metrics().reopened, 1u);
}

TEST_F(TpmDeviceTest, EndsPromptlyWhileTheTpmHangs) {
  auto device = open({.commandTimeout = 600s});
  auto key = makeKey(device);
  tpm_->hang();
  EXPECT_EQ(tryToSign(*key, soon(20ms)), Reason::DeadlineExceeded);
  const auto begin = std::chrono::steady_clock::now();
  key.reset();
  device.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
}

TEST_F(TpmDeviceTest, ManyThreadsShareOneTpm) {
  const auto device = open();
  const auto first = makeKey(device, KeyType::EcP384);
  const auto second = makeKey(device);
  {
    std::vector<std::jthread> callers;
    for (int i = 0; i < 8; ++i)
      callers.emplace_back([&, i] {
        for (int n = 0; n < 20; ++n) EXPECT_EQ(tryToSign(i % 2 ? *first : *second), Reason::Ok);
      });
  }
  const TpmMetrics metrics = device->metrics();
  EXPECT_EQ(metrics.queueDepth, 0u);
  EXPECT_GE(metrics.commands, 160u);
  EXPECT_GT(metrics.commandTime.count(), 0);
  uint64_t inBuckets = 0;
  for (const uint64_t count : metrics.commandBuckets) inBuckets += count;
  EXPECT_EQ(inBuckets, metrics.commands);
}

TEST_F(TpmDeviceTest, AddedSignTimeMakesItSlow) {
  const auto key = makeKey(open({.addedSignTime = 60ms}));
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(tryToSign(*key), Reason::Ok);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 60ms);
}

TEST_F(TpmDeviceTest, SaysWhatTheTpmIsAndCanDo) {
  const TpmDescription found = open()->describe(soon());
  ASSERT_TRUE(found.problems.empty()) << describe(found.problems.front());
  EXPECT_EQ(found.facts->manufacturer, "IBM");
  EXPECT_EQ(found.facts->manufacturerId, 0x49424d00u);
  EXPECT_NE(found.facts->model.find("TPM"), std::string::npos) << found.facts->model;
  EXPECT_NE(found.facts->firmwareVersion.find('.'), std::string::npos);
  EXPECT_TRUE(found.facts->p256 && found.facts->p384 && found.facts->rsa2048);
  EXPECT_EQ(found.facts->transientSlots, 3u);
  EXPECT_FALSE(found.facts->inLockout);
  EXPECT_EQ(found.facts->maxTries, 3u);
  EXPECT_EQ(found.facts->ekCertificateIndices, (std::vector<uint32_t>{0x1c00002, 0x1c00016}));
  EXPECT_EQ(found.storageRoot->handle, kPersistentSrk);
  EXPECT_EQ(found.endorsementKey->kind, "RSA 2048");
  ASSERT_EQ(found.endorsementKey->certificates.size(), 1u);
  EXPECT_EQ(found.endorsementKey->publicKeyHash().size(), 64u);
  EXPECT_GT(found.signatureTime->count(), 0);
}

TEST_F(TpmDeviceTest, EkCertificateVerifiesAgainstItsMaker) {
  const auto ek = open()->endorsementKey(soon());
  ASSERT_TRUE(ek.has_value()) << describe(ek.error());
  const auto der = (tpm_->folder() / "ek.der").string(), pem = (tpm_->folder() / "ek.pem").string();
  std::ofstream(der, std::ios::binary) << asText(ek->certificates.at(0));
  ASSERT_EQ(runTool({"openssl", "x509", "-inform", "DER", "-in", der, "-out", pem}).status, 0);
  const auto ca = SwTpm::certificateAuthority();
  const ToolResult verified = runTool({"openssl", "verify", "-CAfile", (ca / "swtpm-localca-rootca-cert.pem").string(),
                                       "-untrusted", (ca / "issuercert.pem").string(), pem});
  EXPECT_EQ(verified.status, 0) << verified.output;
}

TEST_F(TpmDeviceTest, DerivedEndorsementKeyIsTheCertifiedOne) {
  // Without the persistent copies the default templates must lead to the same keys.
  const auto persistent = open({.endorsementKey = EkChoice::Rsa})->endorsementKey(soon()).value();
  const auto persistentEc = open({.endorsementKey = EkChoice::EcP384})->endorsementKey(soon()).value();
  for (const char* handle : {"0x81010001", "0x81010016"})
    ASSERT_EQ(tpm_->tool({"tpm2_evictcontrol", "-C", "o", "-c", handle}).status, 0);
  EXPECT_EQ(open({.endorsementKey = EkChoice::Rsa})->endorsementKey(soon())->spki, persistent.spki);
  EXPECT_EQ(open({.endorsementKey = EkChoice::EcP384})->endorsementKey(soon())->spki, persistentEc.spki);
}

TEST(TpmDeviceAbsent, EveryCallSaysSoAndNothingFailsForGood) {
  const auto device = std::make_shared<TpmDevice>(TpmOptions{.tcti = "device:/dev/wayleave-has-no-tpm"});
  const auto facts = device->facts(soon());
  ASSERT_FALSE(facts.has_value());
  EXPECT_EQ(facts.error().reason, Reason::Unavailable);
  EXPECT_FALSE(facts.error().hint.empty());
  EXPECT_EQ(device->createKey(KeyType::EcP256, 256, soon()).error().reason, Reason::Unavailable);
  const TpmDescription description = device->describe(soon());
  EXPECT_FALSE(description.facts.has_value());
  EXPECT_EQ(description.problems.size(), 1u);
  EXPECT_TRUE(device->disconnect(soon()).has_value());
}

TEST(TpmDeviceAbsent, DeniedAccessIsNotAbsence) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to take on another user's file permissions";
  const TestFolder folder;
  std::filesystem::permissions(folder.path(), std::filesystem::perms::all);
  const std::string device = (folder.path() / "tpmrm0").string();
  std::ofstream(device).put('x');
  ::chmod(device.c_str(), 0600);
  // File-system identity belongs to the thread, and the owner thread inherits it.
  std::thread([&] {
    ::setfsuid(65534);
    TpmDevice denied(TpmOptions{.tcti = "device:" + device});
    const auto facts = denied.facts(soon());
    ASSERT_FALSE(facts.has_value());
    EXPECT_EQ(facts.error().reason, Reason::KeyPermission) << describe(facts.error());
    EXPECT_NE(facts.error().hint.find("group tss"), std::string::npos);
  }).join();
}

// Our key files are the ecosystem's: OpenSSL with Debian's tpm2 provider signs with them, under either parent.
TEST_F(TpmDeviceTest, OtherProgramsCanUseItsKeyFiles) {
  SwTpm blank(SwTpm::Kind::Blank);
  blank.start();
  for (const SwTpm* tpm : {tpm_.get(), &blank}) {
    const std::vector<std::string> environment{"TPM2OPENSSL_TCTI=" + tpm->tcti(), "TSS2_LOG=all+none"};
    if (runTool({"openssl", "list", "-providers", "-provider", "tpm2"}, environment).status != 0)
      GTEST_SKIP() << "the OpenSSL provider tpm2 is not installed (package tpm2-openssl)";
    const auto at = [&](const char* name) { return (tpm->folder() / name).string(); };
    std::ofstream(at("message")) << "message";
    for (const KeyType type : {KeyType::EcP256, KeyType::EcP384, KeyType::Rsa}) {
      const auto device = open(*tpm);
      const auto key = makeKey(device, type);
      ASSERT_TRUE(device->disconnect(soon()).has_value());
      std::ofstream(at("key.pem")) << key->pem().value();
      const ToolResult made = runTool({"openssl", "dgst", "-provider", "tpm2", "-provider", "default", "-propquery",
                                       "?provider=tpm2,tpm2.digest!=yes", "-sha256", "-sign", at("key.pem"), "-out",
                                       at("signature"), at("message")},
                                      environment);
      ASSERT_EQ(made.status, 0) << text(type) << ": " << made.output;
      std::ifstream file(at("signature"), std::ios::binary);
      const std::string signature{std::istreambuf_iterator<char>(file), {}};
      const auto scheme = type == KeyType::Rsa ? SignatureScheme::RsaPkcs1Sha256 : SignatureScheme::EcdsaSha256;
      EXPECT_TRUE(verifies(key->publicKey(), scheme, asBytes("message"), asBytes(signature))) << text(type);
    }
  }
}

}  // namespace
}  // namespace wayleave::keys::tpm
