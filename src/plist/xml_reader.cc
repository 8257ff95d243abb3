// The XML form: expat finds the tokens, this file says which of them make a property list.
//
// Strictness, and why. Apple's DTD is never read, so nothing may depend on one: an internal subset or an entity other
// than the five of XML ends the reading, which also leaves nothing to expand (no "billion laughs"). A key without a
// value, text between elements, an unknown element or attribute, and a nested <plist> are refused although lenient
// readers pass some of them: two readers that disagree about a profile are a hole. The text of a value is the XML
// text, character references resolved, white space kept (in strings and keys).
//
// expat is C: no exception may pass through it. Every handler runs inside guard(), which turns one into a stop.

#include <expat.h>
#include <fmt/format.h>

#include <optional>

#include "base/owned.h"
#include "plist/plist.h"
#include "plist/scalars.h"

namespace wayleave::plist {
namespace {

constexpr size_t kLongestRecordedPath = 256;
constexpr size_t kMostRecordedLines = 50'000;

using ParserHandle = Handle<std::remove_pointer_t<XML_Parser>, XML_ParserFree>;

enum class Leaf : uint8_t { None, Key, String, Integer, Real, Date, Data, True, False };

struct ElementName {
  std::string_view name;
  Leaf leaf;
};
constexpr ElementName kLeaves[] = {{"key", Leaf::Key},   {"string", Leaf::String}, {"integer", Leaf::Integer},
                                   {"real", Leaf::Real}, {"date", Leaf::Date},     {"data", Leaf::Data},
                                   {"true", Leaf::True}, {"false", Leaf::False}};

struct Container {
  bool isDictionary = false;
  Array array;
  Dictionary dictionary;
  std::optional<std::string> key;  // read, its value still to come
  size_t pathLength = 0;           // of this container's own path
};

bool isBlank(std::string_view text) { return text.find_first_not_of(" \t\r\n") == std::string_view::npos; }

// A name from the file, fit for a message.
std::string shown(std::string_view name) {
  constexpr size_t kLongest = 80;
  if (name.size() <= kLongest) return std::string(name);
  size_t cut = kLongest;
  while (cut > 0 && (static_cast<uint8_t>(name[cut]) & 0xc0) == 0x80) --cut;  // not inside a UTF-8 sequence
  return std::string(name.substr(0, cut)) + "…";
}

class Reader {
 public:
  Reader(XML_Parser parser, const ReadOptions& options) : parser_(parser), options_(options) {
    XML_SetUserData(parser_, this);
    XML_SetElementHandler(
        parser_,
        [](void* self, const char* name, const char** attributes) {
          of(self).guard([&](Reader& r) { r.start(name, attributes); });
        },
        [](void* self, const char*) { of(self).guard([](Reader& r) { r.end(); }); });
    XML_SetCharacterDataHandler(parser_, [](void* self, const char* text, int length) {
      of(self).guard([&](Reader& r) { r.characters({text, static_cast<size_t>(length)}); });
    });
    XML_SetXmlDeclHandler(parser_, [](void* self, const char* version, const char*, int) {
      of(self).sawDeclaration_ = of(self).sawDeclaration_ || version != nullptr;
    });
    XML_SetStartDoctypeDeclHandler(parser_,
                                   [](void* self, const char* name, const char*, const char*, int hasInternalSubset) {
                                     of(self).guard([&](Reader& r) { r.doctype(name, hasInternalSubset != 0); });
                                   });
    // With an external DTD that is not read, expat does not treat an unknown entity as an error but skips it.
    XML_SetSkippedEntityHandler(parser_, [](void* self, const char* name, int) {
      of(self).guard([&](Reader& r) { r.refuse(fmt::format("entity &{}; is not defined", shown(name))); });
    });
  }

  Result<Document> read(ByteView bytes) {
    std::vector<std::string> warnings;
    const bool wide =
        bytes.size() >= 2 && ((bytes[0] == 0xff && bytes[1] == 0xfe) || (bytes[0] == 0xfe && bytes[1] == 0xff));
    size_t zeros = 0;
    while (!wide && zeros < bytes.size() && bytes[bytes.size() - 1 - zeros] == 0) ++zeros;
    if (zeros > 0 && zeros < bytes.size()) {
      bytes = bytes.first(bytes.size() - zeros);
      warnings.push_back(fmt::format("{} NUL byte{} after the end were ignored", zeros, zeros == 1 ? "" : "s"));
    }
    const auto status = XML_Parse(parser_, asText(bytes).data(), static_cast<int>(bytes.size()), XML_TRUE);
    if (failure_) return propagate(std::move(*failure_));
    if (status != XML_STATUS_OK)
      return fail(Reason::BadInput, at() + ": " + XML_ErrorString(XML_GetErrorCode(parser_)));
    if (!root_) return fail(Reason::BadInput, at() + ": <plist> is empty");
    if (!sawDeclaration_) warnings.emplace_back("the XML declaration is missing");
    if (!usualVersion_) warnings.emplace_back("the version of <plist> is not 1.0");
    return Document{std::move(*root_), Format::Xml, std::move(warnings), std::move(lines_)};
  }

