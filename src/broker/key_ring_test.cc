// Keys by their records: sealed ones, and ones in real software TPMs.

#include "broker/key_ring.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "broker/broker_test_support.h"
#include "keys/software_key.h"
#include "keys/tpm/attestation_check.h"
#include "keys/tpm/swtpm_test_support.h"

namespace wayleave::broker {
namespace {

using keys::tpm::SwTpm;
using testing::HasSubstr;

constexpr auto kScheme = keys::SignatureScheme::EcdsaSecp384r1Sha384;

Steady soon() { return std::chrono::steady_clock::now() + std::chrono::seconds{30}; }

std::shared_ptr<keys::tpm::TpmDevice> deviceOn(const SwTpm& tpm) {
  keys::tpm::TpmOptions options;
  options.tcti = tpm.tcti();
  return std::make_shared<keys::tpm::TpmDevice>(options);
}

class KeyRingTest : public testing::Test {
 protected:
  std::unique_ptr<MachineKeys> ring(std::shared_ptr<keys::tpm::TpmDevice> tpm = nullptr) {
    return std::make_unique<MachineKeys>(*store, keys::Sealer::withKey(Secret(Bytes(32, 9))), std::move(tpm), clock);
  }
  static keychain::KeyRecord recordOf(std::string id, MadeKey made) {
    return {.id = std::move(id),
            .installation = "i",
            .payloadUuid = "p",
            .kind = made.kind,
            .spki = made.spki,
            .blob = made.blob};
  }
  TemporaryFolder folder;
  SystemClock clock;
  std::unique_ptr<keychain::Store> store = keychain::Store::open(folder / "identities.db").value();
};

TEST_F(KeyRingTest, SoftwareKeysAreSealedToTheirRecord) {
  const auto keys = ring();
  const keychain::KeyRecord record = recordOf("a", keys->create("a", keys::KeyType::EcP384, 0, false).value());
  EXPECT_EQ("WLS", asText(ByteView(record.blob).first(3)));
  EXPECT_TRUE(keys->open(record).value()->sign(kScheme, asBytes("x"), soon()));
  keychain::KeyRecord moved = record;
  moved.id = "b";
  EXPECT_EQ(Reason::BadInput, keys->open(moved).error().reason);
}

TEST_F(KeyRingTest, WithoutItsMachineKeyADaemonSaysSoPerKey) {
  const keychain::KeyRecord record = recordOf("a", ring()->create("a", keys::KeyType::EcP256, 0, false).value());
  MachineKeys locked(*store, fail(Reason::IdentityUnavailable, "machine.key is missing"), nullptr, clock);
  EXPECT_EQ(Reason::IdentityUnavailable, locked.open(record).error().reason);
  EXPECT_THAT(locked.open(record).error().message, HasSubstr("machine.key is missing"));
  EXPECT_FALSE(locked.create("b", keys::KeyType::EcP256, 0, false));
  EXPECT_EQ("none", locked.tpmState().state);
}

TEST_F(KeyRingTest, ATpmKeyWithoutATpmIsUnavailableNotReplaced) {
  if (const auto why = SwTpm::missing()) GTEST_SKIP() << *why;
  SwTpm tpm;
  tpm.start();
  const keychain::KeyRecord record =
      recordOf("a", ring(deviceOn(tpm))->create("a", keys::KeyType::EcP384, 0, true).value());
  EXPECT_EQ(keys::KeyKind::Tpm, record.kind);
  EXPECT_EQ(Reason::IdentityUnavailable, ring()->open(record).error().reason);
}

TEST_F(KeyRingTest, ATpmKeySignsAndIsLostOnAnotherTpm) {
  if (const auto why = SwTpm::missing()) GTEST_SKIP() << *why;
  SwTpm tpm;
  tpm.start();
  keychain::KeyRecord record;
  {
    const auto keys = ring(deviceOn(tpm));
    record = recordOf("a", keys->create("a", keys::KeyType::EcP384, 0, true).value());
    const Result<Bytes> signature = keys->open(record).value()->sign(kScheme, asBytes("x"), soon());
    EXPECT_TRUE(signature) << signature.error().message;
    EXPECT_TRUE(keys->checkStorageRoot());
    EXPECT_EQ("ready", keys->tpmState().state);
  }
  SwTpm other(SwTpm::Kind::Blank);
  other.start();
  const auto moved = ring(deviceOn(other));  // the same state beside another TPM
  EXPECT_EQ(Reason::IdentityLost, moved->checkStorageRoot().error().reason);
  EXPECT_EQ("IDENTITY_LOST", moved->tpmState().state);
  EXPECT_EQ(Reason::IdentityLost, moved->open(record).value()->sign(kScheme, asBytes("x"), soon()).error().reason);
}

TEST_F(KeyRingTest, BeginsTheEnrolmentOfOneAttestationKeyAndKeepsIt) {
  if (const auto why = SwTpm::missing()) GTEST_SKIP() << *why;
  SwTpm tpm;
  tpm.start();
  const auto keys = ring(deviceOn(tpm));
  const keychain::KeyRecord record = recordOf("a", keys->create("a", keys::KeyType::EcP384, 0, true).value());
  const Error unenrolled = keys->attest(record, Bytes(32, 1)).error();
  EXPECT_EQ(Reason::Conflict, unenrolled.reason);
  EXPECT_EQ(Reason::Conflict, keys->activateCredential({}, {}).error().reason);

  const Result<localapi::AkEnrolment> first = keys->beginAkEnrolment();
  ASSERT_TRUE(first) << first.error().message;
  EXPECT_FALSE(first->chainValid);
  EXPECT_TRUE(keys::tpm::validateAttestationKey(first->akPublic, first->createData, first->createAttestation,
                                                first->createSignature));
  EXPECT_FALSE(first->ek.empty());
  const localapi::AkEnrolment again = keys->beginAkEnrolment().value();
  EXPECT_EQ(first->akPublic, again.akPublic) << "a second begin must not make a second key";
  EXPECT_FALSE(keys->storeAkChain({})) << "no chain";
  EXPECT_FALSE(keys->storeAkChain({Bytes{0x30, 0}})) << "not a certificate";
  EXPECT_FALSE(keys->activateCredential(Bytes(10), Bytes(10)));

  const keychain::KeyRecord software = recordOf("b", keys->create("b", keys::KeyType::EcP384, 0, false).value());
  EXPECT_EQ(Reason::Unsupported, keys->attest(software, Bytes(32, 1)).error().reason);
}

TEST_F(KeyRingTest, ADeadTpmIsAnErrorPerCallAndMakesNoKey) {
  keys::tpm::TpmOptions options;
  options.tcti = "swtpm:path=" + (folder / "nobody.sock");
  const auto keys = ring(std::make_shared<keys::tpm::TpmDevice>(options));
  EXPECT_FALSE(keys->create("a", keys::KeyType::EcP384, 0, true));
  EXPECT_FALSE(keys->beginAkEnrolment());
  EXPECT_TRUE(keys->create("b", keys::KeyType::EcP384, 0, false)) << "software keys go on";
  EXPECT_NE("ready", keys->tpmState().state);
}

}  // namespace
}  // namespace wayleave::broker
