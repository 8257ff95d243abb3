#pragma once

// Aligned columns for people. Widths count code points, which fits all that these tables show.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace wayleave::cli {

class Table {
 public:
  explicit Table(std::vector<std::string> header) : header_(std::move(header)) {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  bool empty() const { return rows_.empty(); }
  void print() const;

 private:
  std::vector<std::string> header_;
  std::vector<std::vector<std::string>> rows_;
};

// "label   value" lines; lines without a value are left out.
void printFields(const std::vector<std::pair<std::string, std::string>>& fields, size_t indent = 0);

// Columns that a text takes on the screen, by code points.
size_t textWidth(std::string_view text);

// "1.2 MiB".
std::string bytesText(uint64_t bytes);

}  // namespace wayleave::cli
