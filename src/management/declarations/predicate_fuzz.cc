// Any text: parsed or refused, evaluated or refused.

#include "management/declarations/predicate.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace wayleave::management;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto predicate = Predicate::parse(text);
  if (!predicate) return 0;
  const PredicateValues values{.status = [](const std::string& item) -> std::optional<nlohmann::json> {
                                 if (item.size() % 3 == 0) return nlohmann::json{item, 1, nullptr};
                                 if (item.size() % 3 == 1) return item;
                                 return std::nullopt;
                               },
                               .property = [](const std::string& name) -> std::optional<nlohmann::json> { return name.size(); }};
  (void)predicate->evaluate(values);
  return 0;
}
