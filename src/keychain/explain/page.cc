#include "keychain/explain/page.h"

#include <fmt/format.h>

#include <algorithm>

namespace wayleave::keychain::explain {

size_t displayWidth(std::string_view text) {
  return static_cast<size_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<uint8_t>(c) & 0xc0) != 0x80; }));
}

std::string Page::paint(std::string_view code, std::string_view text) const {
  if (!style_.colour || text.empty()) return std::string(text);
  return fmt::format("\x1b[{}m{}\x1b[0m", code, text);
}

void Page::title(std::string_view text) { line(paint("1", text)); }
void Page::heading(std::string_view text) { line("\n" + paint("1;36", text)); }

void Page::bullet(std::string_view bullet, std::string_view text, size_t indent) {
  const std::string later(indent + displayWidth(bullet), ' ');
  std::string current = std::string(indent, ' ') + std::string(bullet);
  size_t width = later.size();
  bool first = true;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(' ', at), text.size());
    const std::string_view word = text.substr(at, end - at);
    at = end + 1;
    const size_t wide = displayWidth(word);
    if (!first && width + 1 + wide > style_.width) {
      line(current);
      current = later;
      width = later.size();
      first = true;
    }
    if (!first) {
      current += ' ';
      ++width;
    }
    current += word;
    width += wide;
    first = false;
  }
  line(current);
}

void Page::statements(const std::vector<Statement>& statements) {
  for (const Statement& one : statements) {
    bullet("• ", fmt::format("{} [{}]", one.text, dispatch::mark(one.certainty)));
    if (!one.source.empty()) line("    " + paint("2", one.source));
  }
}

void Page::values(const std::vector<std::pair<std::string, std::string>>& values, size_t indent) {
  size_t widest = 0;
  for (const auto& [name, value] : values) widest = std::max(widest, displayWidth(name));
  for (const auto& [name, value] : values)
    line(std::string(indent, ' ') + paint("36", name) + std::string(widest - displayWidth(name) + 2, ' ') + value);
}

void Page::table(const std::vector<std::vector<std::string>>& rows, size_t indent) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], displayWidth(row[i]));
  }
  for (size_t r = 0; r < rows.size(); ++r) {
    std::string text(indent, ' ');
    for (size_t i = 0; i < rows[r].size(); ++i) {
      const std::string& cell = rows[r][i];
      const bool failed = cell.starts_with('-');
      const bool worked = cell.starts_with("0 ") || cell == "0";
      text += paint(r == 0 ? "1" : failed ? "31" : worked ? "32" : "0", cell);
      if (i + 1 < rows[r].size()) text += std::string(widths[i] - displayWidth(cell) + 2, ' ');
    }
    line(text);
  }
}

}  // namespace wayleave::keychain::explain
