#include "management/profile_report.h"

#include "plist/unicode.h"

namespace wayleave::management {
namespace {

// A hostile file can be wrong in a million places; a person reads the first few.
constexpr size_t kMostFindings = 500;

}  // namespace

std::string shown(std::string_view text) {
  constexpr size_t kLongest = 100;
  std::string out;
  size_t count = 0;
  for (size_t offset = 0; offset < text.size(); ++count) {
    if (count == kLongest) return out + "…";
    const auto c = plist::nextCodePoint(text, offset);
    if (!c) break;
    const bool control = *c < 0x20 || (*c >= 0x7f && *c < 0xa0) || *c == 0x2028 || *c == 0x2029 ||
                         (*c >= 0x202a && *c <= 0x202e) || (*c >= 0x2066 && *c <= 0x2069);  // also: reordering of text
    plist::appendUtf8(out, control ? U'?' : *c);
  }
  return out;
}

void Report::add(Severity severity, std::string keyPath, std::string message, std::string hint, Reason reason) {
  if (full_) return;
  if (findings_.size() >= kMostFindings) {
    // Kept an error, so that dropping the rest can never turn a bad profile into a good one.
    findings_.push_back({Severity::Error, "", "", "too many findings; the rest is left out", "", Reason::BadInput, 0});
    full_ = true;
    return;
  }
  const uint32_t line = lineOf(keyPath);
  findings_.push_back({severity, payload_, std::move(keyPath), std::move(message), std::move(hint), reason, line});
}

// A missing key has no line; the container that lacks it has.
uint32_t Report::lineOf(std::string_view keyPath) const {
  if (lines_.empty()) return 0;
  for (;;) {
    if (const auto found = lines_.find(keyPath); found != lines_.end()) return found->second;
    const size_t cut = keyPath.find_last_of(".[");
    if (cut == std::string_view::npos) break;
    keyPath = keyPath.substr(0, cut);
  }
  const auto root = lines_.find(std::string_view{});
  return root == lines_.end() ? 0 : root->second;
}

}  // namespace wayleave::management
