// The store on real files: what it promises about installations, references and crashes.

#include "keychain/store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "base/file.h"
#include "base/osstatus.h"
#include "keychain/reference.h"
#include "keychain/store_names.h"
#include "keys/openssl.h"

namespace wayleave::keychain {
namespace {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;

constexpr std::string_view kSystemKeychain = "/Library/Keychains/System.keychain";

keys::EvpPkeyPtr newKey() { return keys::EvpPkeyPtr(EVP_EC_gen("P-256")); }

Bytes spkiOf(const EVP_PKEY* key) {
  Bytes out(static_cast<size_t>(i2d_PUBKEY(key, nullptr)));
  uint8_t* at = out.data();
  i2d_PUBKEY(key, &at);
  return out;
}

// A certificate for `key` by "  Test   ca" (a PrintableString, so that normalisation has something to do). `serial`:
// DER contents are made from it, so a high first bit gains a leading 00.
Bytes certify(EVP_PKEY* key, ByteView serial, EVP_PKEY* issuer) {
  const keys::X509Ptr certificate(X509_new());
  X509_set_version(certificate.get(), X509_VERSION_3);
  BIGNUM* number = BN_bin2bn(serial.data(), static_cast<int>(serial.size()), nullptr);
  BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate.get()));
  BN_free(number);
  X509_NAME* name = X509_get_issuer_name(certificate.get());
  const std::string_view text = "  Test   ca";
  X509_NAME_add_entry_by_txt(name, "CN", V_ASN1_PRINTABLESTRING, reinterpret_cast<const uint8_t*>(text.data()),
                             static_cast<int>(text.size()), -1, 0);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), 0);
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), 86400);
  X509_set_pubkey(certificate.get(), key);
  X509_sign(certificate.get(), issuer, EVP_sha256());
  Bytes out(static_cast<size_t>(i2d_X509(certificate.get(), nullptr)));
  uint8_t* at = out.data();
  i2d_X509(certificate.get(), &at);
  return out;
}

std::unique_ptr<Store> openStore(const std::string& path) {
  auto opened = Store::open(path);
  EXPECT_TRUE(opened) << describe(opened.error());
  return opened ? std::move(*opened) : nullptr;
}

struct Fixture {
  KeyRecord key;
  IdentityRecord identity;
  keys::EvpPkeyPtr pkey;
};

class StoreTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "store.XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    path_ = folder_ + "/identities.db";
    ca_ = newKey();
    store_ = openStore(path_);
    ASSERT_TRUE(store_);
  }
  void TearDown() override {
    store_.reset();
    fs::remove_all(folder_);
  }

  void reopen() {
    store_.reset();
    store_ = openStore(path_);
  }

  // Records for one identity in the file keychain, not yet stored.
  Fixture make(const std::string& installation, const std::string& name, const std::string& profile,
               ByteView serial = Bytes{0x48, 0x01}) {
    Fixture out;
    out.pkey = newKey();
    out.key = {"key-" + name,           installation,           "payload-" + name,
               keys::KeyKind::Software, spkiOf(out.pkey.get()), toBytes("sealed")};
    IdentityRecord& identity = out.identity;
    identity.id = "identity-" + name;
    identity.keyId = out.key.id;
    identity.installation = installation;
    identity.keychainPath = kSystemKeychain;
    identity.source = "pkcs12";
    identity.label = "Label of " + name;
    identity.accessGroup = "com.apple.managed.vpn.shared";
    identity.profileIdentifier = profile;
    identity.payloadIdentifier = profile + ".identity";
    identity.payloadUuid = out.key.payloadUuid;
    identity.chain = {certify(out.pkey.get(), serial, ca_.get()), certify(ca_.get(), Bytes{1}, ca_.get())};
    identity.attested = true;
    identity.stateDetail = "fresh";
    identity.reference = mint(identity);
    return out;
  }

  static Bytes mint(const IdentityRecord& identity, bool marker = false) {
    const CertificateName leaf = certificateName(identity.chain.front()).value();
    return mintFileReference(identity.keychainPath, leaf.issuer, leaf.serial, marker).value();
  }

  Fixture stage(const std::string& installation, const std::string& name, const std::string& profile,
                ByteView serial = Bytes{0x48, 0x01}) {
    Fixture made = make(installation, name, profile, serial);
    EXPECT_TRUE(store_->beginInstallation(installation));
    EXPECT_TRUE(store_->addKey(made.key));
    const Status added = store_->addIdentity(made.identity);
    EXPECT_TRUE(added) << describe(added.error());
    return made;
  }

  Fixture install(const std::string& installation, const std::string& name, const std::string& profile,
                  ByteView serial = Bytes{0x48, 0x01}) {
    Fixture made = stage(installation, name, profile, serial);
    EXPECT_TRUE(store_->commit(installation, {}));
    return made;
  }

  Strings ids() {
    Strings out;
    const auto all = store_->identities().value();
    for (const IdentityRecord& identity : all) out.push_back(identity.id);
    return out;
  }

  std::string folder_, path_;
  keys::EvpPkeyPtr ca_;
  std::unique_ptr<Store> store_;
};

