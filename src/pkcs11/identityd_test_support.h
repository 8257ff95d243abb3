#pragma once

// An identityd of the tests: the real local API over a real socket, keys in memory, and usages that a test can give and take.

#include <openssl/ec.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <mutex>
#include <set>
#include <stdexcept>

#include "base/osstatus.h"
#include "base/owned.h"
#include "localapi/identity_client.h"
#include "localapi/identity_json.h"
#include "localapi/json_reader.h"
#include "localapi/server.h"

namespace wayleave::pkcs11::test {

using PkeyPtr = Handle<EVP_PKEY, EVP_PKEY_free>;
using PkeyContextPtr = Handle<EVP_PKEY_CTX, EVP_PKEY_CTX_free>;
using X509Ptr = Handle<X509, X509_free>;

inline void must(bool fact, const char* what) {
  if (!fact) throw std::runtime_error(what);
}

inline X509Ptr certify(EVP_PKEY* subject, const char* name, X509* issuer, EVP_PKEY* issuerKey, long serial) {
  X509Ptr made(X509_new());
  X509_set_version(made.get(), X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(made.get()), serial);
  X509_gmtime_adj(X509_getm_notBefore(made.get()), -3600);
  X509_gmtime_adj(X509_getm_notAfter(made.get()), 3600);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(made.get()), "CN", MBSTRING_UTF8, asBytes(name).data(), -1, -1, 0);
  X509_set_issuer_name(made.get(), X509_get_subject_name(issuer != nullptr ? issuer : made.get()));
  X509_set_pubkey(made.get(), subject);
  const Handle<X509_EXTENSION, X509_EXTENSION_free> constraints(
      X509V3_EXT_conf_nid(nullptr, nullptr, NID_basic_constraints, issuer == nullptr ? "critical,CA:TRUE" : "critical,CA:FALSE"));
  must(X509_add_ext(made.get(), constraints.get(), -1) == 1 && X509_sign(made.get(), issuerKey, EVP_sha256()) > 0, "certify");
  return made;
}

inline Bytes der(X509* certificate) {
  Bytes out(static_cast<size_t>(i2d_X509(certificate, nullptr)));
  uint8_t* cursor = out.data();
  i2d_X509(certificate, &cursor);
  return out;
}

struct TestIdentity {
  PkeyPtr key;
  localapi::IdentityInfo info;
};

inline TestIdentity makeIdentity(PkeyPtr key, std::string id, std::string keychain, std::string source, X509* authority, EVP_PKEY* authorityKey) {
  TestIdentity out;
  const X509Ptr leaf = certify(key.get(), ("device " + id).c_str(), authority, authorityKey, 1000 + static_cast<long>(id.size()));
  out.info.id = id;
  out.info.label = "Identity " + id;
  out.info.source = std::move(source);
  out.info.keychain = std::move(keychain);
  out.info.reference = toBytes("reference-" + id);
  out.info.state = "active";
  out.info.chain = {der(leaf.get()), der(authority)};
  out.info.sha256 = toHex(sha256(out.info.chain[0]));
  out.key = std::move(key);
  return out;
}

inline bool isClientVerify(ByteView content) {
  const std::string expected = std::string(64, ' ') + std::string("TLS 1.3, client CertificateVerify\0", 34);
  return asText(content).starts_with(expected) && (content.size() == expected.size() + 32 || content.size() == expected.size() + 48);
}

inline Bytes signWith(EVP_PKEY* key, std::string_view scheme, ByteView content, bool isDigest) {
  const EVP_MD* md = scheme.ends_with("256") ? EVP_sha256() : scheme.ends_with("384") ? EVP_sha384() : EVP_sha512();
  Bytes digest = toBytes(content);
  if (!isDigest) {
    digest.resize(static_cast<size_t>(EVP_MD_get_size(md)));
    must(EVP_Digest(content.data(), content.size(), digest.data(), nullptr, md, nullptr) == 1, "digest");
  }
  const PkeyContextPtr context(EVP_PKEY_CTX_new(key, nullptr));
  must(EVP_PKEY_sign_init(context.get()) == 1 && EVP_PKEY_CTX_set_signature_md(context.get(), md) == 1, "sign init");
  if (scheme.starts_with("rsa_pss")) {
    EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_PSS_PADDING);
    EVP_PKEY_CTX_set_rsa_pss_saltlen(context.get(), RSA_PSS_SALTLEN_DIGEST);
  }
  Bytes signature(1024);
  size_t length = signature.size();
  must(EVP_PKEY_sign(context.get(), signature.data(), &length, digest.data(), digest.size()) == 1, "sign");
  signature.resize(length);
  return signature;
}

