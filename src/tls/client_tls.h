#pragma once

// TLS to the gateway, driven on our own buffers (memory BIO), with a private key that lives elsewhere.
//
//   ClientContext   one per (identity certificate, trust, ALPN): SSL_CTX, session tickets, the callback key.
//   ClientTls       one connection: ciphertext in, ciphertext out, plain text in, plain text out. Sans-IO but for one
//                   thing: once established it receives for itself, until the caller's room is full or the socket empty.
//   HandshakePool   the threads on which handshake steps run, because a step may ask a signer that takes 600 ms. A data
//                   thread never calls into a step that can sign.
//
// OpenSSL has no asynchronous client signature that works with every key, so the whole handshake step moves off the loop
// instead; once established, reading and writing records happens on the loop and never signs (client renegotiation and
// post-handshake authentication are off).

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/result.h"
#include "keys/private_key.h"
#include "tls/byte_queue.h"

namespace wayleave::tls {

// Signs for a handshake. Called on a HandshakePool thread; may block until `deadline`. In TLS 1.3 `input` is the complete
// CertificateVerify content, in TLS 1.2 the digest of the handshake messages. Returns a DER ECDSA or raw RSA signature.
struct SignInput {
  keys::SignatureScheme scheme{};
  bool tls13 = true;
  ByteView input;
  Steady deadline;
};
using SignCallback = std::function<Result<Bytes>(const SignInput&)>;

struct ClientIdentity {
  std::vector<Bytes> chain;  // DER, leaf first
  SignCallback sign;
};

struct ClientContextOptions {
  std::optional<ClientIdentity> identity;
  std::vector<std::string> trustAnchorsPem;  // empty = the system's store
  std::string serverName;                    // SNI and the name its certificate must carry (DNS name or IP address)
  std::vector<std::string> alpn;             // in order of preference; empty = none offered
  bool allowTls12 = true;
  bool resumption = true;  // keep tickets; a resumed handshake needs no signature
};

class ClientContext {
 public:
  // Shared by workers; thread-safe. Errors: BadInput (certificates), KeyMismatch, Unsupported (key type), Internal
  // (OpenSSL).
  static Result<std::shared_ptr<ClientContext>> make(ClientContextOptions options);
  virtual ~ClientContext() = default;
  virtual bool hasSession() const = 0;   // a ticket is at hand: the next handshake needs no signature
  virtual void forgetSessions() = 0;     // the identity changed or was removed
  // A handshake that offered a ticket broke instead of falling back to a full one. Some gateways are configured so that
  // they break every time (Squid with client certificates and no `sslcontext`): after two such failures in a row this
  // context stops resuming. The caller tries again with `offerSession` false.
  virtual void resumptionFailed() = 0;
};

// NeedsSigner: the gateway asks for our certificate, and the step was not allowed to sign: repeat it with `maySign`.
enum class HandshakeState : uint8_t { NeedsInput, NeedsSigner, Done, Failed };

// What receiving came to. Drained: nothing more for now. Ended: the peer closed, with or without a close_notify before.
struct SocketInput {
  enum class State : uint8_t { Open, Drained, Ended, Broken };
  State state = State::Open;
  int error = 0;  // errno, when Broken
};

// One TLS connection. Not thread-safe: owned by the loop, except while a handshake step runs in the pool.
class ClientTls {
 public:
  static Result<std::unique_ptr<ClientTls>> make(std::shared_ptr<ClientContext> context, bool offerSession = true);
  virtual ~ClientTls() = default;

  // Ciphertext from the gateway, by copy: for the handshake's few kilobytes.
  virtual void feed(ByteView ciphertext) = 0;
  // Once Done: read() takes what feed() left and then receives from `socket` itself (non-blocking, owned by the caller) by way
  // of `batch`, which many connections may share and which must outlive this: it is used only while read() runs.
  virtual void receiveFrom(int socket, std::span<uint8_t> batch) = 0;
  // The socket is readable: read() may look again after it was Drained.
  virtual void socketReady() = 0;
  virtual SocketInput socketInput() const = 0;
  // Ciphertext waiting to go out: a view valid until the next call; consume() what was written.
  virtual ByteView pendingOutput() const = 0;
  virtual void consume(size_t bytes) = 0;

  // Costs milliseconds, and with `maySign` blocks on the signer: run it through HandshakePool, after keepInput(). Without
  // `maySign` it never reaches the signer. After Failed see error(); there may be an alert in pendingOutput().
  virtual HandshakeState handshakeStep(bool maySign, Steady signDeadline) = 0;
  virtual const Error& error() const = 0;  // GatewayUntrusted, GatewayTlsFailed, GatewayRefusedCertificate, or the signer's
  virtual std::string negotiatedAlpn() const = 0;
  virtual bool resumed() const = 0;
  virtual bool offeredSession() const = 0;  // from the first step on
  virtual std::string version() const = 0;  // "TLSv1.3"
  // Once Done, on the loop: big output blocks come from the worker's cache, which must outlive this.
  virtual void borrowFrom(ChunkCache& cache) = 0;

  // After Done. read(): plain text into `out`, as much as there is room for; 0 = nothing now. Errors:
  // GatewayRefusedCertificate (TLS 1.3 servers say so on the first read), GatewayTlsFailed. endOfStream(): close_notify came.
  virtual Result<size_t> read(std::span<uint8_t> out) = 0;
  virtual bool endOfStream() const = 0;
  // Encrypts all of `plain` into the output buffer, in full records of 16 KiB and a last one with the rest: bound it by
  // looking at pendingOutput().size() first. Errors: GatewayTlsFailed.
  virtual Status write(ByteView plain) = 0;
  virtual void closeNotify() = 0;
};

// A bounded set of threads and a bounded queue. The step runs on a pool thread: it posts its outcome back to its loop, so
// destroy the pool (which waits for running steps and drops queued ones) before the loops. Steps that cannot sign and steps
// that can are kept apart, so that resumptions never wait behind a slow signer. Thread-safe.
class HandshakePool {
 public:
  struct Options {
    size_t signingThreads = 8;    // more do not help: a TPM signs one at a time
    size_t resumingThreads = 1;
    size_t queueLimit = 4096;
  };
  explicit HandshakePool(Options options);
  ~HandshakePool();
  HandshakePool(const HandshakePool&) = delete;
  HandshakePool& operator=(const HandshakePool&) = delete;

  // `mayBlock`: false only when the step cannot reach the signer. Errors: Busy (queue full).
  Status submit(bool mayBlock, std::function<void()> step);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace wayleave::tls
