#pragma once

// Internal to the renderer: lays out headings, tables and wrapped sentences.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "keychain/explain/render.h"

namespace wayleave::keychain::explain {

class Page {
 public:
  explicit Page(const Style& style) : style_(style) {}

  void title(std::string_view text);
  void heading(std::string_view text);
  void line(std::string_view text) { out_ += std::string(text) + "\n"; }
  void raw(std::string_view text) { out_ += text; }
  // Wrapped; later lines start at `indent` + the bullet's width.
  void bullet(std::string_view bullet, std::string_view text, size_t indent = 2);
  void statements(const std::vector<Statement>& statements);
  void values(const std::vector<std::pair<std::string, std::string>>& values, size_t indent = 2);
  void table(const std::vector<std::vector<std::string>>& rows, size_t indent = 2);  // first row is the header
  std::string paint(std::string_view code, std::string_view text) const;
  std::string take() { return std::move(out_); }

 private:
  Style style_;
  std::string out_;
};

size_t displayWidth(std::string_view text);  // code points

}  // namespace wayleave::keychain::explain
