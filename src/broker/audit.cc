#include "broker/audit.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "base/file.h"
#include "base/log.h"
#include "broker/audit_line.h"

namespace wayleave::broker {
namespace {

constexpr size_t kMostLineBytes = 16 * 1024;

std::string logPath(const std::string& folder, int age) {
  return age == 0 ? folder + "/audit.log" : fmt::format("{}/audit.log.{}", folder, age);
}
std::string headPath(const std::string& folder) { return folder + "/audit.head"; }

Result<std::string> lastBytes(int fd, off_t size, size_t count) {
  std::string out(std::min<size_t>(count, static_cast<size_t>(size)), '\0');
  const ssize_t got = ::pread(fd, out.data(), out.size(), size - static_cast<off_t>(out.size()));
  if (got != static_cast<ssize_t>(out.size())) return std::unexpected(errnoError(errno, "read the audit log"));
  return out;
}

}  // namespace

Result<std::unique_ptr<AuditLog>> AuditLog::open(const std::string& folder, const Clock& clock, AuditLimits limits) {
  std::unique_ptr<AuditLog> log(new AuditLog(folder, clock, limits));
  if (Status opened = log->openFile(); !opened) return propagate(opened.error());
  if (Status continued = log->continueChain(); !continued) return propagate(continued.error());
  log->sync_ = std::jthread([raw = log.get()](std::stop_token stop) { raw->syncLoop(stop); });
  return log;
}

AuditLog::~AuditLog() {
  sync_.request_stop();
  wake_.notify_all();
  if (sync_.joinable()) sync_.join();
  if (file_ && limits_.sync(file_.borrow()) != 0)
    log::failure("the audit log may lack its last lines", errnoError(errno, "bring the audit log to the disk"));
}

Status AuditLog::openFile() {
  const std::string path = logPath(folder_, 0);
  file_ = Fd::adopt(::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  struct stat info{};
  if (!file_ || ::fstat(file_.borrow(), &info) != 0) return std::unexpected(errnoError(errno, path));
  if (!S_ISREG(info.st_mode)) return fail(Reason::Io, path + " is not a regular file");
  size_ = info.st_size;
  return {};
}

Status AuditLog::continueChain() {
  const std::string path = headPath(folder_);
  head_ = Fd::adopt(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!head_) return std::unexpected(errnoError(errno, path));
  const Result<Bytes> headBytes = readAll(head_.borrow(), 4096);
  const std::optional<AuditHead> head = headBytes ? parseAuditHead(asText(*headBytes)) : std::nullopt;
  if (head) first_ = head->first;

  hash_ = auditGenesis();
  std::string note;
  // The newest complete line: in this file, or, just after a rotation, in the one before.
  std::string text;
  if (size_ > 0) {
    const Result<std::string> tail = lastBytes(file_.borrow(), size_, 2 * kMostLineBytes);
    if (!tail) return propagate(tail.error());
    text = *tail;
    const size_t end = text.rfind('\n');
    const size_t torn = text.size() - (end == std::string::npos ? 0 : end + 1);
    if (torn > 0) {
      if (::ftruncate(file_.borrow(), size_ - static_cast<off_t>(torn)) != 0)
        return std::unexpected(errnoError(errno, "cut the torn line off the audit log"));
      size_ -= static_cast<off_t>(torn);
      note = fmt::format("{} bytes of an unfinished line were cut off", torn);
      text.resize(text.size() - torn);
    }
  }
  if (text.empty()) {
    if (const Result<Bytes> older =
            readFile(logPath(folder_, 1), static_cast<size_t>(limits_.fileBytes) + kMostLineBytes))
      text = std::string(asText(ByteView(*older).last(std::min(older->size(), 2 * kMostLineBytes))));
  }
  if (!text.empty()) {
    text.pop_back();
    const size_t start = text.rfind('\n');
    const Result<AuditLine> last =
        parseAuditLine(std::string_view(text).substr(start == std::string::npos ? 0 : start + 1));
    if (!last)
      return fail(Reason::BadInput,
                  fmt::format("the last line of {} cannot be continued: {}", logPath(folder_, 0), last.error().message),
                  "look at it with `wayleave audit verify`, then move the log away; a new one begins");
    sequence_ = last->sequence;
    hash_ = last->hash;
  }
  synced_ = sequence_;
  if (head && head->last > sequence_)
    note = fmt::format("lines {} to {} are missing: the log ends before its head says", sequence_ + 1, head->last);
  if (!note.empty()) {
    log::warn("audit log is not whole", {{"detail", note}});
    return append({.event = "gap", .outcome = "OK", .detail = note});
  }
  return {};
}

Status AuditLog::append(const AuditEntry& entry) {
  const std::lock_guard lock(mutex_);
  if (syncError_ != 0)
    if (Status recovered = recover(); !recovered) return recovered;
  if (size_ >= limits_.fileBytes)
    if (const Status rotated = rotate(); !rotated) return rotated;
  return writeLine(entry);
}

Status AuditLog::recover() {
  if (!lossNoted_) {
    const std::string detail = fmt::format("lines {} to {} may be missing from the disk: {}", synced_ + 1, sequence_,
                                           std::strerror(syncError_));
    if (Status noted = writeLine({.event = "loss", .outcome = std::string(text(Reason::Io)), .detail = detail}); !noted)
      return noted;
    lossNoted_ = true;
  }
  if (Status synced = sync(); !synced) return synced;
  log::warn("the audit log reaches the disk again", {{"seq", std::to_string(sequence_)}});
  syncError_ = 0;
  lossNoted_ = false;
  return {};
}

Status AuditLog::sync() {
  if (limits_.sync(file_.borrow()) == 0) {
    synced_ = sequence_;
    return {};
  }
  if (syncError_ == 0) syncError_ = errno;
  const Error error = errnoError(errno, "bring the audit log to the disk");
  return fail(error.reason, error.message, "mend the disk: nothing is signed that cannot be recorded");
}

Status AuditLog::writeLine(const AuditEntry& entry) {
  const std::string line = auditLine(entry, sequence_ + 1, rfc3339(clock_.wallNow()), hash_) + '\n';
  size_t done = 0;
  while (done < line.size()) {
    const ssize_t wrote = ::write(file_.borrow(), line.data() + done, line.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) {
      const Error error = errnoError(errno, "write the audit log");
      if (done > 0 && ::ftruncate(file_.borrow(), size_) != 0)
        log::error("part of a line remains in the audit log", {{"bytes", std::to_string(done)}});
      return fail(error.reason, error.message,
                  "make room for the audit log: nothing is signed that cannot be recorded");
    }
    done += static_cast<size_t>(wrote);
  }
  size_ += static_cast<off_t>(line.size());
  ++sequence_;
  hash_ = line.substr(line.size() - 67, 64);
  writeHead();
  dirty_ = true;
  wake_.notify_one();
  // Where a forger with our rights cannot reach: the system's log.
  log::info("audit",
            {{"seq", std::to_string(sequence_)}, {"event", entry.event}, {"outcome", entry.outcome}, {"hash", hash_}});
  return {};
}

// Best effort: a head that lags behind is no contradiction, the log just has more than it says.
void AuditLog::writeHead() {
  const std::string text = formatAuditHead({first_, sequence_, hash_});
  if (::pwrite(head_.borrow(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size()))
    log::warn("the audit log's head could not be written");
}

Status AuditLog::rotate() {
  // The loop that syncs knows the newest file only.
  if (Status synced = sync(); !synced) return synced;
  // What the oldest file holds leaves the chain: the head remembers where it now begins.
  if (const Result<Bytes> leaving =
          readFile(logPath(folder_, limits_.files), static_cast<size_t>(limits_.fileBytes) + kMostLineBytes)) {
    const std::string_view text = asText(*leaving);
    const size_t end = text.rfind('\n', text.size() - 2);
    const std::string_view line = text.substr(end == std::string_view::npos ? 0 : end + 1);
    if (const Result<AuditLine> last = parseAuditLine(line.substr(0, line.size() - 1))) first_ = last->sequence + 1;
  }
  for (int age = limits_.files - 1; age >= 0; --age) {
    const std::string from = logPath(folder_, age);
    if (::rename(from.c_str(), logPath(folder_, age + 1).c_str()) != 0 && errno != ENOENT)
      return std::unexpected(errnoError(errno, "rotate " + from));
  }
  if (Status opened = openFile(); !opened) return opened;
  writeHead();
  return {};
}

uint64_t AuditLog::lastSequence() const {
  const std::lock_guard lock(mutex_);
  return sequence_;
}

Result<std::vector<std::string>> AuditLog::tail(size_t count) const {
  std::vector<std::string> lines;
  const std::lock_guard lock(mutex_);
  for (int age = 0; age <= limits_.files && lines.size() < count; ++age) {
    const Result<Bytes> bytes =
        readFile(logPath(folder_, age), static_cast<size_t>(limits_.fileBytes) + kMostLineBytes);
    if (!bytes) {
      if (bytes.error().reason == Reason::NotFound) break;
      return propagate(bytes.error());
    }
    std::string_view text = asText(*bytes);
    while (!text.empty() && lines.size() < count) {
      text.remove_suffix(1);
      const size_t start = text.rfind('\n');
      lines.emplace_back(start == std::string_view::npos ? text : text.substr(start + 1));
      text = start == std::string_view::npos ? std::string_view{} : text.substr(0, start + 1);
    }
  }
  std::ranges::reverse(lines);
  return lines;
}

void AuditLog::syncLoop(std::stop_token stop) {
  constexpr std::chrono::seconds kInterval{1};
  while (!stop.stop_requested()) {
    Fd copy;  // rotation may close ours meanwhile
    uint64_t from = 0, upTo = 0;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, stop, [&] { return dirty_; });
      if (stop.stop_requested()) return;
      copy = Fd::adopt(::fcntl(file_.borrow(), F_DUPFD_CLOEXEC, 3));
      if (!copy) {  // out of descriptors, which says nothing about the disk
        wake_.wait_for(lock, stop, kInterval, [] { return false; });
        continue;
      }
      dirty_ = false;
      from = synced_;
      upTo = sequence_;
    }
    const int error = limits_.sync(copy.borrow()) == 0 ? 0 : errno;
    std::unique_lock lock(mutex_);
    if (error != 0 && syncError_ == 0) {
      syncError_ = error;
      // The kernel says it once: a rotation may have heard nothing of it since.
      synced_ = std::min(synced_, from);
      log::failure("lines of the audit log may be lost: nothing is signed until the disk takes them again",
                   errnoError(error, "bring the audit log to the disk"));
    } else if (error == 0 && syncError_ == 0) {
      synced_ = std::max(synced_, upTo);
    }
    wake_.wait_for(lock, stop, kInterval, [] { return false; });
  }
}

}  // namespace wayleave::broker
