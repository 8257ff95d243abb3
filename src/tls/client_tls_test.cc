#include "tls/client_tls.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/owned.h"
#include "tls/pki_test_support.h"

namespace wayleave::tls {
namespace {

using keys::KeyType;
using test::Leaf;
using namespace std::chrono_literals;

// A gateway in memory: OpenSSL's own server on memory BIOs, driven in step with the client.
class MemoryServer {
 public:
  explicit MemoryServer(const std::shared_ptr<SSL_CTX>& context) : ssl_(SSL_new(context.get())) {
    in_ = BIO_new(BIO_s_mem());
    out_ = BIO_new(BIO_s_mem());
    BIO_set_mem_eof_return(in_, -1);
    SSL_set_bio(ssl_.get(), in_, out_);
    SSL_set_accept_state(ssl_.get());
  }
  void take(ClientTls& client) {
    const ByteView bytes = client.pendingOutput();
    if (!bytes.empty()) BIO_write(in_, bytes.data(), static_cast<int>(bytes.size()));
    client.consume(bytes.size());
  }
  void give(ClientTls& client) {
    const Bytes bytes = takeOutput();
    if (!bytes.empty()) client.feed(bytes);
  }
  Bytes takeOutput() {
    Bytes bytes(BIO_ctrl_pending(out_));
    if (!bytes.empty()) BIO_read(out_, bytes.data(), static_cast<int>(bytes.size()));
    return bytes;
  }
  bool step() { return SSL_do_handshake(ssl_.get()) == 1; }
  SSL* ssl() { return ssl_.get(); }

 private:
  Handle<SSL, SSL_free> ssl_;
  BIO* in_ = nullptr;
  BIO* out_ = nullptr;
};

class ClientTlsTest : public testing::Test {
 protected:
  ClientContextOptions options(const Leaf* identity = nullptr) {
    ClientContextOptions made;
    made.trustAnchorsPem = {authority_.pemText()};
    made.serverName = "gateway.test";
    if (identity != nullptr) made.identity = test::identityOf(*identity);
    return made;
  }
  static std::shared_ptr<ClientContext> contextOf(ClientContextOptions options) {
    auto context = ClientContext::make(std::move(options));
    EXPECT_TRUE(context) << describe(context.error());
    return context ? *context : nullptr;
  }
  static std::unique_ptr<ClientTls> connectionOf(const std::shared_ptr<ClientContext>& context) {
    auto made = ClientTls::make(context);
    EXPECT_TRUE(made) << describe(made.error());
    return std::move(*made);
  }
  // Both sides until the client is done or failed; counts the steps that wanted a signer.
  HandshakeState shake(ClientTls& client, MemoryServer& server, bool maySign = true) {
    for (int round = 0; round < 20; ++round) {
      const HandshakeState state = client.handshakeStep(maySign, Steady::clock::now() + 5s);
      server.take(client);
      if (state == HandshakeState::Failed || state == HandshakeState::NeedsSigner) return state;
      server.step();
      server.give(client);
      if (state == HandshakeState::Done) return state;
    }
    return HandshakeState::NeedsInput;
  }
  std::string readAllNow(ClientTls& client) {
    std::string text;
    std::array<uint8_t, 4096> room{};
    for (;;) {
      auto got = client.read(room);
      if (!got || *got == 0) return text;
      text.append(asText(ByteView(room).first(*got)));
    }
  }

