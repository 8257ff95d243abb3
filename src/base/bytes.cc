#include "base/bytes.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include <array>
#include <cstdlib>

namespace wayleave {
namespace {

constexpr std::string_view kStandardAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::string_view kUrlAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

std::string encode64(ByteView bytes, std::string_view alphabet, bool pad) {
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t left = std::min<size_t>(3, bytes.size() - i);
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k) group = group << 8 | (k < left ? bytes[i + k] : 0u);
    for (size_t k = 0; k < 4; ++k) {
      if (k <= left)
        out.push_back(alphabet[group >> (18 - 6 * k) & 0x3f]);
      else if (pad)
        out.push_back('=');
    }
  }
  return out;
}

Result<Bytes> decode64(std::string_view in, std::string_view alphabet, bool padded) {
  if (padded) {
    if (in.size() % 4 != 0) return fail(Reason::BadInput, fmt::format("base64 of {} characters is incomplete", in.size()));
    for (int k = 0; k < 2 && !in.empty() && in.back() == '='; ++k) in.remove_suffix(1);
  }
  if (in.size() % 4 == 1) return fail(Reason::BadInput, fmt::format("base64 of {} characters is incomplete", in.size()));
  std::array<int8_t, 256> value;
  value.fill(-1);
  for (size_t i = 0; i < alphabet.size(); ++i) value[static_cast<uint8_t>(alphabet[i])] = static_cast<int8_t>(i);

  Bytes out;
  out.reserve(in.size() * 3 / 4);
  uint32_t group = 0;
  int bits = 0;
  for (size_t i = 0; i < in.size(); ++i) {
    const int8_t v = value[static_cast<uint8_t>(in[i])];
    if (v < 0) return fail(Reason::BadInput, fmt::format("not a base64 character at offset {}", i));
    group = group << 6 | static_cast<uint32_t>(v);
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      out.push_back(static_cast<uint8_t>(group >> bits));
      group &= (1u << bits) - 1;
    }
  }
  if (group != 0) return fail(Reason::BadInput, "base64 ends in stray bits");
  return out;
}

Bytes digest(const EVP_MD* md, ByteView bytes) {
  Bytes out(static_cast<size_t>(EVP_MD_get_size(md)));
  unsigned length = 0;
  if (EVP_Digest(bytes.data(), bytes.size(), out.data(), &length, md, nullptr) != 1) std::abort();
  return out;
}

}  // namespace

std::string toHex(ByteView bytes) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const uint8_t b : bytes) {
    out.push_back(digits[b >> 4]);
    out.push_back(digits[b & 15]);
  }
  return out;
}

Result<Bytes> fromHex(std::string_view hex) {
  if (hex.size() % 2 != 0) return fail(Reason::BadInput, fmt::format("hex of {} digits is not whole bytes", hex.size()));
  Bytes out;
  out.reserve(hex.size() / 2);
  int high = -1;
  for (size_t i = 0; i < hex.size(); ++i) {
    const char c = hex[i];
    int v = -1;
    if (c >= '0' && c <= '9') v = c - '0';
    if (c >= 'a' && c <= 'f') v = c - 'a' + 10;
    if (c >= 'A' && c <= 'F') v = c - 'A' + 10;
    if (v < 0) return fail(Reason::BadInput, fmt::format("not a hex digit at offset {}", i));
    if (high < 0) {
      high = v;
    } else {
      out.push_back(static_cast<uint8_t>(high << 4 | v));
      high = -1;
    }
  }
  return out;
}

std::string toBase64(ByteView bytes) { return encode64(bytes, kStandardAlphabet, true); }
Result<Bytes> fromBase64(std::string_view base64) { return decode64(base64, kStandardAlphabet, true); }
std::string toBase64Url(ByteView bytes) { return encode64(bytes, kUrlAlphabet, false); }
Result<Bytes> fromBase64Url(std::string_view base64) { return decode64(base64, kUrlAlphabet, false); }

Secret::~Secret() { OPENSSL_cleanse(bytes_.data(), bytes_.size()); }

Bytes sha256(ByteView bytes) { return digest(EVP_sha256(), bytes); }
Bytes sha1(ByteView bytes) { return digest(EVP_sha1(), bytes); }

Bytes randomBytes(size_t count) {
  Bytes out(count);
  if (count > 0 && RAND_bytes(out.data(), static_cast<int>(count)) != 1) std::abort();
  return out;
}

std::string randomUuid() {
  Bytes b = randomBytes(16);
  b[6] = static_cast<uint8_t>((b[6] & 0x0f) | 0x40);
  b[8] = static_cast<uint8_t>((b[8] & 0x3f) | 0x80);
  return fmt::format("{:02X}{:02X}{:02X}{:02X}-{:02X}{:02X}-{:02X}{:02X}-{:02X}{:02X}-{:02X}{:02X}{:02X}{:02X}{:02X}{:02X}",
                     b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

}  // namespace wayleave
