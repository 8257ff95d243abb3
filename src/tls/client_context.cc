#include "tls/client_context.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "keys/openssl.h"
#include "tls/callback_key.h"
#include "tls/tls_error.h"

namespace wayleave::tls {
namespace {

using keys::opensslError;
using keys::SignatureScheme;
using keys::X509Ptr;

thread_local StepPermit permit;

// RFC 8446 section 4.4.3. The context string tells both versions apart: a TLS 1.2 transcript starts with a ClientHello.
constexpr size_t kPadding = 64;
constexpr std::string_view kClientContext{"TLS 1.3, client CertificateVerify\0", 34};
bool isCertificateVerify13(ByteView message) {
  return message.size() > kPadding + kClientContext.size() &&
         std::all_of(message.begin(), message.begin() + kPadding, [](uint8_t byte) { return byte == 0x20; }) &&
         asText(message.subspan(kPadding, kClientContext.size())) == kClientContext;
}

KeyCallback handshakeSigner(SignCallback sign) {
  return [sign = std::move(sign)](const KeyRequest& request) -> Result<Bytes> {
    if (!permit.maySign) return fail(Reason::Internal, "a signature was asked in a step that may not sign");
    const bool tls13 = isCertificateVerify13(request.message);
    return sign({request.scheme, tls13, tls13 ? request.message : request.digest, permit.deadline});
  };
}

// Called when the gateway has asked for a certificate and the handshake is about to answer. Returning -1 suspends the
// handshake: the step ends before the signature, and its repetition on a signing thread goes on from here.
int onCertificateWanted(SSL*, void*) { return permit.maySign ? 1 : -1; }

ContextImpl* implOf(SSL* connection) {
  return static_cast<ContextImpl*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(connection)));
}

int onNewSession(SSL* connection, SSL_SESSION* session) {
  try {
    implOf(connection)->sessions.add(SessionPtr(session));
    return 1;  // it is ours now
  } catch (...) {
    return 0;
  }
}

Result<X509Ptr> decodeCertificate(ByteView der) {
  X509Ptr certificate(X509_new_ex(callbackLibrary(), nullptr));
  X509* raw = certificate.get();
  const uint8_t* cursor = der.data();
  if (raw == nullptr || d2i_X509(&raw, &cursor, static_cast<long>(der.size())) == nullptr) {
    (void)certificate.release();  // d2i freed it
    return propagate(opensslError(Reason::BadInput, "decode a certificate of the identity's chain"));
  }
  return certificate;
}

const char* clientSchemes(keys::KeyType type) {
  switch (type) {  // what keys::schemesFor can serve; TLS 1.3 binds each curve to its own hash anyway
    case keys::KeyType::EcP256: return "ECDSA+SHA256";
    case keys::KeyType::EcP384: return "ECDSA+SHA384:ECDSA+SHA256";
    case keys::KeyType::EcP521: return "ECDSA+SHA512:ECDSA+SHA256";
    case keys::KeyType::Rsa:
      return "RSA-PSS+SHA256:RSA-PSS+SHA384:RSA-PSS+SHA512:RSA+SHA256:RSA+SHA384:RSA+SHA512";
  }
  return "";
}

Status addAnchors(X509_STORE* store, std::string_view pem) {
  const Handle<BIO, BIO_free> bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  size_t count = 0;
  while (bio) {
    X509Ptr certificate(X509_new_ex(callbackLibrary(), nullptr));
    X509* raw = certificate.get();
    if (PEM_read_bio_X509(bio.get(), &raw, nullptr, nullptr) == nullptr) break;
    if (X509_STORE_add_cert(store, raw) != 1) return propagate(opensslError(Reason::BadInput, "use a trust anchor"));
    ++count;
  }
  ERR_clear_error();  // the end of the text stands there as a failure
  if (count == 0) return fail(Reason::BadInput, "a trust anchor is not a PEM certificate");
  return {};
}

Status useTrust(SSL_CTX* context, const std::vector<std::string>& anchorsPem) {
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, rememberRejected);
  if (anchorsPem.empty()) {
    if (SSL_CTX_set_default_verify_paths(context) == 1) return {};
    return propagate(opensslError(Reason::Internal, "open the system's trust store"));
  }
  X509_STORE* store = SSL_CTX_get_cert_store(context);
  for (const std::string& pem : anchorsPem)
    if (auto added = addAnchors(store, pem); !added) return added;
  // An anchor of a profile is one because the profile says so: an intermediate or the gateway's own certificate may be.
  X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context), X509_V_FLAG_PARTIAL_CHAIN);
  return {};
}

Result<Bytes> alpnWire(const std::vector<std::string>& protocols) {
  Bytes wire;
  for (const std::string& protocol : protocols) {
    if (protocol.empty() || protocol.size() > 255) return fail(Reason::BadInput, "an ALPN protocol has 1 to 255 bytes");
    wire.push_back(static_cast<uint8_t>(protocol.size()));
    append(wire, asBytes(protocol));
  }
  return wire;
}

