#include <gtest/gtest.h>

#include <cmath>

#include "plist/plist.h"

namespace wayleave::plist {
namespace {

// A binary property list of hand-made objects: one-byte offsets and references, object 0 is the root.
Bytes file(const std::vector<Bytes>& objects) {
  Bytes out = toBytes("bplist00");
  Bytes offsets;
  for (const Bytes& object : objects) {
    offsets.push_back(static_cast<uint8_t>(out.size()));
    append(out, object);
  }
  const auto table = static_cast<uint8_t>(out.size());
  append(out, offsets);
  out.insert(out.end(), 6, 0);
  out.insert(out.end(), {1, 1});
  out.insert(out.end(), 7, 0);
  out.push_back(static_cast<uint8_t>(objects.size()));
  out.insert(out.end(), 8, 0);
  out.insert(out.end(), 7, 0);
  out.push_back(table);
  return out;
}
std::string refusal(const Bytes& bytes) {
  const auto document = parse(bytes);
  return document ? "accepted" : document.error().message;
}
#define EXPECT_REFUSED(bytes, why) EXPECT_NE(refusal(bytes).find(why), std::string::npos) << refusal(bytes)

TEST(BinaryPlist, RoundTripsEveryKind) {
  Dictionary d;
  for (const int64_t number :
       std::vector<int64_t>{0, 1, 255, 256, 65535, 65536, int64_t{1} << 32, INT64_MAX, -1, INT64_MIN})
    d.add("i" + std::to_string(number), number);
  d.add("u", uint64_t{1} << 63);
  d.add("r", -0.25);
  d.add("s", "plain");
  d.add("s2", std::string(300, 'x'));
  d.add("é", "\U0001F600 wide");
  d.add("d", Bytes(70'000, 7));
  d.add("t", Date{-5.5});
  d.add("uid", Uid{70000});
  d.add("list", Array{Value(true), Value(false), Value("plain"), Value(Array{}), Value(Dictionary{})});
  const Value root(d);
  const auto bytes = toBinary(root);
  ASSERT_TRUE(bytes);
  const auto back = parse(*bytes);
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->format, Format::Binary);
  EXPECT_EQ(back->root, root);
}

TEST(BinaryPlist, RefusesACycle) {
  EXPECT_REFUSED(file({{0xa1, 0}}), "contains itself");
  EXPECT_REFUSED(file({{0xa1, 1}, {0xd1, 2, 0}, {0x51, 'k'}}), "contains itself");
}

TEST(BinaryPlist, SharedObjectsAreFineUntilTheyExplode) {
  EXPECT_TRUE(parse(file({{0xa2, 1, 1}, {0xa2, 2, 2}, {0x09}})));
  std::vector<Bytes> bomb;  // 2^40 leaves in 40 objects
  for (uint8_t i = 0; i < 40; ++i) bomb.push_back({0xa2, static_cast<uint8_t>(i + 1), static_cast<uint8_t>(i + 1)});
  bomb.push_back({0x09});
  EXPECT_REFUSED(file(bomb), "more than 500000 values");
}

TEST(BinaryPlist, SharedStringsCountAsOftenAsTheyAreUsed) {
  ReadOptions options;
  options.limits.bytes = 200;
  const Bytes bytes = file({{0xae, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
                            {0x5e, 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x'}});
  EXPECT_TRUE(parse(bytes, options));
  options.limits.bytes = 150;
  EXPECT_FALSE(parse(bytes, options));
}

TEST(BinaryPlist, RefusesDeepNesting) {
  std::vector<Bytes> chain;
  for (uint8_t i = 0; i < 100; ++i) chain.push_back({0xa1, static_cast<uint8_t>(i + 1)});
  chain.push_back({0x09});
  // One-byte offsets end at 255: lower the limit instead of building a bigger file.
  ReadOptions options;
  options.limits.depth = 100;
  std::vector<Bytes> few(chain.begin() + 40, chain.end());
  for (Bytes& object : few)
    if (object.size() == 2) object[1] = static_cast<uint8_t>(object[1] - 40);
  EXPECT_TRUE(parse(file(few), options));
  options.limits.depth = 59;
  EXPECT_FALSE(parse(file(few), options));
}

TEST(BinaryPlist, RefusesBadObjects) {
  EXPECT_REFUSED(file({{0x00}}), "null");
  EXPECT_REFUSED(file({{0x0f}}), "null");
  EXPECT_REFUSED(file({{0x13, 1, 2}}), "runs past the end");
  EXPECT_REFUSED(file({{0x15}}), "wider than 16");
  EXPECT_REFUSED(file({{0x14, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}), "beyond 64 bits");
  EXPECT_REFUSED(file({{0x24, 0}}), "neither 4 nor 8");
  EXPECT_REFUSED(file({{0x33, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0}}), "years 1 to 9999");
  EXPECT_REFUSED(file({{0x4f, 0x13, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}), "runs past the end");
  EXPECT_REFUSED(file({{0x4f, 0x51, 'a'}}), "length is not an integer");
  EXPECT_REFUSED(file({{0x52, 'a'}}), "runs past the end");
  EXPECT_REFUSED(file({{0x51, 0xe9}}), "non-ASCII");
  EXPECT_REFUSED(file({{0x51, 0}}), "NUL");
  EXPECT_REFUSED(file({{0x61, 0xd8, 0x00}}), "unpaired surrogate");
  EXPECT_REFUSED(file({{0x61, 0xdc, 0x00}}), "unpaired surrogate");
  EXPECT_REFUSED(file({{0x62, 0xd8, 0x00, 0x00, 'a'}}), "unpaired surrogate");
  EXPECT_REFUSED(file({{0x6f, 0x13, 0x80, 0, 0, 0, 0, 0, 0, 0}}), "characters");
  EXPECT_REFUSED(file({{0x88, 1, 2, 3, 4, 5, 6, 7, 8, 9}}), "uid");
  EXPECT_REFUSED(file({{0xc1, 0}}), "marker kind 0xc");
  EXPECT_REFUSED(file({{0xa1, 9}}), "refers to object 9");
  EXPECT_REFUSED(file({{0xaf, 0x10, 0xff}}), "members");
  EXPECT_REFUSED(file({{0xd1, 1, 1}, {0x10, 1}}), "a key is not a string");
  EXPECT_REFUSED(file({{0xd2, 1, 1, 2, 2}, {0x51, 'k'}, {0x09}}), "a key occurs twice");
}

TEST(BinaryPlist, RefusesABadTrailer) {
  const Bytes good = file({{0x09}});
  ASSERT_TRUE(parse(good));
  const auto with = [&](size_t fromEnd, uint8_t value) {
    Bytes bytes = good;
    bytes[bytes.size() - fromEnd] = value;
    return bytes;
  };
  EXPECT_REFUSED(with(26, 0), "offset size 0");
  EXPECT_REFUSED(with(26, 9), "offset size 9");
  EXPECT_REFUSED(with(25, 0), "reference size 0");
  EXPECT_REFUSED(with(17, 0), "0 objects");
  EXPECT_REFUSED(with(17, 2), "do not fill");
  EXPECT_REFUSED(with(24, 0xff), "objects in a file");
  EXPECT_REFUSED(with(9, 1), "root is object 1");
  EXPECT_REFUSED(with(1, 200), "outside the file");
  EXPECT_REFUSED(with(1, 7), "outside the file");
  Bytes version = good;
  version[7] = '5';
  EXPECT_REFUSED(version, "version other than 00");
  Bytes offset = good;
  offset[9] = 200;
  EXPECT_REFUSED(offset, "outside the objects");
}

TEST(BinaryPlist, EveryPrefixOfAFileIsRefused) {
  Dictionary d;
  d.add("a", Array{Value("é"), Value(1), Value(Bytes(20, 1))});
  const Bytes whole = toBinary(Value(d)).value();
  for (size_t length = 0; length < whole.size(); ++length) EXPECT_FALSE(parse(ByteView(whole).first(length))) << length;
}

TEST(BinaryPlist, EveryFlippedByteIsHandled) {
  Dictionary d;
  d.add("a", Array{Value("é"), Value(1.5), Value(Bytes(20, 1)), Value(Uid{3}), Value(Date{1})});
  const Bytes whole = toBinary(Value(d)).value();
  for (size_t i = 0; i < whole.size(); ++i)
    for (const uint8_t mask : {0x01, 0x80, 0xff}) {
      Bytes changed = whole;
      changed[i] ^= mask;
      (void)parse(changed);  // must come back; what it says does not matter
    }
}

TEST(BinaryWriter, RefusesWhatIsNotUtf8) { EXPECT_FALSE(toBinary(Value("\xc3"))); }

}  // namespace
}  // namespace wayleave::plist