// --- Installing ---

TEST_F(StoreTest, StagedIsInvisibleUntilCommitAndWholeAfterIt) {
  const Fixture made = stage("I1", "a", "profile");
  EXPECT_TRUE(ids().empty());
  EXPECT_EQ(store_->resolve(made.identity.reference).error().reason, Reason::NotFound);
  EXPECT_EQ(store_->identity(made.identity.id).value().state, IdentityState::Staged);
  EXPECT_EQ(store_->pendingInstallations().value(), Strings{"I1"});

  const auto result = store_->commit("I1", {});
  ASSERT_TRUE(result);
  EXPECT_EQ(result->added, Strings{"identity-a"});
  EXPECT_TRUE(result->removed.empty());
  EXPECT_TRUE(store_->pendingInstallations()->empty());
  reopen();

  const IdentityRecord stored = store_->resolve(made.identity.reference).value();
  EXPECT_EQ(stored.id, made.identity.id);
  EXPECT_EQ(stored.state, IdentityState::Active);
  EXPECT_TRUE(stored.installation.empty());
  EXPECT_EQ(stored.chain, made.identity.chain);
  EXPECT_EQ(stored.label, made.identity.label);
  EXPECT_EQ(stored.accessGroup, made.identity.accessGroup);
  EXPECT_EQ(stored.payloadIdentifier, made.identity.payloadIdentifier);
  EXPECT_EQ(stored.stateDetail, "fresh");
  EXPECT_TRUE(stored.attested);
  const KeyRecord key = store_->key(stored.keyId).value();
  EXPECT_EQ(key.blob, made.key.blob);
  EXPECT_EQ(key.spki, made.key.spki);
  EXPECT_TRUE(key.installation.empty());
}

TEST_F(StoreTest, BeginIsIdempotentAndAnIdIsUsedOnce) {
  EXPECT_TRUE(store_->beginInstallation("I1"));
  EXPECT_TRUE(store_->beginInstallation("I1"));
  EXPECT_EQ(store_->beginInstallation("").error().reason, Reason::BadInput);
  EXPECT_TRUE(store_->commit("I1", {}));
  EXPECT_EQ(store_->beginInstallation("I1").error().reason, Reason::Conflict);
}

TEST_F(StoreTest, SecondCommitDoesNothing) {
  install("I1", "a", "profile");
  const auto again = store_->commit("I1", {"profile"});
  ASSERT_TRUE(again);
  EXPECT_TRUE(again->added.empty());
  EXPECT_TRUE(again->removed.empty());
  EXPECT_EQ(ids(), Strings{"identity-a"});
}

TEST_F(StoreTest, CommitOfAnUnknownInstallationIsAConflict) {
  EXPECT_EQ(store_->commit("nobody", {}).error().reason, Reason::Conflict);
}

TEST_F(StoreTest, AbortForgetsWhatWasStagedAndTheIdMayBeginAgain) {
  stage("I1", "a", "profile");
  EXPECT_TRUE(store_->abort("I1"));
  EXPECT_TRUE(store_->abort("I1"));
  EXPECT_EQ(store_->identity("identity-a").error().reason, Reason::NotFound);
  EXPECT_EQ(store_->key("key-a").error().reason, Reason::NotFound);
  EXPECT_FALSE(store_->holdsSealedKeys().value());
  EXPECT_EQ(store_->commit("I1", {}).error().reason, Reason::Conflict);
  install("I1", "a", "profile");
  EXPECT_EQ(ids(), Strings{"identity-a"});
}

