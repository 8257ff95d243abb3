// One TLS connection.
//
// OpenSSL reads and writes through a BIO of ours. Reading takes from a batch that one system call brought: sixteen records
// without another, which costs less per byte than receiving each record into OpenSSL's own buffer, although that saves a copy
// (measured with one flow and with sixteen). Writing gathers finished records in the output queue for one system call.

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
  ByteQueue fed;   // read first
  ByteView lent;   // of the batch, while read() runs
  ByteQueue output;
  int socket = -1;
  std::span<uint8_t> batch;  // others' too
  bool mayReceive = false;   // the caller has room for all that a batch can hold
  SocketInput input;
};

Wire* wireOf(BIO* bio) { return static_cast<Wire*>(BIO_get_data(bio)); }

void receiveBatch(Wire& wire) {
  using State = SocketInput::State;
  if (wire.socket < 0 || !wire.mayReceive || wire.input.state != State::Open) return;
  ssize_t got = 0;
  do {
    got = ::recv(wire.socket, wire.batch.data(), wire.batch.size(), MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  if (got > 0) {
    wire.lent = wire.batch.first(static_cast<size_t>(got));
    if (wire.lent.size() < wire.batch.size()) wire.input.state = State::Drained;  // saves the call that says EAGAIN
  } else if (got == 0) {
    wire.input.state = State::Ended;
  } else if (errno == EAGAIN) {
    wire.input.state = State::Drained;
  } else {
    wire.input = {State::Broken, errno};
  }
}

int wireRead(BIO* bio, char* out, size_t room, size_t* taken) {
  BIO_clear_retry_flags(bio);
  Wire& wire = *wireOf(bio);
  if (wire.fed.empty() && wire.lent.empty()) receiveBatch(wire);
  const bool fromFed = !wire.fed.empty();
  const ByteView source = fromFed ? wire.fed.view() : wire.lent;
  if (source.empty()) {
    BIO_set_retry_read(bio);  // also at the end: whether that was orderly is for whoever owns the socket to say
    return 0;
  }
  *taken = std::min(room, source.size());
  std::memcpy(out, source.data(), *taken);
  if (fromFed)
    wire.fed.consume(*taken);
  else
    wire.lent = wire.lent.subspan(*taken);
  return 1;
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
  void receiveFrom(int socket, std::span<uint8_t> batch) override {
    wire_.socket = socket;
    wire_.batch = batch;
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
    const auto got = readWhileThereIsRoom(out);
    wire_.fed.append(wire_.lent);  // part of a record, unless `out` is full: the batch is others' from now on
    wire_.lent = {};
    return got;
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
  Result<size_t> readWhileThereIsRoom(std::span<uint8_t> out) {
    size_t total = 0;
    while (total < out.size()) {
      // Plain text is shorter than its records. A caller with less room than a batch has its rest kept.
      wire_.mayReceive = total == 0 || out.size() - total >= wire_.batch.size();
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
