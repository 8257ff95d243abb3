#include "keys/sealer.h"

#include <gtest/gtest.h>
#include <openssl/crypto.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "base/file.h"

namespace wayleave::keys {
namespace {

class SealerTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "sealer.XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    path_ = folder_ + "/machine.key";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Sealer fresh() { return Sealer::open(path_, StoreAge::New).value(); }

  std::string folder_, path_;
};

TEST_F(SealerTest, WhatIsSealedComesBackAfterARestart) {
  const Secret clear = Secret::copyOf("a private key");
  const Bytes blob = fresh().seal(clear, "row-1").value();
  const Sealer again = Sealer::open(path_, StoreAge::Existing).value();
  EXPECT_EQ(again.unseal(blob, "row-1").value().viewText(), "a private key");
}

// Review of issue 5, number 5: "locked secrets", but the key that seals all others was on the ordinary heap.
TEST_F(SealerTest, TheMachineKeyIsOnTheLockedHeap) {
  ASSERT_NE(0, CRYPTO_secure_malloc_init(64 * 1024, 32));
  const size_t before = CRYPTO_secure_used();
  {
    Sealer sealer = fresh();
    EXPECT_GE(CRYPTO_secure_used(), before + 32);
    const Sealer moved = std::move(sealer);
    EXPECT_TRUE(moved.seal(Secret::copyOf("x"), "row"));
  }
  EXPECT_EQ(before, CRYPTO_secure_used());
}

TEST_F(SealerTest, TheEmptySecretHasARoundTripToo) {
  const Sealer sealer = fresh();
  EXPECT_TRUE(sealer.unseal(sealer.seal(Secret{}, "").value(), "").value().empty());
}

TEST_F(SealerTest, TheBlobShowsNothingAndNeverRepeats) {
  const Sealer sealer = fresh();
  const Secret clear = Secret::copyOf("a private key");
  const Bytes one = sealer.seal(clear, "row-1").value();
  const Bytes two = sealer.seal(clear, "row-1").value();
  EXPECT_NE(one, two);
  EXPECT_EQ(asText(one).find("private"), std::string_view::npos);
}

TEST_F(SealerTest, ABlobMovedToAnotherRowDoesNotOpen) {
  const Sealer sealer = fresh();
  const Bytes blob = sealer.seal(Secret::copyOf("x"), "row-1").value();
  EXPECT_EQ(sealer.unseal(blob, "row-2").error().reason, Reason::BadInput);
  EXPECT_EQ(sealer.unseal(blob, "").error().reason, Reason::BadInput);
}

TEST_F(SealerTest, EveryFlippedBitAndEveryTruncationIsNoticed) {
  const Sealer sealer = fresh();
  const Bytes blob = sealer.seal(Secret::copyOf("secret"), "row").value();
  for (size_t bit = 0; bit < blob.size() * 8; ++bit) {
    Bytes bent = blob;
    bent[bit / 8] ^= static_cast<uint8_t>(1u << bit % 8);
    EXPECT_FALSE(sealer.unseal(bent, "row")) << bit;
  }
  for (size_t length = 0; length < blob.size(); ++length)
    EXPECT_FALSE(sealer.unseal(ByteView(blob).first(length), "row")) << length;
}

TEST_F(SealerTest, AnotherMachineKeyIsToldApartFromDamage) {
  const Bytes blob = fresh().seal(Secret::copyOf("x"), "row").value();
  const Sealer other = Sealer::withKey(Secret(randomBytes(32))).value();
  EXPECT_EQ(other.unseal(blob, "row").error().reason, Reason::IdentityUnavailable);
  Bytes newer = blob;
  newer[3] = 2;
  EXPECT_EQ(other.unseal(newer, "row").error().reason, Reason::Unsupported);
}

TEST_F(SealerTest, TheKeyFileIsPrivateAndMadeOnce) {
  fresh();
  struct stat info{};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
  EXPECT_EQ(info.st_nlink, 1u);  // the temporary name is gone
  const Bytes before = readFile(path_, 100).value();
  fresh();
  EXPECT_EQ(readFile(path_, 100).value(), before);
}

TEST_F(SealerTest, AMissingKeyOfAnExistingStoreIsNotReplaced) {
  EXPECT_EQ(Sealer::open(path_, StoreAge::Existing).error().reason, Reason::IdentityUnavailable);
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(SealerTest, NoKeyIsMadeBecauseAReadFailed) {
  for (const size_t length : {size_t{0}, size_t{31}, size_t{33}, size_t{4096}}) {
    ASSERT_TRUE(writeFileAtomically(path_, Bytes(length, 7)));
    EXPECT_EQ(Sealer::open(path_, StoreAge::New).error().reason, Reason::BadInput) << length;
    EXPECT_EQ(readFile(path_, 10'000).value(), Bytes(length, 7));
  }
  std::filesystem::remove(path_);
  std::filesystem::create_directory(path_);
  EXPECT_EQ(Sealer::open(path_, StoreAge::New).error().reason, Reason::KeyPermission);
}

TEST_F(SealerTest, RefusesAKeyThatOthersMayRead) {
  fresh();
  for (const mode_t mode : {0640u, 0604u, 0666u, 0660u}) {
    ASSERT_EQ(::chmod(path_.c_str(), mode), 0);
    EXPECT_EQ(Sealer::open(path_, StoreAge::Existing).error().reason, Reason::KeyPermission);
  }
  ASSERT_EQ(::chmod(path_.c_str(), 0400), 0);  // tighter is fine
  EXPECT_TRUE(Sealer::open(path_, StoreAge::Existing));
}

TEST_F(SealerTest, RefusesAKeyOfAnotherUser) {
  if (::geteuid() != 0) GTEST_SKIP() << "giving a file away needs root";
  fresh();
  ASSERT_EQ(::chown(path_.c_str(), 65534, 65534), 0);
  EXPECT_EQ(Sealer::open(path_, StoreAge::Existing).error().reason, Reason::KeyPermission);
}

TEST_F(SealerTest, RefusesALinkAndAFifoInTheKeysPlace) {
  fresh();
  const std::string elsewhere = folder_ + "/elsewhere";
  std::filesystem::rename(path_, elsewhere);
  std::filesystem::create_symlink(elsewhere, path_);
  EXPECT_EQ(Sealer::open(path_, StoreAge::Existing).error().reason, Reason::KeyPermission);
  std::filesystem::remove(path_);
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  EXPECT_EQ(Sealer::open(path_, StoreAge::New).error().reason, Reason::KeyPermission);
}

TEST_F(SealerTest, AFolderThatDoesNotExistIsAnIoError) {
  EXPECT_EQ(Sealer::open(folder_ + "/none/machine.key", StoreAge::New).error().reason, Reason::Io);
}

TEST_F(SealerTest, TwoFirstStartsAtOnceAgreeOnOneKey) {
  std::vector<Bytes> blobs(8);
  {
    std::vector<std::jthread> threads;
    for (Bytes& blob : blobs) threads.emplace_back([&] { blob = fresh().seal(Secret::copyOf("x"), "row").value(); });
  }
  const Sealer sealer = Sealer::open(path_, StoreAge::Existing).value();
  for (const Bytes& blob : blobs) EXPECT_TRUE(sealer.unseal(blob, "row"));
}

TEST_F(SealerTest, WithKeyWantsThirtyTwoBytes) {
  EXPECT_EQ(Sealer::withKey(Secret(randomBytes(16))).error().reason, Reason::BadInput);
}

}  // namespace
}  // namespace wayleave::keys