TEST_F(StoreTest, AbortAfterCommitIsRefusedAndRemovesNothing) {
  install("I1", "a", "profile");
  EXPECT_EQ(store_->abort("I1").error().reason, Reason::Conflict);
  EXPECT_EQ(ids(), Strings{"identity-a"});
}

TEST_F(StoreTest, ReplacingAProfileRetiresItsIdentitiesAndTheirKeys) {
  install("I1", "old", "profile");
  install("I2", "other", "another profile", Bytes{2});
  stage("I3", "new", "profile", Bytes{3});
  const auto result = store_->commit("I3", {"profile"});
  ASSERT_TRUE(result);
  EXPECT_EQ(result->added, Strings{"identity-new"});
  EXPECT_EQ(result->removed, Strings{"identity-old"});
  EXPECT_EQ(ids(), (Strings{"identity-other", "identity-new"}));
  EXPECT_EQ(store_->key("key-old").error().reason, Reason::NotFound);
  EXPECT_TRUE(store_->key("key-other"));
}

TEST_F(StoreTest, ReinstallingTheSameCertificateKeepsItsReferenceWorking) {
  const Fixture old = install("I1", "old", "profile");
  Fixture again = make("I2", "new", "profile");
  again.key.spki = old.key.spki;
  again.identity.chain = old.identity.chain;
  again.identity.reference = old.identity.reference;
  ASSERT_TRUE(store_->beginInstallation("I2"));
  ASSERT_TRUE(store_->addKey(again.key));
  ASSERT_TRUE(store_->addIdentity(again.identity));
  EXPECT_EQ(store_->resolve(old.identity.reference)->id, "identity-old");
  ASSERT_TRUE(store_->commit("I2", {"profile"}));
  EXPECT_EQ(store_->resolve(old.identity.reference)->id, "identity-new");
}

// managementd was killed between the bind and noting its answer, bound again after the restart, and both were committed.
TEST_F(StoreTest, BugACertificateBoundAgainAfterACrashWasASecondIdentity) {
  Fixture first = stage("I1", "first", "profile");
  IdentityRecord again = first.identity;
  again.id = "identity-again";
  again.chain = {certify(first.pkey.get(), Bytes{0x48, 0x02}, ca_.get())};
  again.reference = mint(again);
  ASSERT_TRUE(store_->addIdentity(again));
  EXPECT_EQ(store_->addIdentity(again).error().reason, Reason::Duplicate);
  ASSERT_TRUE(store_->commit("I1", {}));
  const auto identities = store_->identities();
  ASSERT_EQ(identities->size(), 1u);
  EXPECT_EQ(identities->front().id, "identity-again");
  EXPECT_EQ(store_->resolve(first.identity.reference).error().reason, Reason::NotFound);
}

TEST_F(StoreTest, AKeyThatARemainingIdentityUsesStays) {
  const Fixture old = install("I1", "old", "profile");
  Fixture next = make("I2", "new", "profile", Bytes{9});
  next.identity.keyId = old.key.id;
  next.identity.chain = {certify(old.pkey.get(), Bytes{9}, ca_.get())};
  next.identity.reference = mint(next.identity);
  ASSERT_TRUE(store_->beginInstallation("I2"));
  ASSERT_TRUE(store_->addIdentity(next.identity));
  ASSERT_TRUE(store_->commit("I2", {"profile"}));
  EXPECT_TRUE(store_->key(old.key.id));
  EXPECT_EQ(ids(), Strings{"identity-new"});
}

TEST_F(StoreTest, KeysWithoutAnIdentityGoAtCommitAndWaitUntilThen) {
  install("I0", "other", "another profile", Bytes{2});
  const Fixture made = make("I1", "a", "profile");
  ASSERT_TRUE(store_->beginInstallation("I1"));
  ASSERT_TRUE(store_->addKey(made.key));
  ASSERT_TRUE(store_->removeProfile("another profile"));  // sweeping keys must not take the waiting one
  EXPECT_TRUE(store_->key(made.key.id));
  ASSERT_TRUE(store_->commit("I1", {}));
  EXPECT_EQ(store_->key(made.key.id).error().reason, Reason::NotFound);
}