  test::Authority authority_;
  Leaf gateway_ = authority_.issue("gateway.test", KeyType::EcP256, "serverAuth", "DNS:gateway.test,IP:127.0.0.1");
  std::shared_ptr<SSL_CTX> server_ = test::serverContext(gateway_, authority_.certificate());
};

class EveryKey : public ClientTlsTest, public testing::WithParamInterface<std::tuple<KeyType, int>> {};
INSTANTIATE_TEST_SUITE_P(KeysAndVersions, EveryKey,
                         testing::Combine(testing::Values(KeyType::EcP256, KeyType::EcP384, KeyType::EcP521, KeyType::Rsa),
                                          testing::Values(TLS1_2_VERSION, TLS1_3_VERSION)));

TEST_P(EveryKey, AuthenticatesAndCarriesBytesBothWays) {
  const auto [type, version] = GetParam();
  SSL_CTX_set_max_proto_version(server_.get(), version);
  const Leaf device = authority_.issue("device-1", type, "clientAuth", nullptr);
  bool sawTls13 = false;
  ClientContextOptions made = options();
  made.identity = test::identityOf(device);
  made.identity->sign = [&, inner = made.identity->sign](const SignInput& input) {
    sawTls13 = input.tls13;
    return inner(input);
  };
  const auto context = contextOf(std::move(made));
  const auto client = connectionOf(context);
  MemoryServer server(server_);
  ASSERT_EQ(shake(*client, server), HandshakeState::Done) << describe(client->error());
  EXPECT_EQ(sawTls13, version == TLS1_3_VERSION);
  const Handle<X509, X509_free> seen(SSL_get1_peer_certificate(server.ssl()));
  EXPECT_TRUE(seen);

  const std::string big(300'000, 'w');
  ASSERT_TRUE(client->write(asBytes(big)));
  server.take(*client);
  std::string arrived;
  std::array<char, 65536> room{};
  for (int got = 0; (got = SSL_read(server.ssl(), room.data(), room.size())) > 0;) arrived.append(room.data(), static_cast<size_t>(got));
  EXPECT_EQ(arrived, big);
  SSL_write(server.ssl(), "back", 4);
  server.give(*client);
  EXPECT_EQ(readAllNow(*client), "back");
  SSL_shutdown(server.ssl());
  server.give(*client);
  EXPECT_EQ(readAllNow(*client), "");
  EXPECT_TRUE(client->endOfStream());
}

// A connection that receives from one end of a socket pair what the test sends into the other.
class ReceivingTest : public ClientTlsTest {
 protected:
  void SetUp() override {
    int pair[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    near_ = Fd::adopt(pair[0]);
    far_ = Fd::adopt(pair[1]);
    const Leaf device = authority_.issue("device-1", KeyType::EcP256, "clientAuth", nullptr);
    client_ = connectionOf(contextOf(options(&device)));
    ASSERT_EQ(shake(*client_, gatewaySide_), HandshakeState::Done);
  }
  void send(ByteView bytes) { ASSERT_EQ(::send(far_.borrow(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size())); }
  Bytes recordsOf(std::string_view text) {
    EXPECT_EQ(SSL_write(gatewaySide_.ssl(), text.data(), static_cast<int>(text.size())), static_cast<int>(text.size()));
    return gatewaySide_.takeOutput();
  }

  Fd near_, far_;
  std::array<uint8_t, 8'000> batch_{};  // less than a record
  MemoryServer gatewaySide_{server_};
  std::unique_ptr<ClientTls> client_;
};

TEST_F(ReceivingTest, ReadsWhatWasFedBeforeAndThenTheSocket) {
  client_->feed(recordsOf("fed, "));
  client_->receiveFrom(near_.borrow(), batch_);
  send(recordsOf("received"));
  EXPECT_EQ(readAllNow(*client_), "fed, received");
  EXPECT_EQ(client_->socketInput().state, SocketInput::State::Drained);
}

TEST_F(ReceivingTest, LooksAgainOnlyWhenToldThatTheSocketIsReady) {
  client_->receiveFrom(near_.borrow(), batch_);
  EXPECT_EQ(readAllNow(*client_), "");
  send(recordsOf("later"));
  EXPECT_EQ(readAllNow(*client_), "");
  client_->socketReady();
  EXPECT_EQ(readAllNow(*client_), "later");
}

TEST_F(ReceivingTest, PutsARecordTogetherFromPieces) {
  client_->receiveFrom(near_.borrow(), batch_);
  const std::string text(40'000, 'p');  // three records
  const Bytes records = recordsOf(text);
  std::string got;
  for (size_t at = 0; at < records.size(); at += 1'000) {
    send(ByteView(records).subspan(at, std::min<size_t>(1'000, records.size() - at)));
    client_->socketReady();
    got += readAllNow(*client_);
  }
  EXPECT_EQ(got, text);
}

TEST_F(ReceivingTest, FillsTheRoomAndKeepsTheRest) {
  client_->receiveFrom(near_.borrow(), batch_);
  send(recordsOf(std::string(40'000, 'r')));
  std::vector<uint8_t> room(25'000);
  const auto first = client_->read(room);
  ASSERT_TRUE(first);
  EXPECT_EQ(*first, room.size());
  const auto second = client_->read(room);
  ASSERT_TRUE(second);
  EXPECT_EQ(*second, 15'000u);
}

TEST_F(ReceivingTest, TellsAnEndFromAnOrderlyOne) {
  client_->receiveFrom(near_.borrow(), batch_);
  send(recordsOf("last"));
  far_.reset();
  EXPECT_EQ(readAllNow(*client_), "last");
  client_->socketReady();
  EXPECT_EQ(readAllNow(*client_), "");
  EXPECT_EQ(client_->socketInput().state, SocketInput::State::Ended);
  EXPECT_FALSE(client_->endOfStream());
}

TEST_F(ReceivingTest, TellsWhyTheSocketBroke) {
  client_->receiveFrom(near_.borrow(), batch_);
  near_.reset();
  EXPECT_EQ(readAllNow(*client_), "");
  EXPECT_EQ(client_->socketInput().state, SocketInput::State::Broken);
  EXPECT_EQ(client_->socketInput().error, EBADF);
}

TEST_F(ReceivingTest, ReportsARecordThatWasTamperedWith) {
  client_->receiveFrom(near_.borrow(), batch_);
  Bytes records = recordsOf("secret");
  records.back() ^= 1;
  send(records);
  std::array<uint8_t, 100> room{};
  const auto got = client_->read(room);
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().reason, Reason::GatewayTlsFailed);
}

TEST_F(ClientTlsTest, StopsBeforeTheSignatureUnlessAllowed) {
  const Leaf device = authority_.issue("device-1", KeyType::EcP384, "clientAuth", nullptr);
  std::atomic<int> signatures = 0;
  ClientContextOptions made = options();
  made.identity = test::identityOf(device, [&] { ++signatures; });
  const auto client = connectionOf(contextOf(std::move(made)));
  MemoryServer server(server_);
  ASSERT_EQ(shake(*client, server, false), HandshakeState::NeedsSigner);
  EXPECT_EQ(signatures, 0);
  ASSERT_EQ(shake(*client, server, true), HandshakeState::Done);
  EXPECT_EQ(signatures, 1);
}

TEST_F(ClientTlsTest, ResumesWithoutASignature) {
  const Leaf device = authority_.issue("device-1", KeyType::EcP256, "clientAuth", nullptr);
  const auto context = contextOf(options(&device));
  EXPECT_FALSE(context->hasSession());
  {
    const auto first = connectionOf(context);
    MemoryServer server(server_);
    ASSERT_EQ(shake(*first, server), HandshakeState::Done);
    readAllNow(*first);  // tickets come after the handshake
    EXPECT_TRUE(context->hasSession());
  }
  for (int i = 0; i < 5; ++i) {
    const auto again = connectionOf(context);
    MemoryServer server(server_);
    ASSERT_EQ(shake(*again, server, false), HandshakeState::Done) << i;
    EXPECT_TRUE(again->resumed());
    EXPECT_TRUE(context->hasSession()) << "the last ticket is kept";
  }
  context->forgetSessions();
  EXPECT_FALSE(context->hasSession());
}

TEST_F(ClientTlsTest, DropsATicketTheGatewayDoesNotKnow) {
  const Leaf device = authority_.issue("device-1", KeyType::EcP256, "clientAuth", nullptr);
  const auto context = contextOf(options(&device));
  {
    SSL_CTX_set_num_tickets(server_.get(), 1);
    const auto first = connectionOf(context);
    MemoryServer server(server_);
    ASSERT_EQ(shake(*first, server), HandshakeState::Done);
    readAllNow(*first);
  }
  ASSERT_TRUE(context->hasSession());
  const auto restarted = test::serverContext(gateway_, authority_.certificate());  // other ticket keys
  const auto again = connectionOf(context);
  MemoryServer server(restarted);
  ASSERT_EQ(shake(*again, server, false), HandshakeState::NeedsSigner) << "a refused ticket leads to a signature, not to a stall";
  ASSERT_EQ(shake(*again, server, true), HandshakeState::Done);
  EXPECT_FALSE(again->resumed());
  EXPECT_FALSE(context->hasSession());
}

TEST_F(ClientTlsTest, StopsResumingWhereResumptionBreaks) {
  const Leaf device = authority_.issue("device-1", KeyType::EcP256, "clientAuth", nullptr);
  const auto context = contextOf(options(&device));
  const auto connect = [&] {
    const auto client = connectionOf(context);
    MemoryServer server(server_);
    ASSERT_EQ(shake(*client, server), HandshakeState::Done);
    readAllNow(*client);
  };
  connect();
  ASSERT_TRUE(context->hasSession());
  context->resumptionFailed();
  EXPECT_FALSE(context->hasSession());
  connect();
  EXPECT_TRUE(context->hasSession()) << "once may be an accident";
  context->resumptionFailed();
  connect();
  EXPECT_FALSE(context->hasSession());
}

TEST_F(ClientTlsTest, RefusesAGatewayOfAnotherAuthority) {
  const test::Authority other("Other CA");
  ClientContextOptions made = options();
  made.trustAnchorsPem = {other.pemText()};
  const auto client = connectionOf(contextOf(std::move(made)));
  MemoryServer server(server_);
  ASSERT_EQ(shake(*client, server), HandshakeState::Failed);
  EXPECT_EQ(client->error().reason, Reason::GatewayUntrusted);
  EXPECT_NE(client->error().message.find("Test CA"), std::string::npos) << client->error().message;
}

TEST_F(ClientTlsTest, RefusesAnotherNameAndAnExpiredCertificate) {
  ClientContextOptions wrongName = options();
  wrongName.serverName = "other.test";
  const auto named = connectionOf(contextOf(std::move(wrongName)));
  MemoryServer first(server_);
  ASSERT_EQ(shake(*named, first), HandshakeState::Failed);
  EXPECT_EQ(named->error().reason, Reason::GatewayUntrusted);

  const Leaf old = authority_.issue("gateway.test", KeyType::EcP256, "serverAuth", "DNS:gateway.test", -60);
  const auto expired = connectionOf(contextOf(options()));
  MemoryServer second(test::serverContext(old, nullptr));
  ASSERT_EQ(shake(*expired, second), HandshakeState::Failed);
  EXPECT_EQ(expired->error().reason, Reason::GatewayUntrusted);
  EXPECT_NE(expired->error().hint.find("clock"), std::string::npos);
}

TEST_F(ClientTlsTest, VerifiesAnAddressAndAPinnedLeaf) {
  ClientContextOptions made = options();
  made.serverName = "127.0.0.1";
  made.trustAnchorsPem = {test::pem(gateway_.certificate.get())};
  const auto client = connectionOf(contextOf(std::move(made)));
  MemoryServer server(test::serverContext(gateway_, nullptr));
  EXPECT_EQ(shake(*client, server), HandshakeState::Done) << describe(client->error());
}

// A TLS 1.3 server judges the client's certificate when the client believes it is done.
TEST_F(ClientTlsTest, ReportsARefusedCertificateOnTheFirstRead) {
  const test::Authority stranger("Stranger CA");
  const Leaf device = stranger.issue("device-1", KeyType::EcP256, "clientAuth", nullptr);
  for (const bool withIdentity : {true, false}) {
    const auto client = connectionOf(contextOf(withIdentity ? options(&device) : options()));
    MemoryServer server(server_);
    ASSERT_EQ(shake(*client, server), HandshakeState::Done);
    std::array<uint8_t, 16> room{};
    const auto got = client->read(room);
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().reason, Reason::GatewayRefusedCertificate) << got.error().message;
  }
}

TEST_F(ClientTlsTest, ReportsTheSignersError) {
  const Leaf device = authority_.issue("device-1", KeyType::EcP256, "clientAuth", nullptr);
  ClientContextOptions made = options(&device);
  made.identity->sign = [](const SignInput&) -> Result<Bytes> { return fail(Reason::DeadlineExceeded, "the TPM was busy"); };
  const auto client = connectionOf(contextOf(std::move(made)));
  MemoryServer server(server_);
  ASSERT_EQ(shake(*client, server), HandshakeState::Failed);
  EXPECT_EQ(client->error().reason, Reason::DeadlineExceeded);
}

TEST_F(ClientTlsTest, ReportsGarbageAsTlsFailure) {
  const auto client = connectionOf(contextOf(options()));
  ASSERT_EQ(client->handshakeStep(true, Steady::clock::now()), HandshakeState::NeedsInput);
  const Bytes garbage = toBytes("HTTP/1.1 400 Bad Request\r\n\r\n");
  client->feed(garbage);
  ASSERT_EQ(client->handshakeStep(true, Steady::clock::now()), HandshakeState::Failed);
  EXPECT_EQ(client->error().reason, Reason::GatewayTlsFailed);
}

TEST_F(ClientTlsTest, NegotiatesAlpn) {
  SSL_CTX_set_alpn_select_cb(
      server_.get(),
      [](SSL*, const unsigned char** out, unsigned char* length, const unsigned char* in, unsigned int inLength, void*) {
        static const unsigned char kH2[] = "\x02h2";
        return SSL_select_next_proto(const_cast<unsigned char**>(out), length, kH2, 3, in, inLength) == OPENSSL_NPN_NEGOTIATED
                   ? SSL_TLSEXT_ERR_OK
                   : SSL_TLSEXT_ERR_NOACK;
      },
      nullptr);
  const Leaf device = authority_.issue("device-1", KeyType::EcP256, "clientAuth", nullptr);
  ClientContextOptions made = options(&device);
  made.alpn = {"h2", "http/1.1"};
  const auto client = connectionOf(contextOf(std::move(made)));
  MemoryServer server(server_);
  ASSERT_EQ(shake(*client, server), HandshakeState::Done);
  EXPECT_EQ(client->negotiatedAlpn(), "h2");
  EXPECT_EQ(client->version(), "TLSv1.3");
}

TEST_F(ClientTlsTest, RefusesContextsThatCannotWork) {
  const Leaf device = authority_.issue("device-1", KeyType::EcP256, "clientAuth", nullptr);
  ClientContextOptions garbage = options(&device);
  garbage.identity->chain[0] = toBytes("no DER");
  EXPECT_EQ(ClientContext::make(std::move(garbage)).error().reason, Reason::BadInput);
  ClientContextOptions anchor = options();
  anchor.trustAnchorsPem = {"no PEM"};
  EXPECT_EQ(ClientContext::make(std::move(anchor)).error().reason, Reason::BadInput);
  ClientContextOptions nameless = options();
  nameless.serverName.clear();
  EXPECT_EQ(ClientContext::make(std::move(nameless)).error().reason, Reason::BadInput);
}

TEST(HandshakePool, RunsResumptionsBesideBlockedSigners) {
  std::mutex mutex;
  std::condition_variable changed;
  bool blocked = false;
  bool release = false;
  bool resumed = false;
  HandshakePool pool({.signingThreads = 1, .resumingThreads = 1, .queueLimit = 1});  // its threads use what stands above
  ASSERT_TRUE(pool.submit(true, [&] {
    std::unique_lock lock(mutex);
    blocked = true;
    changed.notify_all();
    changed.wait(lock, [&] { return release; });
  }));
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return blocked; });
  }
  ASSERT_TRUE(pool.submit(true, [] {}));
  const auto full = pool.submit(true, [] {});
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().reason, Reason::Busy);
  ASSERT_TRUE(pool.submit(false, [&] {
    const std::lock_guard lock(mutex);
    resumed = true;
    changed.notify_all();
  }));
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return resumed; });
  release = true;
  changed.notify_all();
}

TEST(ByteQueue, KeepsOrderAcrossGrowthAndGivesMemoryBack) {
  ChunkCache cache;
  ByteQueue queue;
  queue.borrowFrom(&cache);
  Bytes expected;
  for (int i = 0; i < 2000; ++i) {
    const Bytes piece(static_cast<size_t>(i % 700), static_cast<uint8_t>(i));
    queue.append(piece);
    append(expected, piece);
    if (i % 3 == 0) {
      const size_t some = queue.size() / 2;
      ASSERT_TRUE(std::equal(queue.view().begin(), queue.view().begin() + static_cast<ptrdiff_t>(some), expected.begin()));
      expected.erase(expected.begin(), expected.begin() + static_cast<ptrdiff_t>(some));
      queue.consume(some);
    }
  }
  EXPECT_EQ(toBytes(queue.view()), expected);
  queue.consume(queue.size());
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.view().data(), nullptr) << "an empty queue owns nothing";
}

}  // namespace
}  // namespace wayleave::tls
