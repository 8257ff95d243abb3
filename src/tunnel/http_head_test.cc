#include "tunnel/http_head.h"

#include <gtest/gtest.h>

#include "tunnel/connect_answer.h"

namespace wayleave::tunnel {
namespace {

Result<ResponseHead::Progress> feed(std::string_view text) { return ResponseHead().feed(asBytes(text)); }

int statusOf(std::string_view text) {
  const auto progress = feed(text);
  if (!progress) return -1;
  const auto* done = std::get_if<ResponseHead::Done>(&*progress);
  return done == nullptr ? 0 : done->status;
}

TEST(ResponseHead, LeavesTunnelBytesAlone) {
  const std::string head = "HTTP/1.1 200 Connection established\r\nVia: 1.1 squid\r\n\r\n";
  const auto progress = feed(head + "SSH-2.0-OpenSSH\r\n");
  ASSERT_TRUE(progress);
  const auto& done = std::get<ResponseHead::Done>(*progress);
  EXPECT_EQ(done.status, 200);
  EXPECT_EQ(done.consumed, head.size());
  EXPECT_EQ(done.reasonPhrase, "Connection established");
}

TEST(ResponseHead, TakesPiecesOfAnySize) {
  const std::string text = "HTTP/1.0 204\r\nA: b\r\n\r\n";
  ResponseHead head;
  for (size_t i = 0; i + 1 < text.size(); ++i) {
    const auto progress = head.feed(asBytes(std::string_view(text).substr(i, 1)));
    ASSERT_TRUE(progress);
    ASSERT_TRUE(std::holds_alternative<ResponseHead::NeedMore>(*progress));
  }
  const auto last = head.feed(asBytes("\n"));
  ASSERT_TRUE(last);
  EXPECT_EQ(std::get<ResponseHead::Done>(*last).status, 204);
}

TEST(ResponseHead, SkipsInterimAnswersButNotWithoutEnd) {
  EXPECT_EQ(statusOf("HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), 200);
  std::string endless;
  for (int i = 0; i < 20; ++i) endless += "HTTP/1.1 102 Processing\r\n\r\n";
  EXPECT_EQ(statusOf(endless), -1);
  EXPECT_EQ(statusOf("HTTP/1.1 101 Switching Protocols\r\n\r\n"), -1);
}

TEST(ResponseHead, RefusesWhatIsNotHttpAtOnce) {
  for (const char* text : {"SSH-2.0-x", "HTTP/2.0 200 OK\r\n", "HTTP/1.1  200\r\n", "HTTP/1.1 20x OK\r\n", "HTTP/1.1 999 X\r\n",
                           "HTTP/1.1 200OK\r\n", "HTTP/1.1 200 OK\r\n folded\r\n", "HTTP/1.1 200 OK\r\nName : x\r\n",
                           "HTTP/1.1 200 OK\r\nno colon\r\n", "HTTP/1.1 200 OK\r\n: empty\r\n", "HTTP/1.1 200 O\x01K\r\n",
                           "HTTP/1.1 200 OK\r\nA: \x01\r\n", "<html>", "\r\nHTTP/1.1 200 OK\r\n\r\n"})
    EXPECT_EQ(statusOf(text), -1) << text;
}

TEST(ResponseHead, BoundsTheHead) {
  EXPECT_EQ(statusOf("HTTP/1.1 200 OK\r\nA: " + std::string(ResponseHead::kMaxHeadBytes, 'x')), -1);
}

TEST(ResponseHead, ReportsRefusals) {
  const auto progress = feed("HTTP/1.1 403 \x1b[31mForbidden\r\n\r\n");
  EXPECT_FALSE(progress) << "no escape sequences towards a terminal";
  EXPECT_EQ(statusOf("HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n<html>"), 407);
}

TEST(Authority, BracketsIpv6AndRefusesInjection) {
  EXPECT_EQ(*authorityOf({"db.example", 5432}), "db.example:5432");
  EXPECT_EQ(*authorityOf({"2001:db8::1", 443}), "[2001:db8::1]:443");
  for (const Target& bad : {Target{"", 1}, Target{"a", 0}, Target{"a b", 1}, Target{"a\r\nX: y", 1}, Target{"a@b", 1}, Target{std::string(300, 'a'), 1}})
    EXPECT_EQ(authorityOf(bad).error().reason, Reason::BadInput) << bad.host;
}

TEST(Refusal, MapsStatusesToReasons) {
  EXPECT_EQ(refusal(403, "a:1", "").reason, Reason::GatewayDenied);
  EXPECT_EQ(refusal(407, "a:1", "").reason, Reason::GatewayAuthRequired);
  for (int status : {502, 503, 504}) EXPECT_EQ(refusal(status, "a:1", "").reason, Reason::GatewayCannotReachTarget);
  for (int status : {302, 400, 404, 405, 429, 500}) EXPECT_EQ(refusal(status, "a:1", "").reason, Reason::GatewayRefused);
}

}  // namespace
}  // namespace wayleave::tunnel