TEST_F(StoreTest, RemovingAProfileTakesItsIdentitiesOnly) {
  install("I1", "a", "profile");
  install("I2", "b", "another profile", Bytes{2});
  stage("I3", "c", "profile", Bytes{3});
  EXPECT_EQ(store_->removeProfile("profile").value(), Strings{"identity-a"});
  EXPECT_TRUE(store_->removeProfile("profile")->empty());
  EXPECT_EQ(ids(), Strings{"identity-b"});
  EXPECT_TRUE(store_->identity("identity-c"));  // belongs to its installation
}

// --- What is refused ---

TEST_F(StoreTest, NothingIsStagedOutsideAPendingInstallation) {
  const Fixture made = make("I1", "a", "profile");
  EXPECT_EQ(store_->addKey(made.key).error().reason, Reason::Conflict);
  ASSERT_TRUE(store_->beginInstallation("I1"));
  ASSERT_TRUE(store_->addKey(made.key));
  ASSERT_TRUE(store_->commit("I1", {}));
  EXPECT_EQ(store_->addIdentity(made.identity).error().reason, Reason::Conflict);
}

TEST_F(StoreTest, OnePayloadGetsOneKey) {
  const Fixture made = stage("I1", "a", "profile");
  EXPECT_EQ(store_->addKey(made.key).error().reason, Reason::Duplicate);
  KeyRecord second = made.key;
  second.id = "key-second";
  EXPECT_EQ(store_->addKey(second).error().reason, Reason::Duplicate);
  EXPECT_EQ(store_->keyFor("I1", made.key.payloadUuid).value()->id, made.key.id);
  EXPECT_FALSE(store_->keyFor("I1", "another payload").value());
  EXPECT_FALSE(store_->keyFor("I2", made.key.payloadUuid).value());
  second.blob.clear();
  EXPECT_EQ(store_->addKey(second).error().reason, Reason::BadInput);
}

TEST_F(StoreTest, IdentityMustFitItsKeyItsChainAndItsReference) {
  const Fixture made = make("I1", "a", "profile");
  const Fixture other = make("I1", "b", "profile", Bytes{7});
  ASSERT_TRUE(store_->beginInstallation("I1"));
  EXPECT_EQ(store_->addIdentity(made.identity).error().reason, Reason::NotFound);  // no such key
  ASSERT_TRUE(store_->addKey(made.key));

  IdentityRecord bent = made.identity;
  bent.chain = other.identity.chain;
  bent.reference = other.identity.reference;
  EXPECT_EQ(store_->addIdentity(bent).error().reason, Reason::KeyMismatch);

  bent = made.identity;
  bent.reference = other.identity.reference;
  EXPECT_EQ(store_->addIdentity(bent).error().reason, Reason::BadInput);
  bent.reference.clear();
  EXPECT_EQ(store_->addIdentity(bent).error().reason, Reason::BadInput);

  bent = made.identity;
  bent.chain.clear();
  EXPECT_EQ(store_->addIdentity(bent).error().reason, Reason::BadInput);
  bent.chain = {toBytes("not a certificate")};
  EXPECT_EQ(store_->addIdentity(bent).error().reason, Reason::BadInput);
  bent.chain.assign(17, made.identity.chain.front());
  EXPECT_EQ(store_->addIdentity(bent).error().reason, Reason::BadInput);
  bent = made.identity;
  bent.chain.front().push_back(0);
  EXPECT_EQ(store_->addIdentity(bent).error().reason, Reason::BadInput);

  EXPECT_TRUE(store_->addIdentity(made.identity));
  EXPECT_EQ(store_->addIdentity(made.identity).error().reason, Reason::Duplicate);
}

// --- References ---

TEST_F(StoreTest, MarkedAndUnmarkedReferencesNameTheSameIdentity) {
  const Fixture made = install("I1", "a", "profile");
  EXPECT_EQ(store_->resolve(mint(made.identity, true))->id, made.identity.id);
}

