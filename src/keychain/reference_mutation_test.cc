// A million hostile references: no crash, no hang, and whatever decodes strictly encodes back to the same bytes. The
// generator is seeded, so that a failure repeats.

#include <gtest/gtest.h>

#include <random>

#include "keychain/reference_codec.h"
#include "keychain/reference_vectors_test_support.h"

namespace wayleave::keychain {
namespace {

constexpr size_t kCount = 1'000'000;

std::vector<Bytes> seeds() {
  std::vector<Bytes> out = {
      vectors::hex(vectors::kVectorA),
      vectors::hex(std::string(vectors::kVectorA) + std::string(vectors::kIdentityMarker)),
      vectors::hex(vectors::kVectorB),
      vectors::hex("63657274000000000000002a"),
      vectors::hex("69646e7400112233445566778899aabbccddeeff"),
      vectors::hex("746b707230220c04636572740c13636f6d2e6578616d706c652e746f6b656e3a3104050102030405"),
  };
  for (const RecordType type : {RecordType::PrivateKey, RecordType::GenericPassword, RecordType::InternetPassword}) {
    FileReference reference;
    reference.keychainPath = "/k";
    reference.item.recordType = type;
    for (const AttributeName& name : primaryKeyAttributes(type))
      reference.item.attributes.push_back(name.format == AttributeFormat::Uint32 ? Bytes{7, 0, 0, 0}
                                                                                 : toBytes(name.shortName));
    out.push_back(encodeReference(reference).value());
  }
  return out;
}

class Mutator {
 public:
  Bytes next() {
    Bytes bytes = below(8) == 0 ? random() : seeds_[below(seeds_.size())];
    for (size_t rounds = below(4); rounds > 0 && !bytes.empty(); --rounds) mutate(bytes);
    return bytes;
  }

 private:
  size_t below(size_t limit) { return generator_() % limit; }
  uint8_t byte() { return static_cast<uint8_t>(generator_()); }

  Bytes random() {
    Bytes bytes(below(80));
    for (uint8_t& b : bytes) b = byte();
    return bytes;
  }

  void mutate(Bytes& bytes) {
    const size_t at = below(bytes.size());
    switch (below(7)) {
      case 0: bytes[at] = byte(); break;
      case 1: bytes[at] ^= static_cast<uint8_t>(1u << below(8)); break;
      case 2: bytes.resize(at); break;
      case 3: bytes.insert(bytes.begin() + static_cast<ptrdiff_t>(at), byte()); break;
      case 4: bytes.erase(bytes.begin() + static_cast<ptrdiff_t>(at)); break;
      case 5: append(bytes, Bytes(seeds_[below(seeds_.size())])); break;
      case 6: bytes[at & ~size_t{3}] = 0xff; break;  // often the top of a length
    }
  }

  std::mt19937_64 generator_{4};
  std::vector<Bytes> seeds_ = seeds();
};

TEST(ReferenceMutation, AMillionReferencesNeitherCrashNorRoundTripToOtherBytes) {
  Mutator mutator;
  size_t valid = 0, lenientOnly = 0;
  for (size_t i = 0; i < kCount; ++i) {
    const Bytes bytes = mutator.next();
    const Result<Decoded> strict = decodeReference(bytes, {.fields = i % 16 == 0});
    if (strict) {
      ++valid;
      const Result<Bytes> again = encodeReference(strict->reference);
      ASSERT_TRUE(again) << toHex(bytes) << " " << again.error().message;
      ASSERT_EQ(*again, bytes) << toHex(bytes);
    } else {
      ASSERT_EQ(strict.error().reason, Reason::BadInput);
      const Result<Decoded> lenient = decodeReference(bytes, {.lenient = true, .fields = i % 16 == 0});
      if (lenient) {
        ++lenientOnly;
        ASSERT_FALSE(lenient->warnings.empty()) << toHex(bytes);
      }
    }
  }
  // Both sides of the border must have been visited, or the generator has lost its teeth.
  EXPECT_GT(valid, kCount / 5);
  EXPECT_GT(lenientOnly, kCount / 100);
  EXPECT_LT(valid, kCount * 4 / 5);
}

}  // namespace
}  // namespace wayleave::keychain
