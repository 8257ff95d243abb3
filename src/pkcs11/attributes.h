#pragma once

// The attributes of one object: matching templates and answering C_GetAttributeValue (PKCS #11 v2.40, 4.4 and 5.7).

#include <map>
#include <set>
#include <span>
#include <string_view>

#include "base/bytes.h"
#include "pkcs11/cryptoki.h"

namespace wayleave::pkcs11 {

class Attributes {
 public:
  void set(CK_ATTRIBUTE_TYPE type, ByteView value) { values_[type] = toBytes(value); }
  void set(CK_ATTRIBUTE_TYPE type, std::string_view value) { values_[type] = toBytes(value); }
  void number(CK_ATTRIBUTE_TYPE type, CK_ULONG value);  // CK_ULONG in the host's byte order
  void numbers(CK_ATTRIBUTE_TYPE type, std::span<const CK_ULONG> values);
  void flag(CK_ATTRIBUTE_TYPE type, bool value);
  // It exists, and nobody gets it: CKR_ATTRIBUTE_SENSITIVE.
  void hide(CK_ATTRIBUTE_TYPE type) { hidden_.insert(type); }

  // Every attribute of the template is there with exactly this value. A hidden one never matches: guessing is not asking.
  bool matches(std::span<const CK_ATTRIBUTE> wanted) const;
  // Fills what it can of `wanted`; ulValueLen becomes CK_UNAVAILABLE_INFORMATION where it cannot, and the code names one such
  // failure: CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID, CKR_BUFFER_TOO_SMALL.
  CK_RV read(std::span<CK_ATTRIBUTE> wanted) const;
  // For C_GetObjectSize.
  CK_ULONG size() const;

 private:
  std::map<CK_ATTRIBUTE_TYPE, Bytes> values_;
  std::set<CK_ATTRIBUTE_TYPE> hidden_;
};

}  // namespace wayleave::pkcs11
