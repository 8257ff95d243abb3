// The verdict on every public property-list sample, file by file: regression inputs of two other readers' fuzzers, and
// a few good files. Skipped where the samples are absent.

#include <gtest/gtest.h>

#include <map>

#include "base/file.h"
#include "plist/plist.h"
#include "plist/plist_test_support.h"

namespace wayleave::plist {
namespace {

// What the refusal must say, or "" for a file that must be accepted.
const std::map<std::string, std::string> kVerdicts = {
    {"plist-good/libplist-1.plist", ""},
    {"plist-good/libplist-2.plist", ""},
    {"plist-good/micromdm-plist-sample2.binary.plist", ""},
    {"plist-hostile/binary/libplist/clusterfuzz-testcase-4930725262393344", "reference size 23"},
    {"plist-hostile/binary/libplist/clusterfuzz-testcase-5421965105954816", "object 2: its length is not an integer"},
    {"plist-hostile/binary/libplist/clusterfuzz-testcase-5556177727389696", "reference size 31"},
    {"plist-hostile/binary/libplist/crash-0ce4dd483b645bc05ec45a97d285dcf1933ee840",
     "17582052945254416392 objects in a file of 77 bytes"},
    {"plist-hostile/binary/libplist/crash-17d635ab460fef74df1ac7561f1253533a6359c5", "offset size 255"},
    {"plist-hostile/binary/libplist/crash-33a67313fa7864cd627ef92d12017a127d342f28",
     "17582052945254416392 objects in a file of 77 bytes"},
    {"plist-hostile/binary/libplist/crash-4c5404453bb7425aef9b953a5f6f3f0afcc48392",
     "17582052945254416392 objects in a file of 77 bytes"},
    {"plist-hostile/binary/libplist/crash-52775e25f6af20af351cd616834e602fc988a032", "reference size 129"},
    {"plist-hostile/binary/libplist/crash-6d1399685b745d3d49fadc91072fabcdde8d16fa",
     "5 offsets of 2 bytes do not fill the 6 bytes before the trailer"},
    {"plist-hostile/binary/libplist/crash-94b3725900d63c6258448fd757559c81002de9c9",
     "38 bytes: shorter than header and trailer"},
    {"plist-hostile/binary/libplist/crash-a47195acbabc3f5b2cda9c6ebda42f2afc1cc5af",
     "17582052945254416392 objects in a file of 77 bytes"},
    {"plist-hostile/binary/libplist/crash-daddb6e82e3d1ed76e20e4131462f5247a6fb131", "reference size 48"},
    {"plist-hostile/binary/libplist/crash-f21be4ebce7f9c337bf96b93cec7e252f5c75a21", "offset size 14"},
    {"plist-hostile/binary/libplist/leak-fe2cd4b1f67e0c9b21e6225a4fb4ca19eab80074", "reference size 189"},
    {"plist-hostile/binary/micromdm-plist/1ac1e0b8585d245f0e7bbc48ef33500984a7fb6b",
     "25 offsets of 2 bytes do not fill the 17 bytes before the trailer"},
    {"plist-hostile/binary/micromdm-plist/30864f343b3b987e140eff6769e091b3b60c3ce7",
     "25 offsets of 2 bytes do not fill the 17 bytes before the trailer"},
    {"plist-hostile/binary/micromdm-plist/5feced23aa2767c77c8d2bb5c35321f926b4537a",
     "108 offsets of 2 bytes do not fill the 183 bytes before the trailer"},
    {"plist-hostile/binary/micromdm-plist/76632470f8fdd06ea7f5eaa53376aa3ffdbe00b0",
     "108 offsets of 2 bytes do not fill the 183 bytes before the trailer"},
    {"plist-hostile/binary/micromdm-plist/a7f6152b23463dbeb12cf9621b9c5962b8b71d01",
     "25 offsets of 2 bytes do not fill the 17 bytes before the trailer"},
    {"plist-hostile/binary/micromdm-plist/aac34b3c8cbcc6d607e807fa920b2aaa4294f1fa",
     "108 offsets of 2 bytes do not fill the 183 bytes before the trailer"},
    {"plist-hostile/binary/micromdm-plist/b6d3ae7d57c52b1139cd4cb097382371be5508f4",
     "32 bytes: shorter than header and trailer"},
    {"plist-hostile/xml/libplist/clusterfuzz-testcase-4634751103139840",
     "line 2, column 13: not well-formed (invalid token)"},
    {"plist-hostile/xml/libplist/clusterfuzz-testcase-4663876528373760",
     "line 3, column 2: <data> is not base64: not a base64 character at offset 3"},
    {"plist-hostile/xml/libplist/clusterfuzz-testcase-5799076113154048", "line 45, column 2: no element found"},
    {"plist-hostile/xml/libplist/clusterfuzz-testcase-6015098361479168",
     "line 1, column 7: XML declaration not well-formed"},
    {"plist-hostile/xml/libplist/clusterfuzz-testcase-6043836860071936",
     "line 2, column 45: not well-formed (invalid token)"},
    {"plist-hostile/xml/libplist/crash-155c60d5c4b2778110fb4a633caa7d64eb9b99c1",
     "line 4, column 2: not well-formed (invalid token)"},
    {"plist-hostile/xml/libplist/crash-348c909a0b3532977185f551eb5d2ed04e694883", ""},
    {"plist-hostile/xml/libplist/crash-7bc172e27a2b1d4fcaf031f59d1f08fb83081e4a",
     "line 3, column 1: <plist> has the attribute versiog"},
    {"plist-hostile/xml/libplist/crash-80c28b0e2a446665e68927dd4441c10c9a68e64e",
     "line 1, column 19: XML declaration not well-formed"},
    {"plist-hostile/xml/libplist/crash-8acf177da60ecf13c36d0da1b8e25de891980ea6",
     "line 2, column 53: not well-formed (invalid token)"},
    {"plist-hostile/xml/libplist/crash-a8b44e1f5be4f75f00a937016ec5405bce77a0f9",
     "line 4, column 9: not well-formed (invalid token)"},
    {"plist-hostile/xml/libplist/crash-da39a3ee5e6b4b0d3255bfef95601890afd80709", "the file is empty"},
    {"plist-hostile/xml/libplist/crash-f03c680ee1c4d84c28e731752df77a61e213a24d",
     "line 72, column 57: no element found"},
    {"plist-hostile/xml/libplist/leak-4c81aae70b20d9b9408b78d40999a54205bdcfb7", "line 2, column 17: syntax error"},
};

TEST(PlistSamples, EveryFileGetsItsVerdict) {
  const auto folder = test::samplesFolder();
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no sample files at " << folder;
  size_t seen = 0;
  for (const char* part : {"plist-good", "plist-hostile"}) {
    for (const auto& file : std::filesystem::recursive_directory_iterator(folder / part)) {
      if (!file.is_regular_file()) continue;
      const std::string name = std::filesystem::relative(file.path(), folder);
      SCOPED_TRACE(name);
      ASSERT_TRUE(kVerdicts.contains(name)) << "no verdict for this file";
      const std::string& refusal = kVerdicts.at(name);
      const auto bytes = readFile(file.path(), 1 << 20);
      ASSERT_TRUE(bytes) << bytes.error().message;
      const auto document = parse(*bytes);
      ++seen;
      if (refusal.empty()) {
        ASSERT_TRUE(document) << document.error().message;
        const auto again = parse(*toBinary(document->root));
        ASSERT_TRUE(again) << again.error().message;
        EXPECT_EQ(again->root, document->root);
      } else {
        ASSERT_FALSE(document);
        EXPECT_EQ(document.error().reason, Reason::BadInput);
        EXPECT_NE(document.error().message.find(refusal), std::string::npos) << document.error().message;
      }
    }
  }
  EXPECT_EQ(seen, kVerdicts.size());
}

TEST(PlistSamples, CommandsAndCheckInBodiesParse) {
  const auto folder = test::samplesFolder() / "checkin";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no sample files at " << folder;
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    SCOPED_TRACE(file.path());
    const auto document = parse(readFile(file.path(), 1 << 20).value());
    ASSERT_TRUE(document) << document.error().message;
    EXPECT_NE(document->root.dictionary(), nullptr);
  }
}

}  // namespace
}  // namespace wayleave::plist
