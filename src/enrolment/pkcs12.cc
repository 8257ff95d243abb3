#include "enrolment/pkcs12.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/pkcs12.h>

#include <array>

#include "base/osstatus.h"
#include "enrolment/pkcs12_chain.h"
#include "enrolment/pkcs12_protection.h"
#include "keys/openssl.h"

namespace wayleave::enrolment {
namespace {

// Real files have one key, up to about ten certificates and two levels.
constexpr size_t kMaxKeys = 16;
constexpr size_t kMaxCertificates = 64;
constexpr int kMaxBags = 256;
constexpr int kMaxNesting = 4;
constexpr size_t kMaxPasswordBytes = 1024;
constexpr size_t kMaxNameBytes = 256;

void freeParts(STACK_OF(PKCS7) * parts) { sk_PKCS7_pop_free(parts, PKCS7_free); }
void freeBags(STACK_OF(PKCS12_SAFEBAG) * bags) { sk_PKCS12_SAFEBAG_pop_free(bags, PKCS12_SAFEBAG_free); }
using Pkcs12Ptr = Handle<PKCS12, PKCS12_free>;
using PartsPtr = Handle<STACK_OF(PKCS7), freeParts>;
using BagsPtr = Handle<STACK_OF(PKCS12_SAFEBAG), freeBags>;

constexpr std::string_view kDamaged = "the file is damaged or is not PKCS#12: fetch or export it again";

std::unexpected<Error> damaged(std::string_view what) {
  Error error = keys::opensslError(Reason::BadInput, what);
  error.hint = kDamaged;
  error.osStatus = errSecDecode;
  return std::unexpected(std::move(error));
}

std::unexpected<Error> wrongPassword(std::string message) {
  ERR_clear_error();
  return fail(Reason::WrongPassword, std::move(message),
              "check the Password key of the profile's payload; without one, the empty password was tried",
              errSecAuthFailed);
}

// OpenSSL's pair (pointer, length). A null pointer is "no password": PKCS#12's own derivation then hashes nothing,
// while the empty password is hashed as its terminating zero.
struct Password {
  const char* data = nullptr;
  int length = 0;
};

// Everything found so far, and what may still be spent. One per attempt with one password.
struct Reader {
  const LegacyLibrary& library;
  Protection protection;
  Password password;
  std::vector<BagKey> keys;
  std::vector<BagCertificate> certificates;
  int bags = 0;