TEST_F(StoreTest, ASerialWithItsTopBitSetKeepsItsLeadingZero) {
  const Fixture made = install("I1", "a", "profile", Bytes{0xfb, 0xff, 0xa8});
  EXPECT_EQ(certificateName(made.identity.chain.front())->serial, (Bytes{0x00, 0xfb, 0xff, 0xa8}));
  EXPECT_TRUE(store_->resolve(made.identity.reference));
}

TEST_F(StoreTest, AnotherPathOrSerialNamesAnotherItem) {
  const Fixture made = install("I1", "a", "profile");
  IdentityRecord elsewhere = made.identity;
  elsewhere.keychainPath = "~/Library/Keychains/login.keychain-db";
  EXPECT_EQ(store_->resolve(mint(elsewhere)).error().osStatus, errSecItemNotFound);
  elsewhere = made.identity;
  elsewhere.chain = {certify(made.pkey.get(), Bytes{0x48, 0x02}, ca_.get())};
  EXPECT_EQ(store_->resolve(mint(elsewhere)).error().reason, Reason::NotFound);
}

TEST_F(StoreTest, DataProtectionRowsAreFoundByCertAndByIdnt) {
  Fixture made = make("I1", "a", "profile");
  made.identity.keychain = KeychainKind::DataProtection;
  made.identity.keychainPath.clear();
  std::copy_n(randomBytes(16).begin(), 16, made.identity.uuid.begin());
  made.identity.reference = mintDataProtectionReference(ItemClass::Certificate, made.identity.uuid);
  ASSERT_TRUE(store_->beginInstallation("I1"));
  ASSERT_TRUE(store_->addKey(made.key));
  ASSERT_TRUE(store_->addIdentity(made.identity));
  ASSERT_TRUE(store_->commit("I1", {}));

  const auto by = [&](ItemClass itemClass) {
    return store_->resolve(mintDataProtectionReference(itemClass, made.identity.uuid));
  };
  EXPECT_EQ(by(ItemClass::Certificate)->id, made.identity.id);
  EXPECT_EQ(by(ItemClass::Identity)->id, made.identity.id);
  EXPECT_EQ(by(ItemClass::Identity)->uuid, made.identity.uuid);
  EXPECT_EQ(by(ItemClass::Key).error().reason, Reason::NotFound);
  EXPECT_EQ(by(ItemClass::GenericPassword).error().reason, Reason::NotFound);
  // The same certificate by its issuer and serial is an item of a file keychain, and there is none.
  IdentityRecord asFile = made.identity;
  asFile.keychainPath = kSystemKeychain;
  EXPECT_EQ(store_->resolve(mint(asFile)).error().reason, Reason::NotFound);
  EXPECT_EQ(store_->resolve(mintDataProtectionReference(ItemClass::Certificate, {1, 2, 3})).error().osStatus,
            errSecItemNotFound);
}

TEST_F(StoreTest, EveryTruncationOfAReferenceIsRefused) {
  const Fixture made = install("I1", "a", "profile");
  const Bytes& reference = made.identity.reference;
  for (size_t length = 0; length < reference.size(); ++length) {
    const auto resolved = store_->resolve(ByteView(reference).first(length));
    ASSERT_FALSE(resolved) << length;
    EXPECT_TRUE(resolved.error().reason == Reason::BadInput || resolved.error().reason == Reason::NotFound) << length;
  }
  Bytes longer = reference;
  longer.push_back(0);
  EXPECT_EQ(store_->resolve(longer).error().reason, Reason::BadInput);
  EXPECT_EQ(store_->resolve({}).error().reason, Reason::BadInput);
  EXPECT_NE(store_->resolve({}).error().osStatus, 0);
}

TEST_F(StoreTest, ReferencesThatOnlyOthersMintAreNotFound) {
  Bytes rowId = toBytes("cert");
  append(rowId, Bytes{0, 0, 0, 0, 0, 0, 0, 42});
  EXPECT_EQ(store_->resolve(rowId).error().reason, Reason::NotFound);
}

// --- Renewal and state ---

