#include "tunnel/http_head.h"

#include <fmt/format.h>

#include <algorithm>

namespace wayleave::tunnel {
namespace {

std::unexpected<Error> notHttp(std::string what) {
  return fail(Reason::GatewayProtocolError, "the gateway's answer to CONNECT is not HTTP/1.1: " + std::move(what),
              "check that the profile's gateway is an HTTP proxy behind TLS");
}

bool isDigit(char c) { return c >= '0' && c <= '9'; }

// RFC 9110 section 5.6.2.
bool isTokenChar(char c) {
  if (isDigit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return true;
  return std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
}
// Field values and reason phrases: HTAB, SP, VCHAR, obs-text.
bool isTextChar(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte == '\t' || (byte >= 0x20 && byte != 0x7f);
}

std::string printable(std::string_view text) {
  std::string out(text.substr(0, 64));
  std::ranges::replace_if(out, [](char c) { return c < 0x20 || c > 0x7e; }, '?');
  return out;
}

}  // namespace

Result<ResponseHead::Progress> ResponseHead::feed(ByteView bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (++total_ > kMaxHeadBytes) return notHttp(fmt::format("its head is longer than {} bytes", kMaxHeadBytes));
    const char c = static_cast<char>(bytes[i]);
    if (c != '\n') {
      line_.push_back(c);
      continue;
    }
    auto complete = endOfLine();
    if (!complete) return propagate(complete.error());
    if (*complete) return Done{status_, phrase_, i + 1};
  }
  // A peer that does not speak HTTP is found out at once, not when its 16 KiB are full or its silence times out.
  static constexpr std::string_view kStart = "HTTP/1.";
  if (!inFields_ && !std::string_view(line_).starts_with(kStart.substr(0, std::min(kStart.size(), line_.size()))))
    return notHttp(fmt::format("it begins with \"{}\"", printable(line_)));
  return NeedMore{};
}

Result<bool> ResponseHead::endOfLine() {
  std::string line = std::move(line_);
  line_.clear();
  if (line.ends_with('\r')) line.pop_back();
  if (!inFields_) {
    if (auto read = statusLine(line); !read) return propagate(read.error());
    inFields_ = true;
    return false;
  }
  if (!line.empty()) {
    if (auto read = fieldLine(line); !read) return propagate(read.error());
    return false;
  }
  if (status_ >= 200) return true;
  // 101 would switch to a protocol nobody asked for.
  if (status_ == 101) return notHttp("it switches protocols (101)");
  if (++interim_ > kMaxInterim) return notHttp("it sends interim answers (1xx) without end");
  inFields_ = false;
  return false;
}

// status-line = HTTP-version SP status-code SP [ reason-phrase ]; the last space is often missing in practice.
Status ResponseHead::statusLine(std::string_view line) {
  const bool version = line.size() >= 12 && line.starts_with("HTTP/1.") && isDigit(line[7]) && line[8] == ' ';
  if (!version || !isDigit(line[9]) || !isDigit(line[10]) || !isDigit(line[11]) || (line.size() > 12 && line[12] != ' '))
    return notHttp(fmt::format("it begins with \"{}\"", printable(line)));
  status_ = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
  if (status_ < 100 || status_ > 599) return notHttp(fmt::format("status {}", status_));
  const std::string_view phrase = line.size() > 13 ? line.substr(13) : std::string_view{};
  if (!std::ranges::all_of(phrase, isTextChar)) return notHttp("control characters in its status line");
  phrase_ = printable(phrase);
  return {};
}

Status ResponseHead::fieldLine(std::string_view line) {
  const size_t colon = line.find(':');
  if (colon == 0 || colon == std::string_view::npos || !std::ranges::all_of(line.substr(0, colon), isTokenChar))
    return notHttp(fmt::format("header line \"{}\"", printable(line)));
  if (!std::ranges::all_of(line.substr(colon + 1), isTextChar)) return notHttp("control characters in its header");
  return {};
}

}  // namespace wayleave::tunnel
