#pragma once

// Just enough DER to walk names, token references and keys: tag, definite length, contents (X.690 section 8.1). No
// recursion, no allocation; hostile lengths are checked before use. Not done here: indefinite lengths and multi-byte
// tags, which no structure of ours contains.

#include <cstdint>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::keychain {

namespace der {
inline constexpr uint8_t kInteger = 0x02;
inline constexpr uint8_t kBitString = 0x03;
inline constexpr uint8_t kOctetString = 0x04;
inline constexpr uint8_t kObjectIdentifier = 0x06;
inline constexpr uint8_t kUtf8String = 0x0c;
inline constexpr uint8_t kPrintableString = 0x13;
inline constexpr uint8_t kSequence = 0x30;
inline constexpr uint8_t kSet = 0x31;
}  // namespace der

struct DerElement {
  uint8_t tag = 0;
  ByteView value;      // contents; points into the reader's bytes
  size_t offset = 0;   // of the tag, counted from the reader's base
  size_t valueAt = 0;  // of the contents
};

class DerReader {
 public:
  // `base` is added to every offset in errors, so that they speak about the whole input. `strict` also refuses lengths
  // that are not in their shortest form (BER, which Apple's decoder accepts).
  explicit DerReader(ByteView bytes, size_t base = 0, bool strict = false)
      : bytes_(bytes), base_(base), strict_(strict) {}

  bool atEnd() const { return at_ == bytes_.size(); }
  size_t offset() const { return base_ + at_; }
  // Errors: BadInput with the offset.
  Result<DerElement> next();
  // The same, and the tag must be `tag`.
  Result<DerElement> next(uint8_t tag, std::string_view what);
  DerReader inside(const DerElement& element) const { return DerReader(element.value, element.valueAt, strict_); }

 private:
  ByteView bytes_;
  size_t base_ = 0;
  size_t at_ = 0;
  bool strict_ = false;
};

// Tag, shortest length, contents.
void appendDer(Bytes& out, uint8_t tag, ByteView value);

}  // namespace wayleave::keychain
