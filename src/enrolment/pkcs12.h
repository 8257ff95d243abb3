#pragma once

// PKCS#12 files (RFC 7292): the payload com.apple.security.pkcs12 carries one, and its password arrives beside it.
//
// Read: password integrity (MAC) and password privacy with PBES2/PBKDF2, PKCS#12's own 3DES, RC2 and RC4 schemes, keys
// and certificates in the clear, nested safe contents, BER. Old MDM servers still emit RC2-40, which OpenSSL 3 keeps in
// its `legacy` provider: that provider is loaded into a library context of its own, for the life of one call, so that
// nothing else in the process can ever negotiate such a cipher. Not read: public-key modes, PBMAC1, scrypt, other bags
// (CRLs and secrets are skipped with a warning).
//
// Hostile input: size, number of bags, depth and the sum of all key-derivation iterations are bounded before any work
// is done; nothing here recurses further than kMaxNesting.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace wayleave::enrolment {

struct Pkcs12Limits {
  size_t bytes = 1024 * 1024;  // real files: 2 to 20 kB
  // Sum over the MAC and every encrypted part. Writers use 1 to 2,048 (Apple, Java, OpenSSL), 600,000 per part at most
  // (NSS); 5 million take two seconds of one thread (measured), and beyond that a file only means to keep us busy.
  uint64_t iterations = 5'000'000;
};

struct Pkcs12Contents {
  Secret pkcs8;              // PrivateKeyInfo, unencrypted
  std::vector<Bytes> chain;  // DER: the key's certificate, its issuer, that one's issuer, …
  std::string friendlyName;  // UTF-8 without control characters, at most 256 bytes; often empty
  // What is weak or was left out, one sentence each: RC2-40, a MAC of one iteration, unrelated certificates, …
  std::vector<std::string> warnings;
};

// `password`: UTF-8; nullopt and "" are tried both as no password and as the empty one, because writers differ in which
// of the two they mean. Takes as long as the file's iterations say: never on an event loop.
// Errors, each with a hint: WrongPassword; KeyMismatch (no certificate belongs to a key); BadInput (not PKCS#12,
// damaged, no key, no certificate, over a limit of size); Unsupported (algorithms, key types, over the iteration
// limit).
Result<Pkcs12Contents> parsePkcs12(ByteView file, std::optional<std::string_view> password,
                                   const Pkcs12Limits& limits = {});

}  // namespace wayleave::enrolment
