#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/osstatus.h"
#include "base/owned.h"

namespace wayleave {
namespace {

std::string temporaryFolder() {
  std::string path = ::testing::TempDir() + "wayleave.XXXXXX";
  EXPECT_NE(::mkdtemp(path.data()), nullptr);
  return path;
}

TEST(Hex, RoundTripsAndNamesTheOffsetOfABadDigit) {
  const Bytes bytes = {0x00, 0x7f, 0xff};
  EXPECT_EQ(toHex(bytes), "007fff");
  EXPECT_EQ(fromHex("007FfF").value(), bytes);
  EXPECT_EQ(fromHex("00zz").error().message, "not a hex digit at offset 2");
  EXPECT_EQ(fromHex("0").error().reason, Reason::BadInput);
}

TEST(Base64, RoundTripsEveryLengthClass) {
  for (const std::string text : {"", "f", "fo", "foo", "foob", "fooba", "foobar"}) {
    EXPECT_EQ(asText(fromBase64(toBase64(asBytes(text))).value()), text);
    EXPECT_EQ(asText(fromBase64Url(toBase64Url(asBytes(text))).value()), text);
  }
  EXPECT_EQ(toBase64(asBytes("fo")), "Zm8=");
  EXPECT_EQ(toBase64Url(Bytes{0xfb, 0xff}), "-_8");
}

TEST(Base64, RefusesWhiteSpaceMissingPaddingAndStrayBits) {
  EXPECT_FALSE(fromBase64("Zm8").has_value());
  EXPECT_FALSE(fromBase64("Zm 8").has_value());
  EXPECT_FALSE(fromBase64("Zm9=").has_value());  // the last character carries bits beyond the byte
  EXPECT_FALSE(fromBase64("====").has_value());
  EXPECT_FALSE(fromBase64Url("Zm8=").has_value());
}

TEST(Digest, MatchesPublishedVectors) {
  EXPECT_EQ(toHex(sha256(asBytes("abc"))), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(toHex(sha1(asBytes("abc"))), "a9993e364706816aba3e25717850c26c9cd0d89d");
}

TEST(Uuid, IsVersionFour) {
  const std::string uuid = randomUuid();
  ASSERT_EQ(uuid.size(), 36u);
  EXPECT_EQ(uuid[14], '4');
  EXPECT_NE(uuid, randomUuid());
}

TEST(File, ReplacesAtomicallyWithTheModeAskedFor) {
  const std::string folder = temporaryFolder();
  const std::string path = folder + "/state";
  ASSERT_TRUE(writeFileAtomically(path, asBytes("one"), 0600).has_value());
  ASSERT_TRUE(writeFileAtomically(path, asBytes("two"), 0600).has_value());
  EXPECT_EQ(asText(readFile(path, 100).value()), "two");
  struct stat info{};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST(File, SaysWhichFileIsMissingAndWhichIsTooLarge) {
  const std::string folder = temporaryFolder();
  EXPECT_EQ(readFile(folder + "/none", 10).error().reason, Reason::NotFound);
  ASSERT_TRUE(writeFileAtomically(folder + "/big", Bytes(100), 0600).has_value());
  const Error error = readFile(folder + "/big", 10).error();
  EXPECT_EQ(error.reason, Reason::BadInput);
  EXPECT_NE(error.message.find("/big"), std::string::npos);
  EXPECT_FALSE(writeFileAtomically(folder + "/no/such/folder", Bytes(1), 0600).has_value());
}

TEST(Folder, RefusesAFileInItsPlace) {
  const std::string folder = temporaryFolder();
  ASSERT_TRUE(ensureFolder(folder + "/a", 0700).has_value());
  ASSERT_TRUE(ensureFolder(folder + "/a", 0700).has_value());
  ASSERT_TRUE(writeFileAtomically(folder + "/f", Bytes(1), 0600).has_value());
  EXPECT_FALSE(ensureFolder(folder + "/f", 0700).has_value());
}

TEST(Fd, ClosesOnceAndMoves) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const Fd writer = Fd::adopt(ends[1]);
  {
    Fd reader = Fd::adopt(ends[0]);
    Fd moved = std::move(reader);
    EXPECT_FALSE(reader);
    EXPECT_TRUE(moved);
  }
  EXPECT_EQ(::fcntl(ends[0], F_GETFD), -1);
}

TEST(OSStatusNames, KnowsTheStatusTheForumPostMisread) {
  EXPECT_EQ(osStatusName(-25291).value(), "errSecNotAvailable");
  EXPECT_EQ(osStatusName(-25307).value(), "errSecNoDefaultKeychain");
  EXPECT_FALSE(osStatusName(-1).has_value());
  EXPECT_EQ(apiCode(Error{Reason::NotFound, "", "", errSecItemNotFound}), "errSecItemNotFound");
  EXPECT_EQ(apiCode(Error{Reason::Busy, "", "", 0}), "BUSY");
}

TEST(Errors, GainContextAndKeepTheReason) {
  const Status inner = fail(Reason::Io, "no space left", "free some disk space");
  const Status outer = withContext(inner.error(), "audit log");
  EXPECT_EQ(describe(outer.error()), "IO: audit log: no space left (free some disk space)");
}

TEST(Log, EscapesWhatCouldForgeALine) {
  EXPECT_EQ(log::quoteValue("plain"), "plain");
  EXPECT_EQ(log::quoteValue("two words"), "\"two words\"");
  EXPECT_EQ(log::quoteValue("a\nb"), "\"a\\x0ab\"");
  EXPECT_EQ(log::quoteValue(""), "\"\"");
  EXPECT_FALSE(log::parseLevel("loud").has_value());
}

TEST(Clock, FormatsUtc) { EXPECT_EQ(rfc3339(Wall{std::chrono::seconds{0}}), "1970-01-01T00:00:00Z"); }

}  // namespace
}  // namespace wayleave
