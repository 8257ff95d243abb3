#pragma once

// The two vectors by which both family members were checked, and small makers of DER names.

#include "base/bytes.h"
#include "keychain/der.h"

namespace wayleave::keychain::vectors {

// Vector A, 196 bytes, made by hand: issuer CN=Delegate Test CA, OU=ABCDE12345, O=Acme (all UTF8String), 20-byte
// serial, /Library/Keychains/System.keychain, no identity marker. Same shape and size as the reference published in
// https://developer.apple.com/forums/thread/836496.
inline constexpr std::string_view kVectorA =
    "737375690000002087191ca30fc911d4849a000502b521220000000000000000"
    "000000000000000664626e6d000000232f4c6962726172792f4b657963686169"
    "6e732f53797374656d2e6b6579636861696e006974656d000000698000100000"
    "0000040100000000000041303f3119301706035504030c1044656c6567617465"
    "205465737420434131133011060355040b0c0a41424344453132333435310d30"
    "0b060355040a0c0441636d650000001448b494ae47d1b7b07ed8c77a681337a3"
    "af8e92a8";
inline constexpr std::string_view kIdentityMarker = "69646e7400000004ffffffff";
// Vector B, 164 bytes: computed from the certificate in keychainbreaker's public test keychain (issuer 33 bytes).
inline constexpr std::string_view kVectorB =
    "737375690000002087191ca30fc911d4849a000502b521220000000000000000"
    "000000000000000664626e6d000000232f4c6962726172792f4b657963686169"
    "6e732f53797374656d2e6b6579636861696e006974656d000000498000100000"
    "0000040100000000000021301f311d301b06035504030c146b6579636861696e"
    "627265616b65722d746573740000001451946dcaf71850553106e16dc012ee95"
    "8b2c3d6e";
inline constexpr std::string_view kSystemKeychain = "/Library/Keychains/System.keychain";

inline Bytes hex(std::string_view text) { return fromHex(text).value(); }

// One RDN with one attribute; `type` is the last arc of 2.5.4.
inline Bytes rdn(uint8_t type, uint8_t stringTag, std::string_view value) {
  Bytes pair;
  appendDer(pair, der::kObjectIdentifier, Bytes{0x55, 0x04, type});
  appendDer(pair, stringTag, asBytes(value));
  Bytes attribute, set;
  appendDer(attribute, der::kSequence, pair);
  appendDer(set, der::kSet, attribute);
  return set;
}
inline constexpr uint8_t kCn = 3, kO = 10, kOu = 11;

inline Bytes name(std::initializer_list<Bytes> rdns) {
  Bytes all, out;
  for (const Bytes& one : rdns) append(all, one);
  appendDer(out, der::kSequence, all);
  return out;
}

}  // namespace wayleave::keychain::vectors
