// Is the audit log whole? Walks the chain from the oldest file to the newest.

#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>

#include "base/file.h"
#include "broker/audit.h"
#include "broker/audit_line.h"

namespace wayleave::broker {
namespace {

constexpr size_t kMostFindings = 100;
constexpr int kMostFiles = 1000;
constexpr size_t kMostFileBytes = 256 * 1024 * 1024;

class Walk {
 public:
  explicit Walk(const AuditHead* head) : head_(head) {}

  void file(const std::string& name, std::string_view text) {
    size_t number = 0;
    while (!text.empty()) {
      ++number;
      const size_t end = text.find('\n');
      if (end == std::string_view::npos) return found(name, number, "the line is not finished");
      line(name, number, text.substr(0, end));
      text.remove_prefix(end + 1);
    }
  }

  AuditReport finish(const std::string& newest) {
    if (head_ != nullptr && head_->last > report_.last)
      found(newest, 0,
            fmt::format("the log ends with line {}, but its head says {}: lines were cut off", report_.last,
                        head_->last));
    else if (head_ != nullptr && headHash_ && *headHash_ != head_->hash)
      found(newest, 0, fmt::format("line {} is not the one its head names", head_->last));
    return std::move(report_);
  }

 private:
  void found(const std::string& file, size_t number, std::string message) {
    if (report_.findings.size() < kMostFindings) report_.findings.push_back({file, number, std::move(message)});
  }

  void line(const std::string& file, size_t number, std::string_view text) {
    ++report_.lines;
    const Result<AuditLine> parsed = parseAuditLine(text);
    if (!parsed) {
      found(file, number, parsed.error().message);
      broken_ = true;  // one finding for it: what follows is compared with its own predecessor again
      return;
    }
    if (report_.last == 0 && !broken_) {
      report_.first = parsed->sequence;
      if (parsed->sequence == 1 && parsed->previous != auditGenesis())
        found(file, number, "the first line names a predecessor");
      if (head_ != nullptr && parsed->sequence > head_->first)
        found(file, number,
              fmt::format("the log begins with line {}, it should begin with {}", parsed->sequence, head_->first));
    } else if (!broken_) {
      if (parsed->sequence != report_.last + 1)
        found(file, number,
              fmt::format("line {} follows line {}: {}", parsed->sequence, report_.last,
                          parsed->sequence > report_.last + 1 ? "lines were removed" : "lines were reordered"));
      else if (parsed->previous != hash_)
        found(file, number, "it does not continue the line before it");
    }
    if (parsed->event == "gap") found(file, number, "recorded at a start: " + parsed->detail);
    if (parsed->event == "loss") found(file, number, "recorded when the disk failed: " + parsed->detail);
    broken_ = false;
    report_.last = parsed->sequence;
    hash_ = parsed->hash;
    if (head_ != nullptr && parsed->sequence == head_->last) headHash_ = parsed->hash;
  }

  const AuditHead* head_;
  AuditReport report_;
  std::string hash_;
  std::optional<std::string> headHash_;
  bool broken_ = false;
};

}  // namespace

Result<AuditReport> verifyAudit(const std::string& folder) {
  // The head first: lines that come while we read are then more than it says, which is no contradiction.
  const Result<Bytes> headBytes = readFile(folder + "/audit.head", 4096);
  const std::optional<AuditHead> head = headBytes ? parseAuditHead(asText(*headBytes)) : std::nullopt;

  int oldest = 0;
  struct stat info{};
  while (oldest < kMostFiles && ::stat(fmt::format("{}/audit.log.{}", folder, oldest + 1).c_str(), &info) == 0)
    ++oldest;
  Walk walk(head ? &*head : nullptr);
  for (int age = oldest; age >= 0; --age) {
    const std::string name = age == 0 ? "audit.log" : fmt::format("audit.log.{}", age);
    const Result<Bytes> text = readFile(folder + "/" + name, kMostFileBytes);
    if (!text) return withContext(text.error(), "verify the audit log");
    // A line being written right now is not finished yet.
    std::string_view whole = asText(*text);
    if (age == 0) whole = whole.substr(0, whole.rfind('\n') + 1);
    walk.file(name, whole);
  }
  AuditReport report = walk.finish("audit.log");
  if (!head)
    report.findings.push_back(
        {"audit.head", 0, "the head is missing or unreadable: lines cut from the end cannot be noticed"});
  return report;
}

}  // namespace wayleave::broker
