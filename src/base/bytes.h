#pragma once

// Byte strings and their textual forms.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace wayleave {

using Bytes = std::vector<uint8_t>;
using ByteView = std::span<const uint8_t>;

inline ByteView asBytes(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}
inline std::string_view asText(ByteView bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline Bytes toBytes(std::string_view text) { return {text.begin(), text.end()}; }
inline Bytes toBytes(ByteView bytes) { return {bytes.begin(), bytes.end()}; }

// Lower case, no separators.
std::string toHex(ByteView bytes);
// Even number of hex digits in either case, nothing else. Errors: BadInput with the offset.
Result<Bytes> fromHex(std::string_view hex);

// RFC 4648 section 4, with padding.
std::string toBase64(ByteView bytes);
// Strict: padding required, no white space, no stray bits. Errors: BadInput with the offset.
Result<Bytes> fromBase64(std::string_view base64);
// RFC 4648 section 5, without padding (ACME, JOSE).
std::string toBase64Url(ByteView bytes);
Result<Bytes> fromBase64Url(std::string_view base64);

// Big-endian integers, as in TPM, TLS and keychain structures.
inline void appendU16(Bytes& out, uint16_t value) {
  out.push_back(static_cast<uint8_t>(value >> 8));
  out.push_back(static_cast<uint8_t>(value));
}
inline void appendU32(Bytes& out, uint32_t value) {
  appendU16(out, static_cast<uint16_t>(value >> 16));
  appendU16(out, static_cast<uint16_t>(value));
}
inline void append(Bytes& out, ByteView bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); }
inline uint32_t readU32(ByteView four) {
  return uint32_t{four[0]} << 24 | uint32_t{four[1]} << 16 | uint32_t{four[2]} << 8 | uint32_t{four[3]};
}

// Bytes that are zeroised when they go: passwords, private keys, sealed material in the clear. Move-only.
class Secret {
 public:
  Secret() = default;
  explicit Secret(Bytes bytes) : bytes_(std::move(bytes)) {}
  static Secret copyOf(std::string_view text) { return Secret(toBytes(text)); }
  Secret(Secret&& other) noexcept : bytes_(std::move(other.bytes_)) { other.bytes_.clear(); }
  Secret& operator=(Secret&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  Secret(const Secret&) = delete;
  Secret& operator=(const Secret&) = delete;
  ~Secret();

  ByteView view() const { return bytes_; }
  std::string_view viewText() const { return asText(bytes_); }
  bool empty() const { return bytes_.empty(); }
  Bytes& mutableBytes() { return bytes_; }  // growing it may leave a copy behind: reserve first
  Secret clone() const { return Secret(bytes_); }

 private:
  Bytes bytes_;
};

// SHA-256 of `bytes` (OpenSSL); 32 bytes.
Bytes sha256(ByteView bytes);
// SHA-1, 20 bytes: only where a format of others demands it (public-key hashes of keychains).
Bytes sha1(ByteView bytes);
// `count` bytes from the operating system's generator. Never fails: aborts when there is no randomness at all.
Bytes randomBytes(size_t count);
// RFC 9562 version 4, upper case, as Apple's tools write it.
std::string randomUuid();

}  // namespace wayleave
