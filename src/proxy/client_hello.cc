#include "proxy/client_hello.h"

#include <algorithm>

#include "rules/network_rule.h"

namespace wayleave::proxy {
namespace {

constexpr uint8_t kHandshakeRecord = 22;
constexpr size_t kRecordHeaderBytes = 5;
constexpr size_t kMaxRecordBytes = 16 * 1024;  // RFC 8446 section 5.1
constexpr size_t kMaxHelloBytes = 16 * 1024;   // post-quantum hellos are below 2 KiB
constexpr uint8_t kClientHello = 1;
constexpr uint16_t kServerNameExtension = 0;
constexpr uint8_t kHostNameType = 0;

// Big-endian fields in order; after the first that does not fit, `ok` stays false and everything is empty.
class Reader {
 public:
  explicit Reader(ByteView bytes) : rest_(bytes) {}
  ByteView take(size_t count) {
    if (count > rest_.size()) ok_ = false;
    if (!ok_) return {};
    const ByteView taken = rest_.first(count);
    rest_ = rest_.subspan(count);
    return taken;
  }
  size_t number(size_t bytes) {
    size_t value = 0;
    for (const uint8_t byte : take(bytes)) value = value << 8 | byte;
    return value;
  }
  ByteView vector(size_t lengthBytes) { return take(number(lengthBytes)); }
  bool ok() const { return ok_; }
  bool empty() const { return rest_.empty(); }

 private:
  ByteView rest_;
  bool ok_ = true;
};

PeekResult nameFrom(ByteView hello) {
  Reader body(hello);
  (void)body.take(2 + 32);  // legacy_version, random
  const size_t sessionId = body.vector(1).size();
  (void)body.vector(2);  // cipher suites
  (void)body.vector(1);  // compression methods
  Reader extensions(body.vector(2));
  if (!body.ok() || !body.empty() || sessionId > 32) return {};
  while (extensions.ok() && !extensions.empty()) {
    const size_t type = extensions.number(2);
    Reader extension(extensions.vector(2));
    if (!extensions.ok() || type != kServerNameExtension) continue;
    Reader names(extension.vector(2));
    const size_t nameType = names.number(1);
    std::string host = normalisedHost(asText(names.vector(2)));
    if (!names.ok() || nameType != kHostNameType || host.empty()) return {};
    return {Peek::Found, std::move(host)};
  }
  return {};
}

}  // namespace

std::string normalisedHost(std::string_view text) {
  if (text.ends_with('.')) text.remove_suffix(1);
  if (text.size() > 253) return {};
  std::string host(text);
  std::transform(host.begin(), host.end(), host.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  rules::NetworkRule probe;
  probe.host = host;
  return host.empty() || !rules::validate(probe) ? std::string() : host;
}

PeekResult serverNameOf(ByteView firstBytes) {
  // A hello may be spread over records; most come in one, and then nothing is copied.
  Bytes joined;
  ByteView handshake;
  bool whole = true;
  for (ByteView rest = firstBytes; whole && !rest.empty();) {
    if (rest[0] != kHandshakeRecord || (rest.size() > 1 && rest[1] != 3)) return {};
    if (rest.size() < kRecordHeaderBytes) return {Peek::NeedMore, {}};
    const size_t length = static_cast<size_t>(rest[3]) << 8 | rest[4];
    if (length == 0 || length > kMaxRecordBytes) return {};
    whole = rest.size() >= kRecordHeaderBytes + length;
    const ByteView fragment = rest.subspan(kRecordHeaderBytes, std::min(length, rest.size() - kRecordHeaderBytes));
    if (handshake.empty()) {
      handshake = fragment;
    } else {
      if (joined.empty()) joined = toBytes(handshake);
      append(joined, fragment);
      handshake = joined;
    }
    if (!handshake.empty() && handshake[0] != kClientHello) return {};
    if (handshake.size() >= 4) {
      const size_t helloBytes = static_cast<size_t>(handshake[1]) << 16 | static_cast<size_t>(handshake[2]) << 8 | handshake[3];
      if (helloBytes > kMaxHelloBytes) return {};
      if (handshake.size() >= 4 + helloBytes) return nameFrom(handshake.subspan(4, helloBytes));
    }
    if (whole) rest = rest.subspan(kRecordHeaderBytes + length);
  }
  return {Peek::NeedMore, {}};
}

}  // namespace wayleave::proxy
