#include "localapi/json_reader.h"

namespace wayleave::localapi {
namespace {

// Counts brackets outside strings: enough to know the depth before anything is built.
bool nestsDeeperThan(std::string_view text, size_t limit) {
  size_t depth = 0;
  bool inString = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (inString) {
      if (c == '\\') ++i;
      else if (c == '"') inString = false;
      continue;
    }
    if (c == '"') inString = true;
    else if (c == '[' || c == '{') {
      if (++depth > limit) return true;
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return false;
}

}  // namespace

Result<nlohmann::json> parseJson(std::string_view text) {
  if (nestsDeeperThan(text, kMostJsonDepth))
    return fail(Reason::BadInput, "JSON is nested more than " + std::to_string(kMostJsonDepth) + " deep");
  nlohmann::json value = nlohmann::json::parse(text, nullptr, false);
  if (value.is_discarded()) return fail(Reason::BadInput, "not a JSON document");
  return value;
}

std::string dump(const nlohmann::json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

ObjectReader::ObjectReader(const nlohmann::json& value, std::string path) : value_(value), path_(std::move(path)) {
  if (!value_.is_object()) status_ = fail(Reason::BadInput, path_ + ": is not an object");
}

void ObjectReader::refuse(const char* name, std::string_view why) {
  if (status_) status_ = fail(Reason::BadInput, path_ + "." + name + ": " + std::string(why));
}

const nlohmann::json* ObjectReader::member(const char* name, Need need) {
  seen_.insert(name);
  if (!status_) return nullptr;
  const auto found = value_.find(name);
  if (found != value_.end()) return &*found;
  if (need == Need::Required) refuse(name, "is missing");
  return nullptr;
}

void ObjectReader::text(const char* name, std::string& out, Need need) {
  const nlohmann::json* value = member(name, need);
  if (value == nullptr) return;
  if (!value->is_string()) return refuse(name, "is not a string");
  out = value->get_ref<const std::string&>();
}

void ObjectReader::boolean(const char* name, bool& out, Need need) {
  const nlohmann::json* value = member(name, need);
  if (value == nullptr) return;
  if (!value->is_boolean()) return refuse(name, "is not true or false");
  out = value->get<bool>();
}

void ObjectReader::bytes(const char* name, Bytes& out, Need need) {
  const nlohmann::json* value = member(name, need);
  if (value == nullptr) return;
  if (!value->is_string()) return refuse(name, "is not a base64 string");
  Result<Bytes> decoded = fromBase64(value->get_ref<const std::string&>());
  if (!decoded) return refuse(name, decoded.error().message);
  out = std::move(*decoded);
}

void ObjectReader::texts(const char* name, std::vector<std::string>& out, Need need) {
  const nlohmann::json* value = member(name, need);
  if (value == nullptr) return;
  if (!value->is_array()) return refuse(name, "is not an array");
  for (const nlohmann::json& entry : *value) {
    if (!entry.is_string()) return refuse(name, "holds something that is not a string");
    out.push_back(entry.get<std::string>());
  }
}

void ObjectReader::bytesList(const char* name, std::vector<Bytes>& out, Need need) {
  std::vector<std::string> encoded;
  texts(name, encoded, need);
  for (const std::string& entry : encoded) {
    Result<Bytes> decoded = fromBase64(entry);
    if (!decoded) return refuse(name, decoded.error().message);
    out.push_back(std::move(*decoded));
  }
}

void ObjectReader::objects(const char* name, const std::function<void(ObjectReader&)>& each, Need need,
                           Unknown unknown) {
  const nlohmann::json* value = member(name, need);
  if (value == nullptr) return;
  if (!value->is_array()) return refuse(name, "is not an array");
  size_t index = 0;
  for (const nlohmann::json& entry : *value) {
    ObjectReader reader(entry, path_ + "." + name + "[" + std::to_string(index++) + "]");
    each(reader);
    if (Status read = reader.finish(unknown); !read) {
      if (status_) status_ = std::move(read);
      return;
    }
  }
}

bool ObjectReader::readInteger(const char* name, int64_t& out, int64_t least, int64_t most, Need need) {
  const nlohmann::json* value = member(name, need);
  if (value == nullptr) return false;
  const bool tooLarge = value->is_number_unsigned() &&
                        value->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if (!value->is_number_integer()) {
    refuse(name, "is not a whole number");
    return false;
  }
  if (tooLarge || value->get<int64_t>() < least || value->get<int64_t>() > most) {
    refuse(name, "is outside " + std::to_string(least) + " to " + std::to_string(most));
    return false;
  }
  out = value->get<int64_t>();
  return true;
}

Status ObjectReader::finish(Unknown unknown) {
  if (status_ && unknown == Unknown::Refuse)
    for (const auto& [name, ignored] : value_.items())
      if (!seen_.contains(name)) {
        refuse(name.c_str(), "is not a member known here");
        break;
      }
  return status_;
}

}  // namespace wayleave::localapi
