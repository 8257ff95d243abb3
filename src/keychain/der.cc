#include "keychain/der.h"

#include <fmt/format.h>

namespace wayleave::keychain {

Result<DerElement> DerReader::next() {
  const auto bad = [&](std::string_view why) {
    return fail(Reason::BadInput, fmt::format("{} at offset {}", why, offset()));
  };
  const size_t left = bytes_.size() - at_;
  if (left < 2) return bad("DER element is cut off");
  const uint8_t tag = bytes_[at_];
  if ((tag & 0x1f) == 0x1f) return bad("DER tag of more than one byte");
  size_t length = bytes_[at_ + 1];
  size_t header = 2;
  if (length == 0x80) return bad("indefinite DER length");
  if (length > 0x80) {
    const size_t count = length & 0x7f;
    if (count > 4) return bad("DER length of more than 4 bytes");
    if (left < 2 + count) return bad("DER length is cut off");
    length = 0;
    for (size_t i = 0; i < count; ++i) length = length << 8 | bytes_[at_ + 2 + i];
    header += count;
    if (strict_ && (length < 0x80 || bytes_[at_ + 2] == 0)) return bad("DER length is not in its shortest form");
  }
  if (length > left - header)
    return bad(fmt::format("DER length {} is more than the {} bytes that are left", length, left - header));
  const DerElement element{tag, bytes_.subspan(at_ + header, length), base_ + at_, base_ + at_ + header};
  at_ += header + length;
  return element;
}

Result<DerElement> DerReader::next(uint8_t tag, std::string_view what) {
  const size_t at = offset();
  Result<DerElement> element = next();
  if (element && element->tag != tag)
    return fail(Reason::BadInput,
                fmt::format("{} expected at offset {}, found DER tag 0x{:02x}", what, at, element->tag));
  return element;
}

void appendDer(Bytes& out, uint8_t tag, ByteView value) {
  out.push_back(tag);
  const size_t length = value.size();
  if (length < 0x80) {
    out.push_back(static_cast<uint8_t>(length));
  } else {
    size_t count = 1;
    while (length >> (8 * count) != 0) ++count;
    out.push_back(static_cast<uint8_t>(0x80 | count));
    for (size_t i = count; i-- > 0;) out.push_back(static_cast<uint8_t>(length >> (8 * i)));
  }
  append(out, value);
}

}  // namespace wayleave::keychain
