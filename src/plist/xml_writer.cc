// The XML form, laid out as Apple's writer does it, so that a diff against a file from a Mac shows only what differs.

#include <fmt/format.h>

#include "plist/plist.h"
#include "plist/scalars.h"
#include "plist/unicode.h"

namespace wayleave::plist {
namespace {

constexpr int kDeepest = 512;  // as deep as Apple's reader goes
// Base64 characters per line: Apple's writer leaves 76 columns, a tab counted as eight.
constexpr size_t kLineColumns = 76;

class Writer {
 public:
  Status value(const Value& value, int depth, const std::string& path) {
    if (depth > kDeepest) return fail(Reason::BadInput, "property list nested too deeply to write");
    const std::string tabs(static_cast<size_t>(depth), '\t');
    switch (value.type()) {
      case Type::Boolean: line(tabs, *value.boolean() ? "<true/>" : "<false/>"); return {};
      case Type::Integer: line(tabs, fmt::format("<integer>{}</integer>", *value.integer())); return {};
      case Type::Unsigned: line(tabs, fmt::format("<integer>{}</integer>", *value.unsignedInteger())); return {};
      case Type::Real: line(tabs, fmt::format("<real>{}</real>", formatReal(*value.real()))); return {};
      case Type::String: return text(tabs, "string", *value.string(), path);
      case Type::Data: data(tabs, depth, *value.data()); return {};
      case Type::Date: {
        const auto date = formatDate(*value.date());
        if (!date) return fail(Reason::BadInput, path + ": date outside the years 1 to 9999");
        line(tabs, fmt::format("<date>{}</date>", *date));
        return {};
      }
      case Type::Uid:
        line(tabs, "<dict>");
        line(tabs, "\t<key>CF$UID</key>");
        line(tabs, fmt::format("\t<integer>{}</integer>", value.uid()->value));
        line(tabs, "</dict>");
        return {};
      case Type::Array: {
        const Array& items = *value.array();
        if (items.empty()) return line(tabs, "<array/>"), Status{};
        line(tabs, "<array>");
        for (size_t i = 0; i < items.size(); ++i)
          if (Status ok = this->value(items[i], depth + 1, childPath(path, i)); !ok) return ok;
        line(tabs, "</array>");
        return {};
      }
      case Type::Dictionary: {
        const Dictionary& members = *value.dictionary();
        if (members.empty()) return line(tabs, "<dict/>"), Status{};
        line(tabs, "<dict>");
        for (const Entry& entry : members.entries()) {
          const std::string member = childPath(path, entry.key);
          if (Status ok = text(tabs + "\t", "key", entry.key, member); !ok) return ok;
          if (Status ok = this->value(entry.value, depth + 1, member); !ok) return ok;
        }
        line(tabs, "</dict>");
        return {};
      }
    }
    return fail(Reason::Internal, "value of no known kind");
  }

  std::string out =
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
      "<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n"
      "<plist version=\"1.0\">\n";

 private:
  void line(std::string_view tabs, std::string_view content) { out.append(tabs).append(content).push_back('\n'); }

  Status text(std::string_view tabs, std::string_view element, std::string_view content, const std::string& path) {
    std::string escaped;
    escaped.reserve(content.size());
    for (size_t offset = 0; offset < content.size();) {
      const auto c = nextCodePoint(content, offset);
      if (!c || !isXmlCharacter(*c))
        return fail(Reason::BadInput, path + ": holds a character that XML cannot carry",
                    "write it in the binary form");
      switch (*c) {
        case '&': escaped += "&amp;"; break;
        case '<': escaped += "&lt;"; break;
        case '>': escaped += "&gt;"; break;
        case '\r': escaped += "&#13;"; break;  // a bare one would come back as a line feed
        default: appendUtf8(escaped, *c);
      }
    }
    line(tabs, fmt::format("<{0}>{1}</{0}>", element, escaped));
    return {};
  }

  void data(std::string_view tabs, int depth, const Bytes& bytes) {
    line(tabs, "<data>");
    const std::string base64 = toBase64(bytes);
    const size_t used = static_cast<size_t>(depth) * 8;
    const size_t width = used + 16 < kLineColumns ? kLineColumns - used : 16;
    for (size_t i = 0; i < base64.size(); i += width) line(tabs, std::string_view(base64).substr(i, width));
    line(tabs, "</data>");
  }
};

}  // namespace

Result<std::string> toXml(const Value& root) {
  Writer writer;
  if (Status ok = writer.value(root, 0, ""); !ok) return propagate(ok.error());
  writer.out += "</plist>\n";
  return std::move(writer.out);
}

}  // namespace wayleave::plist