class TestIdentityd {
 public:
  TestIdentityd() {
    std::string pattern = (std::filesystem::temp_directory_path() / "wayleave-p11-XXXXXX").string();
    folder = mkdtemp(pattern.data());
    authorityKey_.reset(EVP_EC_gen("P-256"));
    authority_ = certify(authorityKey_.get(), "Test Device CA", nullptr, authorityKey_.get(), 7);
    add(PkeyPtr(EVP_EC_gen("P-256")), "p256", "data-protection", "acme");
    add(PkeyPtr(EVP_EC_gen("P-384")), "p384", "file", "pkcs12");
    add(PkeyPtr(EVP_EC_gen("P-521")), "p521", "file", "scep");
    add(PkeyPtr(EVP_RSA_gen(2048)), "rsa", "file", "pkcs12");
    start();
  }
  ~TestIdentityd() {
    server_.reset();
    std::filesystem::remove_all(folder);
  }

  void start() {
    auto server = localapi::Server::listen(folder + "/identity.sock", 0600, [this](localapi::Request request, std::shared_ptr<localapi::Responder> responder) {
      responder->respond(answer(request));
    });
    must(server.has_value(), "listen");
    server_ = std::move(*server);
    server_->start();
  }
  void stop() { server_.reset(); }

  void add(PkeyPtr key, const std::string& id, const std::string& keychain, const std::string& source) {
    const std::lock_guard lock(mutex);
    identities.push_back(makeIdentity(std::move(key), id, keychain, source, authority_.get(), authorityKey_.get()));
  }
  // The certificate is another, the key the same: what a renewal does.
  void renew(const std::string& id) {
    const std::lock_guard lock(mutex);
    for (TestIdentity& identity : identities)
      if (identity.info.id == id) {
        EVP_PKEY_up_ref(identity.key.get());
        identity = makeIdentity(PkeyPtr(identity.key.get()), id + "+", identity.info.keychain, identity.info.source, authority_.get(), authorityKey_.get());
        identity.info.id = id;
      }
  }
  EVP_PKEY* keyOf(std::string_view id) {
    for (TestIdentity& identity : identities)
      if (identity.info.id == id) return identity.key.get();
    return nullptr;
  }
  std::vector<std::string> asked() {
    const std::lock_guard lock(mutex);
    return log_;
  }

  std::string folder;
  std::mutex mutex;  // of what follows
  std::vector<TestIdentity> identities;
  std::set<std::string> usages{"list", "tls-client", "sign", "digest"};

 private:
  localapi::Response refusal(const std::string& usage) {
    return localapi::errorResponse({Reason::NotEntitled, "no grant gives '" + usage + "'", "add the usage to the grant", errSecMissingEntitlement});
  }
  localapi::Response ok(const nlohmann::json& body) { return {200, "application/json", localapi::dump(body)}; }

  localapi::Response answer(const localapi::Request& request) {
    const std::lock_guard lock(mutex);
    log_.push_back(request.path);
    if (request.path == "/v1/identities") {
      if (!usages.contains("list")) return refusal("list");
      nlohmann::json list = nlohmann::json::array();
      for (const TestIdentity& identity : identities) {
        localapi::IdentityInfo brief = identity.info;
        brief.chain.clear();
        list.push_back(toJson(brief));
      }
      return ok({{"identities", std::move(list)}});
    }
    for (const TestIdentity& identity : identities)
      if (request.path == "/v1/identities/" + identity.info.id) return ok(toJson(identity.info));
    const auto body = localapi::parseJson(request.body);
    if (body && request.path == "/v1/sign/tls") {
      const auto asked = localapi::tlsSignBodyFromJson(*body);
      must(asked.has_value(), "sign/tls body");
      log_.back() += asked->request.tls13 ? " tls1.3" : " digest";
      const std::string usage = asked->request.tls13 ? "tls-client" : "digest";
      if (!usages.contains(usage)) return refusal(usage);
      if (asked->request.tls13 && !isClientVerify(asked->request.content)) return localapi::errorResponse({Reason::BadInput, "not a CertificateVerify", {}, errSecParam});
      return sign(asked->request.reference, asked->request.scheme, asked->request.content, !asked->request.tls13);
    }
    if (body && request.path == "/v1/sign/message") {
      const auto asked = localapi::messageSignBodyFromJson(*body);
      must(asked.has_value(), "sign/message body");
      if (!usages.contains("sign")) return refusal("sign");
      return sign(asked->reference, asked->scheme, asked->message, false);
    }
    return localapi::errorResponse({Reason::NotFound, "no such thing", {}, errSecItemNotFound});
  }
  localapi::Response sign(ByteView reference, std::string_view scheme, ByteView content, bool isDigest) {
    for (const TestIdentity& identity : identities)
      if (std::ranges::equal(identity.info.reference, reference))
        return ok(localapi::bytesJson("signature", signWith(identity.key.get(), scheme, content, isDigest)));
    return localapi::errorResponse({Reason::NotFound, "no such identity", {}, errSecItemNotFound});
  }

  PkeyPtr authorityKey_;
  X509Ptr authority_;
  std::vector<std::string> log_;
  std::unique_ptr<localapi::Server> server_;
};

}  // namespace wayleave::pkcs11::test
