// The vocabulary of references: record types, the attributes of each primary key, GUIDs, names for people.

#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/x509.h>

#include <algorithm>

#include "base/owned.h"
#include "keychain/reference_codec.h"

namespace wayleave::keychain {
namespace {

constexpr std::array kClasses = {ItemClass::GenericPassword,
                                 ItemClass::InternetPassword,
                                 ItemClass::AppleSharePassword,
                                 ItemClass::Certificate,
                                 ItemClass::Key,
                                 ItemClass::Identity};

}  // namespace

std::string_view text(RecordType type) {
  switch (type) {
    case RecordType::PublicKey: return "public key";
    case RecordType::PrivateKey: return "private key";
    case RecordType::SymmetricKey: return "symmetric key";
    case RecordType::GenericPassword: return "generic password";
    case RecordType::InternetPassword: return "internet password";
    case RecordType::AppleSharePassword: return "AppleShare password";
    case RecordType::Certificate: return "certificate";
  }
  return "?";
}

std::optional<RecordType> recordTypeFrom(uint32_t value) {
  for (const RecordType type :
       {RecordType::PublicKey, RecordType::PrivateKey, RecordType::SymmetricKey, RecordType::GenericPassword,
        RecordType::InternetPassword, RecordType::AppleSharePassword, RecordType::Certificate})
    if (std::to_underlying(type) == value) return type;
  return std::nullopt;
}

std::span<const AttributeName> primaryKeyAttributes(RecordType type) {
  using enum AttributeFormat;
  static constexpr std::array kCertificate = {
      AttributeName{"ctyp", "CertType", Uint32},
      AttributeName{"issu", "Issuer", Blob},
      AttributeName{"snbr", "SerialNumber", Blob},
  };
  static constexpr std::array kGeneric = {
      AttributeName{"acct", "Account", String},
      AttributeName{"svce", "Service", String},
  };
  static constexpr std::array kInternet = {
      AttributeName{"acct", "Account", String},
      AttributeName{"sdmn", "SecurityDomain", String},
      AttributeName{"srvr", "Server", String},
      AttributeName{"ptcl", "Protocol", Uint32},
      AttributeName{"atyp", "AuthenticationType", String},
      AttributeName{"port", "Port", Uint32},
      AttributeName{"path", "Path", String},
  };
  static constexpr std::array kAppleShare = {
      AttributeName{"acct", "Account", String},
      AttributeName{"vlme", "Volume", String},
      AttributeName{"addr", "Address", String},
      AttributeName{"ssig", "Signature", Blob},
  };
  static constexpr std::array kKey = {
      AttributeName{"6", "Label", Blob},
      AttributeName{"7", "ApplicationTag", Blob},
      AttributeName{"8", "KeyCreator", String},
      AttributeName{"9", "KeyType", Uint32},
      AttributeName{"10", "KeySizeInBits", Uint32},
      AttributeName{"11", "EffectiveKeySize", Uint32},
      AttributeName{"12", "StartDate", Date},
      AttributeName{"13", "EndDate", Date},
  };
  switch (type) {
    case RecordType::Certificate: return kCertificate;
    case RecordType::GenericPassword: return kGeneric;
    case RecordType::InternetPassword: return kInternet;
    case RecordType::AppleSharePassword: return kAppleShare;
    case RecordType::PublicKey:
    case RecordType::PrivateKey:
    case RecordType::SymmetricKey: return kKey;
  }
  return {};
}

std::string formatGuid(const Guid& g) {
  const std::string hex = toHex(g);
  return fmt::format("{}-{}-{}-{}-{}", hex.substr(0, 8), hex.substr(8, 4), hex.substr(12, 4), hex.substr(16, 4),
                     hex.substr(20));
}

std::string formatUuid(const std::array<uint8_t, 16>& uuid) {
  std::string out = formatGuid(uuid);
  for (char& c : out) c = c >= 'a' && c <= 'f' ? static_cast<char>(c - 'a' + 'A') : c;
  return out;
}

std::string_view guidMeaning(const Guid& guid) {
  if (guid == kAppleFileDlGuid) return "Apple CSP/DL plug-in, the same in every file-keychain reference";
  Guid other = kAppleFileDlGuid;
  other[3] = 0xa2;
  if (guid == other) return "Apple CSP plug-in; never expected in a reference";
  other[3] = 0xa8;
  if (guid == other) return "the old smart-card CSP/DL plug-in; the subservice id is the slot";
  return {};
}

ByteOrder byteOrderOf(const FileReference& reference) {
  if (reference.item.recordType != RecordType::Certificate || reference.item.attributes.empty())
    return ByteOrder::Unknown;
  const Bytes& certType = reference.item.attributes.front();
  if (certType.size() != 4) return ByteOrder::Unknown;
  const uint32_t big = readU32(certType);
  const uint32_t little = __builtin_bswap32(big);
  if (big == little) return ByteOrder::Unknown;
  return little < big ? ByteOrder::Little : ByteOrder::Big;
}

std::optional<uint32_t> uint32Attribute(const FileReference& reference, size_t index) {
  if (index >= reference.item.attributes.size() || reference.item.attributes[index].size() != 4) return std::nullopt;
  const uint32_t big = readU32(reference.item.attributes[index]);
  return byteOrderOf(reference) == ByteOrder::Big ? big : __builtin_bswap32(big);
}

std::optional<ItemClass> itemClassFrom(std::string_view name) {
  for (const ItemClass itemClass : kClasses)
    if (fourcc(itemClass) == name) return itemClass;
  return std::nullopt;
}

std::string describeName(ByteView nameDer) {
  using NamePtr = Handle<X509_NAME, X509_NAME_free>;
  using BioPtr = Handle<BIO, BIO_free_all>;
  const unsigned char* at = nameDer.data();
  const NamePtr name(d2i_X509_NAME(nullptr, &at, static_cast<long>(nameDer.size())));
  const BioPtr out(BIO_new(BIO_s_mem()));
  if (!name || !out || at != nameDer.data() + nameDer.size()) return {};
  // Control characters stay escaped: the name comes from outside and may be printed on a terminal.
  constexpr unsigned long kFlags = (XN_FLAG_ONELINE | ASN1_STRFLGS_ESC_CTRL | ASN1_STRFLGS_ESC_MSB) & ~XN_FLAG_SPC_EQ;
  if (X509_NAME_print_ex(out.get(), name.get(), 0, kFlags) < 0) return {};
  char* data = nullptr;
  const long length = BIO_get_mem_data(out.get(), &data);
  return length > 0 ? std::string(data, static_cast<size_t>(length)) : std::string();
}

}  // namespace wayleave::keychain