TEST_F(StoreTest, RenewalKeepsTheReferenceAndTheOldSerial) {
  const Fixture made = install("I1", "a", "profile");
  IdentityRecord renewed = made.identity;
  renewed.chain = {certify(made.pkey.get(), Bytes{0x50}, ca_.get())};
  ASSERT_TRUE(store_->renewCertificate(made.identity.id, renewed.chain));
  reopen();

  for (const Bytes& reference : {made.identity.reference, mint(renewed), mint(renewed, true)}) {
    const auto found = store_->resolve(reference);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->id, made.identity.id);
    EXPECT_EQ(found->reference, made.identity.reference);
    EXPECT_EQ(found->chain, renewed.chain);
    EXPECT_EQ(found->previousChain, made.identity.chain);
  }
  ASSERT_TRUE(store_->confirmCertificate(made.identity.id));
  ASSERT_TRUE(store_->confirmCertificate(made.identity.id));
  EXPECT_TRUE(store_->resolve(made.identity.reference)->previousChain.empty());
}

TEST_F(StoreTest, ASecondRenewalBeforeServiceKeepsTheChainThatServed) {
  const Fixture made = install("I1", "a", "profile");
  ASSERT_TRUE(store_->renewCertificate("identity-a", {certify(made.pkey.get(), Bytes{0x50}, ca_.get())}));
  const std::vector<Bytes> second{certify(made.pkey.get(), Bytes{0x51}, ca_.get())};
  ASSERT_TRUE(store_->renewCertificate("identity-a", second));
  ASSERT_TRUE(store_->renewCertificate("identity-a", second));  // the same again: nothing changes
  const IdentityRecord found = store_->identity("identity-a").value();
  EXPECT_EQ(found.chain, second);
  EXPECT_EQ(found.previousChain, made.identity.chain);
}

TEST_F(StoreTest, RenewalIsRefusedForAnotherKeyAnUnknownAndAStagedIdentity) {
  const Fixture made = install("I1", "a", "profile");
  const keys::EvpPkeyPtr other = newKey();
  EXPECT_EQ(store_->renewCertificate("identity-a", {certify(other.get(), Bytes{5}, ca_.get())}).error().reason,
            Reason::KeyMismatch);
  EXPECT_EQ(store_->renewCertificate("nobody", made.identity.chain).error().reason, Reason::NotFound);
  EXPECT_EQ(store_->renewCertificate("identity-a", {}).error().reason, Reason::BadInput);
  EXPECT_EQ(store_->confirmCertificate("nobody").error().reason, Reason::NotFound);
  const Fixture staged = stage("I2", "b", "profile", Bytes{2});
  EXPECT_EQ(store_->renewCertificate("identity-b", staged.identity.chain).error().reason, Reason::Conflict);
}

TEST_F(StoreTest, ALostIdentityStillResolvesAndSaysSo) {
  const Fixture made = install("I1", "a", "profile");
  ASSERT_TRUE(store_->setState("identity-a", IdentityState::Lost, "the TPM was cleared"));
  const IdentityRecord found = store_->resolve(made.identity.reference).value();
  EXPECT_EQ(found.state, IdentityState::Lost);
  EXPECT_EQ(found.stateDetail, "the TPM was cleared");
  EXPECT_EQ(ids(), Strings{"identity-a"});
  ASSERT_TRUE(store_->setState("identity-a", IdentityState::Active, ""));
  EXPECT_EQ(store_->setState("identity-a", IdentityState::Staged, "").error().reason, Reason::Conflict);
  EXPECT_EQ(store_->setState("nobody", IdentityState::Lost, "").error().reason, Reason::NotFound);
  stage("I2", "b", "profile", Bytes{2});
  EXPECT_EQ(store_->setState("identity-b", IdentityState::Active, "").error().reason, Reason::Conflict);
}

TEST_F(StoreTest, NamedValuesReplaceEachOther) {
  EXPECT_FALSE(store_->value("srk").value());
  ASSERT_TRUE(store_->setValue("srk", Bytes{1, 2}));
  ASSERT_TRUE(store_->setValue("srk", Bytes{}));
  EXPECT_EQ(store_->value("srk").value(), Bytes{});
  ASSERT_TRUE(store_->setValue("srk", Bytes{3}));
  reopen();
  EXPECT_EQ(store_->value("srk").value(), Bytes{3});
  EXPECT_EQ(store_->setValue("big", Bytes(2 * 1024 * 1024)).error().reason, Reason::BadInput);
}

