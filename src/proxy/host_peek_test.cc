#include <gtest/gtest.h>
#include <openssl/ssl.h>

#include "base/owned.h"
#include "proxy/http_host.h"

namespace wayleave::proxy {
namespace {

// A hello as OpenSSL writes it.
Bytes clientHello(const char* name) {
  const Handle<SSL_CTX, SSL_CTX_free> context(SSL_CTX_new(TLS_client_method()));
  const Handle<SSL, SSL_free> ssl(SSL_new(context.get()));
  if (name != nullptr) SSL_ctrl(ssl.get(), SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, const_cast<char*>(name));
  SSL_set_bio(ssl.get(), BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
  SSL_connect(ssl.get());
  char* data = nullptr;
  const long length = BIO_get_mem_data(SSL_get_wbio(ssl.get()), &data);
  return toBytes(std::string_view(data, static_cast<size_t>(length)));
}

// The same handshake bytes, one record per `size` bytes.
Bytes refragmented(const Bytes& record, size_t size) {
  Bytes out;
  for (size_t at = 5; at < record.size(); at += size) {
    const size_t length = std::min(size, record.size() - at);
    append(out, Bytes{22, 3, 1});
    appendU16(out, static_cast<uint16_t>(length));
    append(out, ByteView(record).subspan(at, length));
  }
  return out;
}

TEST(ServerName, IsReadFromARealHello) {
  const auto result = hostOf(clientHello("WWW.Example.com"));
  EXPECT_EQ(result.peek, Peek::Found);
  EXPECT_EQ(result.host, "www.example.com");
  EXPECT_EQ(hostOf(clientHello(nullptr)).peek, Peek::None);
}

TEST(ServerName, EveryPrefixNeedsMore) {
  const Bytes hello = clientHello("www.example.com");
  for (size_t length = 0; length < hello.size(); ++length)
    ASSERT_EQ(hostOf(ByteView(hello).first(length)).peek, Peek::NeedMore) << length;
  Bytes longer = hello;
  longer.push_back(23);  // early data follows
  EXPECT_EQ(hostOf(longer).host, "www.example.com");
}

TEST(ServerName, SurvivesFragmentation) {
  const Bytes hello = clientHello("www.example.com");
  for (const size_t size : {size_t{1}, size_t{3}, size_t{100}}) EXPECT_EQ(hostOf(refragmented(hello, size)).host, "www.example.com");
}

TEST(ServerName, EveryMutationIsAnAnswer) {
  const Bytes hello = clientHello("www.example.com");
  for (size_t at = 0; at < hello.size(); ++at)
    for (const int change : {1, 0x80, 0xff}) {
      Bytes bad = hello;
      bad[at] = static_cast<uint8_t>(bad[at] ^ change);
      const auto result = hostOf(bad);
      EXPECT_EQ(result.host.empty(), result.peek != Peek::Found);
    }
}

TEST(ServerName, RefusesNamesThatAreNone) {
  for (const char* name : {"192.0.2.1", "a b.example", "..", "-\x01"}) EXPECT_EQ(hostOf(clientHello(name)).peek, Peek::None) << name;
  EXPECT_EQ(normalisedHost("Example.COM."), "example.com");
  EXPECT_EQ(normalisedHost(std::string(300, 'a')), "");
  EXPECT_EQ(normalisedHost("."), "");
}

PeekResult http(std::string_view text) { return hostOf(asBytes(text)); }

TEST(HttpHost, IsReadFromTheHead) {
  EXPECT_EQ(http("GET / HTTP/1.1\r\nHost: Example.com\r\n\r\n").host, "example.com");
  EXPECT_EQ(http("GET /a HTTP/1.1\r\nX: y\r\nhOsT:\texample.com:8080 \r\n\r\nbody").host, "example.com");
  EXPECT_EQ(http("POST / HTTP/1.0\r\nHost:example.com\r\n\r\n").host, "example.com");
}

TEST(HttpHost, EveryPrefixNeedsMore) {
  const std::string_view text = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";
  for (size_t length = 0; length < text.size(); ++length) EXPECT_EQ(http(text.substr(0, length)).peek, Peek::NeedMore) << length;
}

TEST(HttpHost, EverythingElseHasNoName) {
  for (const std::string_view text :
       {"SSH-2.0-OpenSSH_9.2\r\n", "\x01\x02\x03", "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n", "GET  HTTP/1.1\r\nHost: a\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /\r\nHost: a\r\n\r\n",
        "{\"json\": 1}", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"})
    EXPECT_EQ(http(text).peek, Peek::None) << text;
}

}  // namespace
}  // namespace wayleave::proxy