bool isAddress(const std::string& name) {
  std::array<uint8_t, 16> raw{};
  return ::inet_pton(AF_INET, name.c_str(), raw.data()) == 1 || ::inet_pton(AF_INET6, name.c_str(), raw.data()) == 1;
}

// SSL_set_tlsext_host_name as a function: the macro has casts of C's kind.
bool setServerName(SSL* connection, std::string name) {
  return SSL_ctrl(connection, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, name.data()) == 1;
}

}  // namespace

Status useIdentity(SSL_CTX* context, const ClientIdentity& identity) {
  if (identity.chain.empty() || !identity.sign) return fail(Reason::BadInput, "an identity needs a certificate and a signer");
  auto leaf = decodeCertificate(identity.chain.front());
  if (!leaf) return propagate(leaf.error());
  uint8_t* der = nullptr;
  const int length = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(leaf->get()), &der);
  if (length <= 0) return propagate(opensslError(Reason::BadInput, "encode the identity's public key"));
  const Bytes spki(der, der + length);
  OPENSSL_free(der);
  auto publicKey = keys::PublicKey::fromSpki(spki);
  if (!publicKey) return withContext(publicKey.error(), "the identity's certificate");
  auto key = makeCallbackKey(*publicKey, handshakeSigner(identity.sign));
  if (!key) return propagate(key.error());
  if (SSL_CTX_use_certificate(context, leaf->get()) != 1)
    return propagate(opensslError(Reason::BadInput, "use the identity's certificate"));
  if (SSL_CTX_use_PrivateKey(context, key->get()) != 1)
    return propagate(opensslError(Reason::KeyMismatch, "use the identity's key"));
  for (const Bytes& link : std::span(identity.chain).subspan(1)) {
    auto certificate = decodeCertificate(link);
    if (!certificate) return propagate(certificate.error());
    if (SSL_CTX_add1_chain_cert(context, certificate->get()) != 1)
      return propagate(opensslError(Reason::BadInput, "use the identity's chain"));
  }
  if (SSL_CTX_set1_client_sigalgs_list(context, clientSchemes(publicKey->type)) != 1)
    return propagate(opensslError(Reason::Internal, "set signature schemes"));
  SSL_CTX_set_cert_cb(context, onCertificateWanted, nullptr);
  return {};
}

void setPermit(StepPermit given) { permit = given; }
PermitScope::PermitScope(StepPermit given) { setPermit(given); }
PermitScope::~PermitScope() { setPermit({}); }

Result<std::shared_ptr<ClientContext>> ClientContext::make(ClientContextOptions options) {
  OSSL_LIB_CTX* library = callbackLibrary();
  if (library == nullptr) return propagate(opensslError(Reason::Internal, "load the callback key provider"));
  SslCtxPtr context(SSL_CTX_new_ex(library, nullptr, TLS_client_method()));
  if (!context) return propagate(opensslError(Reason::Internal, "make a TLS context"));
  if (options.serverName.empty()) return fail(Reason::BadInput, "a gateway needs a name to verify");

  SSL_CTX* raw = context.get();
  SSL_CTX_set_min_proto_version(raw, options.allowTls12 ? TLS1_2_VERSION : TLS1_3_VERSION);
  SSL_CTX_set_options(raw, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_mode(raw, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  if (auto trust = useTrust(raw, options.trustAnchorsPem); !trust) return propagate(trust.error());
  if (options.identity)
    if (auto used = useIdentity(raw, *options.identity); !used) return propagate(used.error());
  auto alpn = alpnWire(options.alpn);
  if (!alpn) return propagate(alpn.error());
  if (!alpn->empty() && SSL_CTX_set_alpn_protos(raw, alpn->data(), static_cast<unsigned>(alpn->size())) != 0)
    return propagate(opensslError(Reason::Internal, "offer ALPN protocols"));

  const bool resumption = options.resumption;
  auto impl = std::make_shared<ContextImpl>(std::move(options), std::move(context));
  SSL_CTX_set_app_data(raw, impl.get());
  SSL_CTX_set_session_cache_mode(raw, resumption ? SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL : SSL_SESS_CACHE_OFF);
  if (resumption) SSL_CTX_sess_set_new_cb(raw, onNewSession);
  return impl;
}

Result<SslPtr> ContextImpl::newConnection() const {
  SslPtr connection(SSL_new(context.get()));
  if (!connection) return propagate(opensslError(Reason::Internal, "make a TLS connection"));
  SSL_set_connect_state(connection.get());
  const char* name = options.serverName.c_str();
  bool named = false;
  if (isAddress(options.serverName)) {  // no SNI: RFC 6066 section 3 allows names only
    named = X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(connection.get()), name) == 1;
  } else {
    SSL_set_hostflags(connection.get(), X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    named = SSL_set1_host(connection.get(), name) == 1 && setServerName(connection.get(), options.serverName);
  }
  if (!named) return propagate(opensslError(Reason::BadInput, fmt::format("verify the gateway's name {}", name)));
  return connection;
}

}  // namespace wayleave::tls