TEST_F(StoreTest, SaysWhetherSealedKeysAreThere) {
  EXPECT_FALSE(store_->holdsSealedKeys().value());
  Fixture made = make("I1", "a", "profile");
  ASSERT_TRUE(store_->beginInstallation("I1"));
  made.key.kind = keys::KeyKind::Tpm;
  ASSERT_TRUE(store_->addKey(made.key));
  EXPECT_FALSE(store_->holdsSealedKeys().value());
  stage("I1", "b", "profile", Bytes{2});
  EXPECT_TRUE(store_->holdsSealedKeys().value());
  EXPECT_EQ(store_->key("key-a")->kind, keys::KeyKind::Tpm);
}

// --- The file ---

TEST_F(StoreTest, TheFilesArePrivateEvenUnderAnOpenUmask) {
  store_.reset();
  fs::remove(path_);
  const mode_t before = ::umask(0);
  store_ = openStore(path_);
  install("I1", "a", "profile");
  ::umask(before);
  for (const auto& file : fs::directory_iterator(folder_)) {
    struct stat info{};
    ASSERT_EQ(::stat(file.path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0600u) << file.path();
  }
}

TEST_F(StoreTest, ASecondOpenerSeesCommitsAndWritersWaitForEachOther) {
  const auto second = openStore(path_);
  install("I1", "a", "profile");
  EXPECT_EQ(second->identities()->size(), 1u);
  std::atomic<int> good = 0;
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        Store& store = t % 2 == 0 ? *store_ : *second;
        for (int i = 0; i < 20; ++i)
          good += store.setValue(std::to_string(t), Bytes{static_cast<uint8_t>(i)}) && store.identities();
      });
    }
  }
  EXPECT_EQ(good, 80);
}

