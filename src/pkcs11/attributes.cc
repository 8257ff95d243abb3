#include "pkcs11/attributes.h"

#include <algorithm>
#include <cstring>

namespace wayleave::pkcs11 {

void Attributes::numbers(CK_ATTRIBUTE_TYPE type, std::span<const CK_ULONG> values) {
  Bytes bytes(values.size_bytes());
  if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  values_[type] = std::move(bytes);
}

void Attributes::number(CK_ATTRIBUTE_TYPE type, CK_ULONG value) { numbers(type, {&value, 1}); }

void Attributes::flag(CK_ATTRIBUTE_TYPE type, bool value) {
  values_[type] = Bytes{static_cast<uint8_t>(value ? CK_TRUE : CK_FALSE)};
}

bool Attributes::matches(std::span<const CK_ATTRIBUTE> wanted) const {
  return std::ranges::all_of(wanted, [this](const CK_ATTRIBUTE& attribute) {
    const auto found = values_.find(attribute.type);
    if (found == values_.end() || found->second.size() != attribute.ulValueLen) return false;
    if (attribute.ulValueLen == 0) return true;
    return attribute.pValue != nullptr && std::memcmp(found->second.data(), attribute.pValue, attribute.ulValueLen) == 0;
  });
}

CK_RV Attributes::read(std::span<CK_ATTRIBUTE> wanted) const {
  CK_RV code = CKR_OK;
  for (CK_ATTRIBUTE& attribute : wanted) {
    const auto found = values_.find(attribute.type);
    if (found == values_.end()) {
      code = hidden_.contains(attribute.type) ? CKR_ATTRIBUTE_SENSITIVE : CKR_ATTRIBUTE_TYPE_INVALID;
      attribute.ulValueLen = CK_UNAVAILABLE_INFORMATION;
      continue;
    }
    const Bytes& value = found->second;
    if (attribute.pValue != nullptr && attribute.ulValueLen < value.size()) {
      code = CKR_BUFFER_TOO_SMALL;
      attribute.ulValueLen = CK_UNAVAILABLE_INFORMATION;
      continue;
    }
    if (attribute.pValue != nullptr && !value.empty()) std::memcpy(attribute.pValue, value.data(), value.size());
    attribute.ulValueLen = value.size();
  }
  return code;
}

CK_ULONG Attributes::size() const {
  CK_ULONG sum = 0;
  for (const auto& [type, value] : values_) sum += sizeof(type) + value.size();
  return sum;
}

}  // namespace wayleave::pkcs11