 private:
  static Reader& of(void* self) { return *static_cast<Reader*>(self); }

  // Runs a handler's work; nothing after the first refusal, and no exception past this point.
  template <typename Work>
  void guard(Work work) noexcept {
    if (failure_) return;
    try {
      work(*this);
    } catch (const std::exception&) {  // only memory can run out here
      failure_.emplace(Error{Reason::BadInput, "out of memory", "", 0});
      XML_StopParser(parser_, XML_FALSE);
    }
  }

  std::string at() const {
    return fmt::format("line {}, column {}", XML_GetCurrentLineNumber(parser_),
                       XML_GetCurrentColumnNumber(parser_) + 1);
  }

  void refuse(const std::string& why, std::string hint = {}) {
    failure_ = Error{Reason::BadInput, (leaf_ == Leaf::None ? at() : leafAt_) + ": " + why, std::move(hint), 0};
    XML_StopParser(parser_, XML_FALSE);
  }

  void doctype(const char* name, bool hasInternalSubset) {
    if (std::string_view(name) != "plist") return refuse(fmt::format("DOCTYPE {} instead of plist", shown(name)));
    if (hasInternalSubset) return refuse("the DOCTYPE declares a DTD of its own; property lists may not");
  }

  void start(std::string_view name, const char** attributes) {
    if (leaf_ != Leaf::None) return refuse(fmt::format("<{}> inside a value", shown(name)));
    if (name == "plist") return startPlist(attributes);
    if (!inPlist_) return refuse(fmt::format("the outermost element is <{}>, not <plist>", shown(name)));
    if (attributes[0] != nullptr)
      return refuse(fmt::format("<{}> has the attribute {}", shown(name), shown(attributes[0])));
    if (++items_ > options_.limits.items) return refuse(fmt::format("more than {} values", options_.limits.items));

    Leaf leaf = Leaf::None;
    for (const ElementName& known : kLeaves)
      if (known.name == name) leaf = known.leaf;
    const bool isContainer = name == "dict" || name == "array";
    if (leaf == Leaf::None && !isContainer)
      return refuse(fmt::format("<{}> is not a property-list element", shown(name)));
    if (leaf == Leaf::Key) {
      if (stack_.empty() || !stack_.back().isDictionary) return refuse("<key> outside a dictionary");
      if (stack_.back().key) return refuse(fmt::format("the key {} has no value", shown(*stack_.back().key)));
    } else {
      if (stack_.empty() && root_) return refuse("a second value in <plist>");
      if (!stack_.empty() && stack_.back().isDictionary && !stack_.back().key)
        return refuse(fmt::format("<{}> in a dictionary without a key", shown(name)));
      enterPath();
    }
    if (isContainer) {
      if (static_cast<int>(stack_.size()) >= options_.limits.depth)
        return refuse(fmt::format("more than {} containers inside each other", options_.limits.depth));
      stack_.emplace_back();
      stack_.back().isDictionary = name == "dict";
      stack_.back().pathLength = path_.size();
    } else {
      leafAt_ = at();
      leaf_ = leaf;
      text_.clear();
    }
  }

  void startPlist(const char** attributes) {
    if (inPlist_) return refuse("<plist> inside <plist>");
    inPlist_ = true;
    for (; attributes[0] != nullptr; attributes += 2) {
      if (std::string_view(attributes[0]) != "version")
        return refuse(fmt::format("<plist> has the attribute {}", shown(attributes[0])));
      usualVersion_ = std::string_view(attributes[1]) == "1.0";
    }
  }

  void characters(std::string_view text) {
    if (leaf_ == Leaf::None) {
      if (!isBlank(text)) refuse("text between elements");
      return;
    }
    if ((leaf_ == Leaf::True || leaf_ == Leaf::False) && !isBlank(text)) return refuse("text inside a boolean");
    text_.append(text);
  }