TEST_F(StoreTest, AFileThatIsNotADatabaseIsRefusedAndLeftAlone) {
  const std::string other = folder_ + "/notes.txt";
  const Bytes notes(5000, 'x');
  ASSERT_TRUE(writeFileAtomically(other, notes, 0644));
  EXPECT_EQ(Store::open(other).error().reason, Reason::BadInput);
  EXPECT_EQ(readFile(other, 10'000).value(), notes);
}

TEST_F(StoreTest, SomebodyElsesDatabaseIsRefusedAndLeftAlone) {
  const std::string other = folder_ + "/other.db";
  sqlite3* raw = nullptr;
  ASSERT_EQ(sqlite3_open(other.c_str(), &raw), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(raw, "CREATE TABLE t (x)", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(raw);
  const Bytes before = readFile(other, 1'000'000).value();
  EXPECT_EQ(Store::open(other).error().reason, Reason::BadInput);
  EXPECT_EQ(readFile(other, 1'000'000).value(), before);
}

TEST_F(StoreTest, ANewerSchemaIsRefusedAndNamesTheNextStep) {
  store_.reset();
  sqlite3* raw = nullptr;
  ASSERT_EQ(sqlite3_open(path_.c_str(), &raw), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(raw, "PRAGMA user_version = 99", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(raw);
  const auto opened = Store::open(path_);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().reason, Reason::BadInput);
  EXPECT_FALSE(opened.error().hint.empty());
}

TEST_F(StoreTest, DamageIsFoundWhenTheFileIsOpened) {
  install("I1", "a", "profile");
  store_.reset();  // checkpoints: everything is in the main file
  const Bytes whole = readFile(path_, 10'000'000).value();
  int refused = 0;
  // The first bytes of every page hold its structure: overwrite them one page at a time.
  for (size_t page = 0; page < whole.size(); page += 4096) {
    Bytes bent = whole;
    std::fill_n(bent.begin() + static_cast<ptrdiff_t>(page), 64, uint8_t{0xa5});
    ASSERT_TRUE(writeFileAtomically(path_, bent));
    const auto opened = Store::open(path_);
    if (opened) continue;
    EXPECT_EQ(opened.error().reason, Reason::BadInput) << describe(opened.error());
    ++refused;
  }
  EXPECT_EQ(refused, static_cast<int>(whole.size() / 4096));
  ASSERT_TRUE(writeFileAtomically(path_, ByteView(whole).first(whole.size() / 2)));
  EXPECT_EQ(Store::open(path_).error().reason, Reason::BadInput);
}

TEST_F(StoreTest, OpenRefusesAFolderALinkAndAMissingParent) {
  EXPECT_FALSE(Store::open(folder_));
  fs::create_symlink(path_, folder_ + "/link.db");
  EXPECT_EQ(Store::open(folder_ + "/link.db").error().reason, Reason::Io);
  EXPECT_EQ(Store::open(folder_ + "/none/x.db").error().reason, Reason::Io);
}

// --- Crashes ---

// Each prefix of an installation, then the process dies without closing anything. What was answered must be there, and
// the rest of the work must be possible.
TEST_F(StoreTest, ACrashBetweenAnyTwoStepsLosesNothingAnswered) {
  const Fixture old = install("I0", "old", "profile");
  const Fixture made = make("I1", "new", "profile", Bytes{2});
  store_.reset();
  const fs::path before = folder_ + "/before.db";
  fs::copy_file(path_, before);

  for (int steps = 0; steps <= 4; ++steps) {
    for (const char* suffix : {"", "-wal", "-shm"}) fs::remove(path_ + suffix);
    fs::copy_file(before, path_);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      auto store = Store::open(path_);
      bool good = store.has_value();
      if (good && steps > 0) good = (*store)->beginInstallation("I1").has_value();
      if (good && steps > 1) good = (*store)->addKey(made.key).has_value();
      if (good && steps > 2) good = (*store)->addIdentity(made.identity).has_value();
      if (good && steps > 3) good = (*store)->commit("I1", {"profile"}).has_value();
      ::_exit(good ? 0 : 1);  // no destructor, no checkpoint
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0) << steps;

    store_ = openStore(path_);
    EXPECT_EQ(ids(), Strings{steps < 4 ? "identity-old" : "identity-new"}) << steps;
    EXPECT_EQ(store_->pendingInstallations()->size(), steps == 0 || steps == 4 ? 0u : 1u);
    EXPECT_EQ(store_->key(made.key.id).has_value(), steps > 1);
    EXPECT_EQ(store_->identity(made.identity.id).has_value(), steps > 2);
    EXPECT_EQ(store_->key(old.key.id).has_value(), steps < 4);
    if (steps == 4) {
      EXPECT_TRUE(store_->commit("I1", {"profile"})->added.empty());  // managementd commits again after its own crash
    } else {
      EXPECT_TRUE(store_->abort("I1"));
      EXPECT_FALSE(store_->key(made.key.id));
      EXPECT_EQ(ids(), Strings{"identity-old"});
    }
    store_.reset();
  }
}

// The write-ahead log of one commit, cut at every length a power failure could leave: the commit is there or it is not.
TEST_F(StoreTest, ACommitTornAtAnyByteHappenedOrDidNot) {
  install("I0", "old", "profile");
  stage("I1", "new", "profile", Bytes{2});
  reopen();  // everything so far is in the main file
  const Bytes base = readFile(path_, 10'000'000).value();
  ASSERT_TRUE(store_->commit("I1", {"profile"}));
  const Bytes log = readFile(path_ + "-wal", 10'000'000).value();
  ASSERT_GT(log.size(), 4096u);

  bool sawOld = false, sawNew = false;
  const std::string copy = folder_ + "/torn.db";
  for (size_t length = 0; length <= log.size();
       length = length == log.size() ? length + 1 : std::min(length + 509, log.size())) {
    fs::remove(copy + "-shm");
    ASSERT_TRUE(writeFileAtomically(copy, base));
    ASSERT_TRUE(writeFileAtomically(copy + "-wal", ByteView(log).first(length)));
    const auto torn = openStore(copy);
    const auto identities = torn->identities().value();
    ASSERT_EQ(identities.size(), 1u) << length;
    const bool isNew = identities[0].id == "identity-new";
    EXPECT_EQ(torn->pendingInstallations()->empty(), isNew) << length;
    EXPECT_EQ(torn->key("key-old").has_value(), !isNew) << length;
    (isNew ? sawNew : sawOld) = true;
  }
  EXPECT_TRUE(sawOld);
  EXPECT_TRUE(sawNew);
}

}  // namespace
}  // namespace wayleave::keychain
