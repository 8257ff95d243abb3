#include "table.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include <fmt/format.h>

#include "context.h"

namespace wayleave::cli {

size_t textWidth(std::string_view text) {
  return static_cast<size_t>(std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

namespace {

std::string padded(std::string_view text, size_t to) {
  return std::string(text) + std::string(to - std::min(to, textWidth(text)), ' ');
}

}  // namespace

void Table::print() const {
  std::vector<size_t> widths(header_.size());
  for (size_t column = 0; column < header_.size(); ++column) {
    widths[column] = textWidth(header_[column]);
    for (const auto& row : rows_)
      if (column < row.size()) widths[column] = std::max(widths[column], textWidth(row[column]));
  }
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string out;
    for (size_t column = 0; column < header_.size(); ++column) {
      const std::string_view cell = column < cells.size() ? std::string_view(cells[column]) : "";
      out += column + 1 == header_.size() ? std::string(cell) : padded(cell, widths[column]) + "  ";
    }
    while (out.ends_with(' ')) out.pop_back();
    return out;
  };
  fmt::print("{}\n", styled(STDOUT_FILENO, "1", line(header_)));
  for (const auto& row : rows_) fmt::print("{}\n", line(row));
}

void printFields(const std::vector<std::pair<std::string, std::string>>& fields, size_t indent) {
  size_t widest = 0;
  for (const auto& [label, value] : fields)
    if (!value.empty()) widest = std::max(widest, textWidth(label));
  for (const auto& [label, value] : fields)
    if (!value.empty())
      fmt::print("{}{}  {}\n", std::string(indent, ' '), styled(STDOUT_FILENO, "36", padded(label, widest)), value);
}

std::string bytesText(uint64_t bytes) {
  constexpr std::array kUnits{"B", "KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

}  // namespace wayleave::cli