  Status readPart(PKCS7* part);
  Status readBags(const STACK_OF(PKCS12_SAFEBAG) * bags, int depth);
  Status readBag(PKCS12_SAFEBAG* bag, int depth);
  Status readKey(const PKCS8_PRIV_KEY_INFO* key, PKCS12_SAFEBAG* bag);
  Status readShroudedKey(PKCS12_SAFEBAG* bag);
  Status readCertificate(PKCS12_SAFEBAG* bag);
};

// Goes into labels, JSON and terminals: no control characters, valid UTF-8, bounded. `text` is what OpenSSL made of a
// BMPString; a lone surrogate makes it fall back to Latin-1, hence the check.
std::string cleanName(std::string_view text) {
  std::string out;
  size_t at = 0;
  while (at < text.size()) {
    const auto lead = static_cast<uint8_t>(text[at]);
    const size_t length = lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc2 ? 2 : 0;
    bool good = length != 0 && lead < 0xf5 && at + length <= text.size() && lead >= 0x20 && lead != 0x7f;
    for (size_t i = 1; good && i < length; ++i) good = (static_cast<uint8_t>(text[at + i]) & 0xc0) == 0x80;
    if (out.size() + (good ? length : 1) > kMaxNameBytes) break;
    if (good)
      out.append(text.substr(at, length));
    else
      out.push_back('?');
    at += good ? length : 1;
  }
  return out;
}

std::string friendlyNameOf(PKCS12_SAFEBAG* bag) {
  char* const raw = PKCS12_get_friendlyname(bag);
  if (raw == nullptr) return {};
  std::string name = cleanName(raw);
  OPENSSL_free(raw);
  return name;
}

Bytes localKeyIdOf(const PKCS12_SAFEBAG* bag) {
  const ASN1_TYPE* value = PKCS12_SAFEBAG_get0_attr(bag, NID_localKeyID);
  if (value == nullptr || value->type != V_ASN1_OCTET_STRING) return {};
  const uint8_t* data = ASN1_STRING_get0_data(value->value.octet_string);
  return Bytes(data, data + ASN1_STRING_length(value->value.octet_string));
}

Status Reader::readKey(const PKCS8_PRIV_KEY_INFO* key, PKCS12_SAFEBAG* bag) {
  if (keys.size() == kMaxKeys)
    return fail(Reason::BadInput, fmt::format("more than {} private keys", kMaxKeys), std::string(kDamaged));
  const int length = i2d_PKCS8_PRIV_KEY_INFO(key, nullptr);
  if (length <= 0) return damaged("a private key in the file");
  Secret pkcs8{Bytes(static_cast<size_t>(length))};
  uint8_t* at = pkcs8.mutableBytes().data();
  i2d_PKCS8_PRIV_KEY_INFO(key, &at);
  keys.push_back({std::move(pkcs8), localKeyIdOf(bag), friendlyNameOf(bag)});
  return {};
}

Status Reader::readShroudedKey(PKCS12_SAFEBAG* bag) {
  const X509_ALGOR* algorithm = nullptr;
  X509_SIG_get0(PKCS12_SAFEBAG_get0_pkcs8(bag), &algorithm, nullptr);
  if (const Status fits = protection.examine(algorithm, "the private key"); !fits) return fits;
  const keys::Pkcs8Ptr key(PKCS12_decrypt_skey_ex(bag, password.data, password.length, library.context(), nullptr));
  if (!key) return wrongPassword("the private key in the PKCS#12 file does not open with this password");
  return readKey(key.get(), bag);
}

Status Reader::readCertificate(PKCS12_SAFEBAG* bag) {
  if (PKCS12_SAFEBAG_get_bag_nid(bag) != NID_x509Certificate) {
    protection.warn("a certificate that is not X.509 was left out");
    return {};
  }
  if (certificates.size() == kMaxCertificates)
    return fail(Reason::BadInput, fmt::format("more than {} certificates", kMaxCertificates), std::string(kDamaged));
  const keys::X509Ptr certificate(PKCS12_SAFEBAG_get1_cert(bag));
  const int length = certificate ? i2d_X509(certificate.get(), nullptr) : 0;
  if (length <= 0) return damaged("a certificate in the file cannot be decoded");
  Bytes der(static_cast<size_t>(length));
  uint8_t* at = der.data();
  i2d_X509(certificate.get(), &at);
  // The same certificate twice says nothing new.
  for (const BagCertificate& known : certificates)
    if (known.der == der) return {};
  certificates.push_back({std::move(der), localKeyIdOf(bag), friendlyNameOf(bag)});
  return {};
}

Status Reader::readBag(PKCS12_SAFEBAG* bag, int depth) {
  if (++bags > kMaxBags)
    return fail(Reason::BadInput, fmt::format("more than {} bags", kMaxBags), std::string(kDamaged));
  const int kind = PKCS12_SAFEBAG_get_nid(bag);
  if (kind == NID_certBag) return readCertificate(bag);
  if (kind == NID_pkcs8ShroudedKeyBag) return readShroudedKey(bag);
  if (kind == NID_keyBag) {
    protection.warn("the private key is not encrypted");
    return readKey(PKCS12_SAFEBAG_get0_p8inf(bag), bag);
  }
  if (kind == NID_safeContentsBag) return readBags(PKCS12_SAFEBAG_get0_safes(bag), depth + 1);
  protection.warn("an item that is neither a key nor a certificate was left out");
  return {};
}

Status Reader::readBags(const STACK_OF(PKCS12_SAFEBAG) * list, int depth) {
  if (depth > kMaxNesting)
    return fail(Reason::BadInput, fmt::format("contents nested deeper than {}", kMaxNesting), std::string(kDamaged));
  for (int i = 0; i < sk_PKCS12_SAFEBAG_num(list); ++i)
    if (const Status read = readBag(sk_PKCS12_SAFEBAG_value(list, i), depth); !read) return read;
  return {};
}

Status Reader::readPart(PKCS7* part) {
  if (PKCS7_type_is_data(part)) {
    const BagsPtr list(PKCS12_unpack_p7data(part));
    if (!list) return damaged("a part of the PKCS#12 file cannot be decoded");
    return readBags(list.get(), 0);
  }
  if (!PKCS7_type_is_encrypted(part)) {
    return fail(Reason::Unsupported, "a part of the PKCS#12 file is protected by a public key instead of a password",
                "export the identity again, protected by a password");
  }
  const PKCS7_ENC_CONTENT* content = part->d.encrypted != nullptr ? part->d.encrypted->enc_data : nullptr;
  if (content == nullptr || content->algorithm == nullptr || content->enc_data == nullptr)
    return damaged("an encrypted part of the PKCS#12 file is empty");
  if (const Status fits = protection.examine(content->algorithm, "a part of the file"); !fits) return fits;
  // The last argument but two: zero the clear text after decoding, keys may be in it.
  const BagsPtr list(static_cast<STACK_OF(PKCS12_SAFEBAG)*>(
      PKCS12_item_decrypt_d2i_ex(content->algorithm, ASN1_ITEM_rptr(PKCS12_SAFEBAGS), password.data, password.length,
                                 content->enc_data, 1, library.context(), nullptr)));
  if (!list) return wrongPassword("an encrypted part of the PKCS#12 file does not open with this password");
  return readBags(list.get(), 0);
}

// The passwords to try, in order; see the header.
std::vector<Password> candidates(std::optional<std::string_view> password) {
  if (password && !password->empty()) return {{password->data(), static_cast<int>(password->size())}};
  return {{nullptr, 0}, {"", 0}};
}

// The first candidate under which the MAC verifies. Errors: WrongPassword, Unsupported, BadInput.
Result<Password> passwordOfMac(PKCS12* file, const std::vector<Password>& tries, Protection& protection) {
  const X509_ALGOR* digest = nullptr;
  const ASN1_INTEGER* iterations = nullptr;
  const ASN1_OCTET_STRING* mac = nullptr;
  const ASN1_OCTET_STRING* salt = nullptr;
  PKCS12_get0_mac(&mac, &digest, &salt, &iterations, file);
  if (digest == nullptr || mac == nullptr || salt == nullptr) return damaged("the PKCS#12 file's MAC");
  if (const Status fits = protection.examineMac(digest, iterations); !fits) return std::unexpected(fits.error());
  for (const Password& candidate : tries)
    if (PKCS12_verify_mac(file, candidate.data, candidate.length) == 1) return candidate;
  return wrongPassword("the PKCS#12 file does not open with this password");
}

Result<PartsPtr> partsOf(const PKCS12* file) {
  PartsPtr parts(PKCS12_unpack_authsafes(file));
  if (parts) return parts;
  if (ERR_GET_REASON(ERR_peek_last_error()) == PKCS12_R_CONTENT_TYPE_NOT_DATA) {
    ERR_clear_error();
    return fail(Reason::Unsupported, "the PKCS#12 file is signed instead of protected by a password",
                "export the identity again, protected by a password");
  }
  return damaged("the PKCS#12 file's contents cannot be decoded");
}

Status readAllParts(const STACK_OF(PKCS7) * parts, Reader& reader) {
  for (int i = 0; i < sk_PKCS7_num(parts); ++i)
    if (const Status read = reader.readPart(sk_PKCS7_value(parts, i)); !read) return read;
  return {};
}

// Without a MAC only decryption can tell the passwords apart.
Result<Reader> readWithAny(const STACK_OF(PKCS7) * parts, const LegacyLibrary& library, const Protection& protection,
                           const std::vector<Password>& tries) {
  Status last;
  for (const Password& candidate : tries) {
    Reader reader{library, protection, candidate, {}, {}, 0};
    last = readAllParts(parts, reader);
    if (last) return reader;
    if (last.error().reason != Reason::WrongPassword) break;
  }
  return std::unexpected(last.error());
}

Result<Pkcs12Contents> assemble(Reader reader) {
  Result<ChosenIdentity> chosen = chooseIdentity(reader.keys, reader.certificates);
  if (!chosen) return std::unexpected(std::move(chosen.error()));
  Pkcs12Contents out;
  const std::string& keyName = reader.keys[chosen->key].friendlyName;
  out.friendlyName = keyName.empty() ? reader.certificates[chosen->certificate].friendlyName : keyName;
  out.pkcs8 = std::move(reader.keys[chosen->key].pkcs8);
  out.chain = std::move(chosen->chain);
  out.warnings = reader.protection.takeWarnings();
  for (std::string& warning : chosen->warnings) out.warnings.push_back(std::move(warning));
  return out;
}

}  // namespace

Result<Pkcs12Contents> parsePkcs12(ByteView file, std::optional<std::string_view> password,
                                   const Pkcs12Limits& limits) {
  if (file.size() > limits.bytes) {
    return fail(Reason::BadInput, fmt::format("a PKCS#12 file of {} bytes; the limit is {}", file.size(), limits.bytes),
                std::string(kDamaged));
  }
  if (password && password->size() > kMaxPasswordBytes)
    return fail(Reason::BadInput, fmt::format("a password of {} bytes", password->size()), "use a shorter one");
  Result<LegacyLibrary> library = LegacyLibrary::load();
  if (!library) return std::unexpected(library.error());

  ERR_clear_error();
  const uint8_t* at = file.data();
  const Pkcs12Ptr decoded(d2i_PKCS12(nullptr, &at, static_cast<long>(file.size())));
  if (!decoded) return damaged("not a PKCS#12 file");
  Protection protection(*library, limits.iterations);
  if (const auto used = static_cast<size_t>(at - file.data()); used != file.size())
    protection.warn(fmt::format("{} bytes after the PKCS#12 structure were ignored", file.size() - used));
  const Result<PartsPtr> parts = partsOf(decoded.get());
  if (!parts) return std::unexpected(parts.error());

  std::vector<Password> tries = candidates(password);
  if (PKCS12_mac_present(decoded.get()) == 1) {
    const Result<Password> right = passwordOfMac(decoded.get(), tries, protection);
    if (!right) return std::unexpected(right.error());
    tries = {*right};
  } else {
    protection.warn("the file has no MAC: nobody would notice a change to it");
  }
  Result<Reader> reader = readWithAny(parts->get(), *library, protection, tries);
  if (!reader) return std::unexpected(std::move(reader.error()));
  return assemble(*std::move(reader));
}

}  // namespace wayleave::enrolment
