#include "broker/digest_cache.h"

#include <fmt/format.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/bytes.h"

namespace wayleave::broker {
namespace {

// A machine has a handful of programs with grants; beyond this something cycles through files on purpose.
constexpr size_t kMostKnown = 1024;
constexpr size_t kMostBudgets = 1024;

using DigestContext = Handle<EVP_MD_CTX, EVP_MD_CTX_free>;

int64_t nanoseconds(const timespec& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

Result<std::string> hashFile(const Fd& file) {
  const DigestContext context(EVP_MD_CTX_new());
  if (!context || EVP_DigestInit_ex2(context.get(), EVP_sha256(), nullptr) != 1)
    return fail(Reason::Internal, "SHA-256 is not available");
  std::vector<uint8_t> buffer(256 * 1024);
  off_t offset = 0;
  for (;;) {
    const ssize_t got = ::pread(file.borrow(), buffer.data(), buffer.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::unexpected(errnoError(errno, "read the executable"));
    if (got == 0) break;
    offset += got;
    if (offset > DigestCache::kMostBytes) return fail(Reason::BadInput, "the executable grows while it is read");
    EVP_DigestUpdate(context.get(), buffer.data(), static_cast<size_t>(got));
  }
  std::array<uint8_t, 32> digest{};
  if (EVP_DigestFinal_ex(context.get(), digest.data(), nullptr) != 1) return fail(Reason::Internal, "SHA-256 failed");
  return toHex(digest);
}

}  // namespace

FileIdentity FileIdentity::of(const struct stat& info) {
  return {info.st_dev, info.st_ino, info.st_size, nanoseconds(info.st_mtim), nanoseconds(info.st_ctim)};
}

Result<std::string> DigestCache::digest(const Fd& file, uid_t uid) {
  struct stat before{};
  if (::fstat(file.borrow(), &before) != 0) return std::unexpected(errnoError(errno, "look at the executable"));
  if (!S_ISREG(before.st_mode)) return fail(Reason::BadInput, "the executable is not a regular file");
  const FileIdentity identity = FileIdentity::of(before);
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = known_.find(identity); found != known_.end()) return found->second;
    if (before.st_size > kMostBytes)
      return fail(Reason::BadInput,
                  fmt::format("the executable is larger than {} MiB and is not hashed", kMostBytes >> 20));
    const Steady now = clock_.now();
    if (budgets_.size() >= kMostBudgets)
      std::erase_if(budgets_, [&](const auto& entry) { return entry.second.full(now); });
    if (budgets_.size() >= kMostBudgets && !budgets_.contains(uid))
      return fail(Reason::RateLimited, "too many users run new programs at once");
    TokenBucket& budget = budgets_.try_emplace(uid, kBurstBytes, kBytesPerSecond, now).first->second;
    const double cost = static_cast<double>(before.st_size);
    if (!budget.take(cost, now))
      return fail(
          Reason::RateLimited, fmt::format("user {} made the broker hash too many new programs", uid),
          fmt::format("try again in {} s", std::chrono::ceil<std::chrono::seconds>(budget.waitFor(cost, now)).count()));
  }
  Result<std::string> hex = hashFile(file);
  if (!hex) return hex;
  struct stat after{};
  if (::fstat(file.borrow(), &after) != 0 || FileIdentity::of(after) != identity)
    return fail(Reason::BadInput, "the executable changed while it was read");
  const std::lock_guard lock(mutex_);
  if (known_.size() >= kMostKnown) known_.clear();
  known_.emplace(identity, *hex);
  return hex;
}

}  // namespace wayleave::broker
