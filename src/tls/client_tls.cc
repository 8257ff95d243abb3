// One TLS connection.
//
// Reading, OpenSSL asks our BIO for a record's worth and some, and that receives into OpenSSL's own buffer: the record is still
// in the cache when it is decrypted in place, and one more copy brings the plain text to the caller's batch. Receiving 256 KiB
// first and copying records out of that was measured: a fifth more CPU per byte, although it needs a sixteenth of the system
// calls. Writing is the other way round: finished records gather in the output queue, because a send of 16 KiB costs
// more than its copy.

#include "tls/client_tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "tls/callback_key.h"
#include "tls/client_context.h"
#include "tls/tls_error.h"

namespace wayleave::tls {
namespace {

struct Wire {
  ByteQueue fed;  // read first
  ByteQueue output;
  int socket = -1;
  SocketInput input;
};

Wire* wireOf(BIO* bio) { return static_cast<Wire*>(BIO_get_data(bio)); }

size_t receive(Wire& wire, char* out, size_t room) {
  using State = SocketInput::State;
  if (wire.socket < 0 || wire.input.state != State::Open) return 0;
  ssize_t got = 0;
  do {
    got = ::recv(wire.socket, out, room, MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  if (got > 0) {
    if (static_cast<size_t>(got) < room) wire.input.state = State::Drained;  // saves the call that says EAGAIN
    return static_cast<size_t>(got);
  }
  if (got == 0)
    wire.input.state = State::Ended;
  else if (errno == EAGAIN)
    wire.input.state = State::Drained;
  else
    wire.input = {State::Broken, errno};
  return 0;
}

int wireRead(BIO* bio, char* out, size_t room, size_t* taken) {
  BIO_clear_retry_flags(bio);
  Wire& wire = *wireOf(bio);
  if (wire.fed.empty()) {
    *taken = receive(wire, out, room);
  } else {
    *taken = std::min(room, wire.fed.size());
    std::memcpy(out, wire.fed.view().data(), *taken);
    wire.fed.consume(*taken);
  }
  if (*taken > 0) return 1;
  BIO_set_retry_read(bio);  // also at the end: whether that was orderly is for whoever owns the socket to say
  return 0;
}

int wireWrite(BIO* bio, const char* data, size_t length, size_t* written) {
  BIO_clear_retry_flags(bio);
  try {
    wireOf(bio)->output.append({reinterpret_cast<const uint8_t*>(data), length});
  } catch (...) {
    return 0;
  }
  *written = length;
  return 1;
}

long wireControl(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

const BIO_METHOD* wireMethod() {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "wayleave wire");
    if (made == nullptr) return made;
    BIO_meth_set_read_ex(made, wireRead);
    BIO_meth_set_write_ex(made, wireWrite);
    BIO_meth_set_ctrl(made, wireControl);
    return made;
  }();
  return method;
}

class ClientTlsImpl final : public ClientTls {
 public:
  ClientTlsImpl(std::shared_ptr<ContextImpl> context, SslPtr ssl, bool offerSession)
      : context_(std::move(context)), ssl_(std::move(ssl)), mayOffer_(offerSession) {}
  ~ClientTlsImpl() override { ssl_.reset(); }  // before the wire its BIO points to

  bool attachWire() {
    BIO* bio = BIO_new(wireMethod());
    if (bio == nullptr) return false;
    BIO_set_data(bio, &wire_);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl_.get(), bio, bio);
    SSL_set_app_data(ssl_.get(), &rejectedSubject_);
    return true;
  }

  void feed(ByteView ciphertext) override { wire_.fed.append(ciphertext); }
  void receiveFrom(int socket) override {
    wire_.socket = socket;
    SSL_set_read_ahead(ssl_.get(), 1);  // a record and its head in one call
  }
  void socketReady() override {
    if (wire_.input.state == SocketInput::State::Drained) wire_.input.state = SocketInput::State::Open;
  }
  SocketInput socketInput() const override { return wire_.input; }
  ByteView pendingOutput() const override { return wire_.output.view(); }
  void consume(size_t bytes) override { wire_.output.consume(bytes); }

  HandshakeState handshakeStep(bool maySign, Steady signDeadline) override {
    if (std::exchange(mayOffer_, false)) offerSession();
    const PermitScope scope({maySign, signDeadline});
    ERR_clear_error();
    (void)takeSignError();
    const int result = SSL_do_handshake(ssl_.get());
    if (result == 1) return finished();
    switch (SSL_get_error(ssl_.get(), result)) {
      case SSL_ERROR_WANT_READ: return HandshakeState::NeedsInput;
      case SSL_ERROR_WANT_X509_LOOKUP: return HandshakeState::NeedsSigner;
      default: break;
    }
    error_ = tlsError(ssl_.get(), "TLS handshake with the gateway", takeSignError());
    return HandshakeState::Failed;
  }

  const Error& error() const override { return error_; }
  std::string negotiatedAlpn() const override {
    const unsigned char* name = nullptr;
    unsigned int length = 0;
    SSL_get0_alpn_selected(ssl_.get(), &name, &length);
    return {reinterpret_cast<const char*>(name), length};
  }
  bool resumed() const override { return SSL_session_reused(ssl_.get()) == 1; }
  bool offeredSession() const override { return offered_; }
  std::string version() const override { return SSL_get_version(ssl_.get()); }
  void borrowFrom(ChunkCache& cache) override {
    // Both queues may hold handshake-time blocks: those are small or plain heap and go when they empty.
    wire_.output.borrowFrom(&cache);
    wire_.fed.borrowFrom(&cache);
  }

  Result<size_t> read(std::span<uint8_t> out) override {
    size_t total = 0;
    while (total < out.size()) {
      size_t got = 0;
      ERR_clear_error();
      if (SSL_read_ex(ssl_.get(), out.data() + total, out.size() - total, &got) == 1) {
        total += got;
        continue;
      }
      switch (SSL_get_error(ssl_.get(), 0)) {
        case SSL_ERROR_WANT_READ: return total;
        case SSL_ERROR_ZERO_RETURN: ended_ = true; return total;
        default: break;
      }
      if (total > 0) return total;  // the failure is sticky: the next call reports it
      return std::unexpected(failure("TLS record from the gateway"));
    }
    return total;
  }
  bool endOfStream() const override { return ended_; }

  Status write(ByteView plain) override {
    while (!plain.empty()) {
      size_t written = 0;
      ERR_clear_error();
      if (SSL_write_ex(ssl_.get(), plain.data(), plain.size(), &written) != 1)
        return std::unexpected(failure("TLS record to the gateway"));
      plain = plain.subspan(written);
    }
    return {};
  }
  void closeNotify() override {
    ERR_clear_error();
    SSL_shutdown(ssl_.get());
    ERR_clear_error();
  }

 private:
  void offerSession() {
    session_ = context_->sessions.take();
    if (session_) offered_ = SSL_set_session(ssl_.get(), session_.get()) == 1;
  }
  HandshakeState finished() {
    if (session_) {
      if (resumed())
        context_->sessions.countSuccess();
      else
        context_->sessions.drop(session_.get());
    }
    session_.reset();
    return HandshakeState::Done;
  }
  const Error& failure(std::string_view during) {
    if (error_.reason == Reason::Ok) error_ = tlsError(ssl_.get(), during, takeSignError());
    return error_;
  }

  const std::shared_ptr<ContextImpl> context_;
  Wire wire_;
  std::string rejectedSubject_;
  SslPtr ssl_;
  SessionPtr session_;  // the one offered, while the handshake runs
  Error error_{Reason::Ok, {}, {}};
  bool mayOffer_;
  bool offered_ = false;
  bool ended_ = false;
};

}  // namespace

Result<std::unique_ptr<ClientTls>> ClientTls::make(std::shared_ptr<ClientContext> context, bool offerSession) {
  auto impl = std::static_pointer_cast<ContextImpl>(std::move(context));  // the only ClientContext there is
  auto ssl = impl->newConnection();
  if (!ssl) return propagate(ssl.error());
  auto tls = std::make_unique<ClientTlsImpl>(std::move(impl), std::move(*ssl), offerSession);
  if (!tls->attachWire()) return propagate(keys::opensslError(Reason::Internal, "make a BIO"));
  return tls;
}

}  // namespace wayleave::tls