  void end() {
    if (leaf_ != Leaf::None) return endLeaf();
    if (stack_.empty()) return;  // </plist>
    Container done = std::move(stack_.back());
    if (done.key) return refuse(fmt::format("the key {} has no value", shown(*done.key)));
    stack_.pop_back();
    if (!done.isDictionary) return finish(std::move(done.array));
    // The XML spelling of a keyed archive's object number.
    if (done.dictionary.size() == 1 && done.dictionary.contains("CF$UID")) {
      const auto number = done.dictionary.find("CF$UID")->unsignedInteger();
      if (number && *number <= UINT32_MAX) return finish(Uid{static_cast<uint32_t>(*number)});
    }
    finish(std::move(done.dictionary));
  }

  void endLeaf() {
    switch (leaf_) {
      case Leaf::None: return;
      case Leaf::Key:
        if (stack_.back().dictionary.contains(text_))
          return refuse(fmt::format("the key {} occurs twice", shown(text_)));
        stack_.back().key = std::move(text_);
        text_.clear();
        leaf_ = Leaf::None;
        return;
      case Leaf::String: return finishLeaf(Result<std::string>(std::move(text_)));
      case Leaf::Integer: return finishLeaf(parseInteger(text_));
      case Leaf::Real: return finishLeaf(parseReal(text_));
      case Leaf::Date: return finishLeaf(parseDate(text_));
      case Leaf::Data: return finishLeaf(parseData(text_));
      case Leaf::True: return finishLeaf(Result<bool>(true));
      case Leaf::False: return finishLeaf(Result<bool>(false));
    }
  }

  template <typename T>
  void finishLeaf(Result<T> value) {
    if (!value) {
      const std::string where = path_.empty() ? "" : shown(path_) + ": ";
      return refuse(where + value.error().message, value.error().hint);
    }
    leaf_ = Leaf::None;
    text_.clear();
    finish(Value(std::move(*value)));
  }

  void finish(Value value) {
    if (stack_.empty()) {
      root_.emplace(std::move(value));
      path_.clear();
      return;
    }
    Container& parent = stack_.back();
    path_.resize(parent.pathLength);
    if (parent.isDictionary) {
      parent.dictionary.add(std::move(*parent.key), std::move(value));  // known to be new: see Leaf::Key
      parent.key.reset();
    } else {
      parent.array.push_back(std::move(value));
    }
  }

  // path_ becomes that of the value whose start tag is being read; finish() takes it back.
  void enterPath() {
    if (!stack_.empty()) {
      const Container& parent = stack_.back();
      if (parent.isDictionary) {
        if (!path_.empty()) path_.push_back('.');
        path_.append(*parent.key);
      } else {
        fmt::format_to(std::back_inserter(path_), "[{}]", parent.array.size());
      }
    }
    if (options_.recordLines && path_.size() <= kLongestRecordedPath && lines_.size() < kMostRecordedLines)
      lines_.emplace(path_, static_cast<uint32_t>(XML_GetCurrentLineNumber(parser_)));
  }

  XML_Parser parser_;
  const ReadOptions& options_;
  std::optional<Error> failure_;
  bool sawDeclaration_ = false;
  bool inPlist_ = false;
  bool usualVersion_ = true;
  size_t items_ = 0;
  std::vector<Container> stack_;
  std::optional<Value> root_;
  Leaf leaf_ = Leaf::None;
  std::string leafAt_;
  std::string text_;
  std::string path_;
  Lines lines_;
};

}  // namespace

Result<Document> parseXml(ByteView bytes, const ReadOptions& options) {
  if (bytes.empty()) return fail(Reason::BadInput, "the file is empty");
  if (bytes.size() > options.limits.bytes)
    return fail(Reason::BadInput, fmt::format("{} bytes exceed the limit of {}", bytes.size(), options.limits.bytes));
  const size_t start = asText(bytes).find_first_not_of(" \t\r\n");
  const bool mayBeXml = start != std::string_view::npos &&
                        (bytes[start] == '<' || bytes[0] == 0xef || bytes[0] == 0xfe || bytes[0] == 0xff);
  if (!mayBeXml) return fail(Reason::BadInput, "not a property list: neither XML nor binary (bplist00)");
  const ParserHandle parser(XML_ParserCreate(nullptr));
  if (!parser) return fail(Reason::Internal, "no memory for an XML parser");
  return Reader(parser.get(), options).read(bytes);
}

}  // namespace wayleave::plist
