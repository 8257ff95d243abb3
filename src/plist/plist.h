#pragma once

// Reading and writing property lists: Apple's XML form and the binary form `bplist00`.
//
// The readers take bytes from outside and are strict: what Apple's own writers never produce is refused with a
// position, so that a profile means the same here as on the device it was written for. They do bounded work: a file's
// size, nesting and number of values are limited, and a binary file's shared objects are counted as often as they are
// used. Not read: the old ASCII form, JSON, `bplist15`/`bplist16`.

#include <map>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "plist/value.h"

namespace wayleave::plist {

struct Limits {
  // Of the input, and of all strings and data after shared objects of a binary file are expanded. The largest public
  // profile is below 1 MiB.
  size_t bytes = 32 * 1024 * 1024;
  // Open containers. Apple's reader allows 512; no public profile nests deeper than 12, and 128 keeps the recursion of
  // everything that walks a Value harmless.
  int depth = 128;
  // Values, keys of dictionaries included.
  size_t items = 500'000;
};

struct ReadOptions {
  Limits limits;
  bool recordLines = false;  // fill Document::lines (XML only)
};

enum class Format : uint8_t { Xml, Binary };

// Line of each value, by its key path: "PayloadContent[0].PayloadUUID"; the root is "". Deep paths (over 256
// characters) and, beyond 50,000 values, later ones are left out.
using Lines = std::map<std::string, uint32_t, std::less<>>;

struct Document {
  Value root;
  Format format = Format::Xml;
  std::vector<std::string> warnings;  // what was accepted although it is not quite right, e.g. trailing NUL bytes
  Lines lines;
};

// The path of a member or an element, as Lines and every message spell it.
std::string childPath(std::string_view parent, std::string_view key);
std::string childPath(std::string_view parent, size_t index);

// Tells the form by its first bytes. Errors: BadInput with line and column (XML) or object and offset (binary);
// Unsupported for a binary version other than 00.
Result<Document> parse(ByteView bytes, const ReadOptions& options = {});
Result<Document> parseXml(ByteView bytes, const ReadOptions& options = {});
Result<Document> parseBinary(ByteView bytes, const ReadOptions& options = {});

// As Apple's writer lays it out: UTF-8, DOCTYPE, tabs, keys in the dictionary's order. Errors: BadInput with the key
// path when a string holds what XML cannot carry (control characters, invalid UTF-8) or the nesting exceeds 512.
Result<std::string> toXml(const Value& root);
// Equal strings are written once. Errors: BadInput as above (control characters are fine here).
Result<Bytes> toBinary(const Value& root);

}  // namespace wayleave::plist
