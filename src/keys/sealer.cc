#include "keys/sealer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>

#include "base/file.h"
#include "base/owned.h"
#include "keys/openssl.h"

namespace wayleave::keys {
namespace {

constexpr size_t kKeyBytes = 32;
constexpr size_t kKeyIdBytes = 8;
constexpr size_t kNonceBytes = 12;  // the size GCM takes without another hash
constexpr size_t kTagBytes = 16;
constexpr std::string_view kMagic = "WLS";
constexpr uint8_t kVersion = 1;
constexpr size_t kHeaderBytes = kMagic.size() + 1 + kKeyIdBytes;
constexpr size_t kOverheadBytes = kHeaderBytes + kNonceBytes + kTagBytes;
// Far above any key (PKCS#8 of RSA 8192 is 4.6 kB); keeps every length inside OpenSSL's int.
constexpr size_t kMaxClearBytes = 1024 * 1024;

Status checkFile(int fd, const std::string& path) {
  struct stat info{};
  if (::fstat(fd, &info) != 0) return std::unexpected(errnoError(errno, path));
  if (!S_ISREG(info.st_mode)) return fail(Reason::KeyPermission, fmt::format("machine key {} is not a file", path));
  if (info.st_uid != ::geteuid()) {
    return fail(Reason::KeyPermission,
                fmt::format("machine key {} belongs to user {}, not to user {}", path, info.st_uid, ::geteuid()),
                "give the file to the user identityd runs as, if you know why it changed hands");
  }
  if ((info.st_mode & 077) != 0) {
    return fail(Reason::KeyPermission,
                fmt::format("machine key {} has mode {:04o}: others may have read it", path, info.st_mode & 07777),
                "chmod 0600 it; if other users were on this machine, enrol its software identities again");
  }
  return {};
}

Result<Secret> readKey(const std::string& path) {
  // O_NONBLOCK: a FIFO in the key's place must be refused, not waited for.
  const Fd fd = Fd::adopt(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd) {
    if (errno == ELOOP) return fail(Reason::KeyPermission, fmt::format("machine key {} is a symbolic link", path));
    return std::unexpected(
        errnoError(errno, fmt::format("open machine key {}", path), errno == ENOENT ? Reason::NotFound : Reason::Io));
  }
  if (const Status good = checkFile(fd.borrow(), path); !good) return std::unexpected(good.error());
  // One byte more than a key, so that a longer file shows.
  Secret key(Bytes(kKeyBytes + 1));
  size_t have = 0;
  while (have < key.view().size()) {
    const ssize_t got = ::read(fd.borrow(), key.mutableBytes().data() + have, key.view().size() - have);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::unexpected(errnoError(errno, fmt::format("read machine key {}", path)));
    if (got == 0) break;
    have += static_cast<size_t>(got);
  }
  if (have != kKeyBytes) {
    return fail(Reason::BadInput, fmt::format("machine key {} is not {} bytes long", path, kKeyBytes),
                "restore the file from a backup; without it the sealed keys are lost");
  }
  key.mutableBytes().resize(kKeyBytes);
  return key;
}

// Written under another name, then linked: the name appears with all its bytes, and link(2), unlike rename(2), never
// replaces a file that is already there.
Status createKey(const std::string& path) {
  std::string temporary = path + ".XXXXXX";
  const Fd fd = Fd::adopt(::mkostemp(temporary.data(), O_CLOEXEC));  // mode 0600
  if (!fd) return std::unexpected(errnoError(errno, fmt::format("create {}", temporary)));
  const Secret key(randomBytes(kKeyBytes));
  const bool written = ::write(fd.borrow(), key.view().data(), kKeyBytes) == static_cast<ssize_t>(kKeyBytes) &&
                       ::fsync(fd.borrow()) == 0;
  const bool linked =
      written && (::link(temporary.c_str(), path.c_str()) == 0 || errno == EEXIST);  // another was first
  const int because = errno;
  ::unlink(temporary.c_str());
  if (!linked) return std::unexpected(errnoError(because, fmt::format("write machine key {}", path)));
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const Fd directory = Fd::adopt(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory || ::fsync(directory.borrow()) != 0)
    return std::unexpected(errnoError(errno, fmt::format("sync {}", folder)));
  return {};
}

// The associated data: header, then record id (the header has a fixed length, so the pair is unambiguous).
bool authenticate(EVP_CIPHER_CTX* context, ByteView header, std::string_view recordId) {
  int ignored = 0;
  const auto update = [&](const uint8_t* data, size_t size) {
    return EVP_CipherUpdate(context, nullptr, &ignored, data, static_cast<int>(size)) == 1;
  };
  return update(header.data(), header.size()) &&
         (recordId.empty() || update(asBytes(recordId).data(), recordId.size()));
}

}  // namespace

void Sealer::FreeKey::operator()(uint8_t* key) const { OPENSSL_secure_clear_free(key, kKeyBytes); }

Sealer::Sealer(const Secret& key) : key_(static_cast<uint8_t*>(OPENSSL_secure_malloc(kKeyBytes))) {
  if (!key_) std::abort();  // 32 bytes: as good as never, and there is no going on
  std::ranges::copy(key.view(), key_.get());
  Secret labelled;
  labelled.mutableBytes().reserve(64);  // before the key goes in: growing would leave a copy behind
  append(labelled.mutableBytes(), asBytes("wayleave machine key id"));
  append(labelled.mutableBytes(), key.view());
  keyId_ = sha256(labelled.view());
  keyId_.resize(kKeyIdBytes);
}

Result<Sealer> Sealer::withKey(Secret machineKey) {
  if (machineKey.view().size() != kKeyBytes)
    return fail(Reason::BadInput, fmt::format("a machine key of {} bytes", machineKey.view().size()));
  return Sealer(machineKey);
}

Result<Sealer> Sealer::open(const std::string& machineKeyPath, StoreAge age) {
  Result<Secret> key = readKey(machineKeyPath);
  if (!key && key.error().reason == Reason::NotFound) {
    if (age == StoreAge::Existing) {
      return fail(Reason::IdentityUnavailable,
                  fmt::format("machine key {} is missing, and the store already holds sealed keys", machineKeyPath),
                  "restore the file from a backup, or remove the store and install the profiles again");
    }
    if (const Status made = createKey(machineKeyPath); !made) return std::unexpected(made.error());
    key = readKey(machineKeyPath);
  }
  if (!key) return std::unexpected(std::move(key.error()));
  return Sealer(*key);
}

Result<Bytes> Sealer::seal(const Secret& clear, std::string_view recordId) const {
  if (clear.view().size() > kMaxClearBytes || recordId.size() > kMaxClearBytes)
    return fail(Reason::Internal, fmt::format("{} bytes to seal", clear.view().size()));
  Bytes blob;
  blob.reserve(clear.view().size() + kOverheadBytes);
  append(blob, asBytes(kMagic));
  blob.push_back(kVersion);
  append(blob, keyId_);
  const Bytes header = blob;
  append(blob, randomBytes(kNonceBytes));
  const size_t textAt = blob.size();
  blob.resize(textAt + clear.view().size() + kTagBytes);
  uint8_t* const text = blob.data() + textAt;

  const EvpCipherCtxPtr context(EVP_CIPHER_CTX_new());
  int wrote = 0;
  if (!context ||
      EVP_EncryptInit_ex2(context.get(), EVP_aes_256_gcm(), key_.get(), blob.data() + kHeaderBytes, nullptr) !=
          1 ||
      !authenticate(context.get(), header, recordId) ||
      EVP_EncryptUpdate(context.get(), text, &wrote, clear.view().data(), static_cast<int>(clear.view().size())) != 1 ||
      EVP_EncryptFinal_ex(context.get(), text + wrote, &wrote) != 1 ||
      EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_GET_TAG, kTagBytes, text + clear.view().size()) != 1)
    return std::unexpected(opensslError(Reason::Internal, "seal"));
  return blob;
}

Result<Secret> Sealer::unseal(ByteView blob, std::string_view recordId) const {
  if (blob.size() < kMagic.size() + 1 || asText(blob.first(kMagic.size())) != kMagic)
    return fail(Reason::BadInput, "not a sealed blob");
  if (blob[kMagic.size()] != kVersion) {
    return fail(Reason::Unsupported, fmt::format("sealed blob of version {}", blob[kMagic.size()]),
                "it was written by a newer wayleave: install that version");
  }
  if (blob.size() < kOverheadBytes || blob.size() > kMaxClearBytes + kOverheadBytes || recordId.size() > kMaxClearBytes)
    return fail(Reason::BadInput, fmt::format("sealed blob of {} bytes", blob.size()));
  const ByteView header = blob.first(kHeaderBytes);
  if (!std::ranges::equal(header.last(kKeyIdBytes), keyId_)) {
    return fail(Reason::IdentityUnavailable, "the key was sealed with another machine key",
                "restore the machine key that belongs to this store, or install the profiles again");
  }
  const ByteView nonce = blob.subspan(kHeaderBytes, kNonceBytes);
  const ByteView text = blob.subspan(kHeaderBytes + kNonceBytes, blob.size() - kOverheadBytes);
  std::array<uint8_t, kTagBytes> tag{};
  std::ranges::copy(blob.last(kTagBytes), tag.begin());

  Secret clear(Bytes(text.size()));
  uint8_t* const out = clear.mutableBytes().data();
  uint8_t nothing = 0;  // GCM's final step writes no text but wants a place
  const EvpCipherCtxPtr context(EVP_CIPHER_CTX_new());
  int wrote = 0;
  if (!context ||
      EVP_DecryptInit_ex2(context.get(), EVP_aes_256_gcm(), key_.get(), nonce.data(), nullptr) != 1 ||
      !authenticate(context.get(), header, recordId) ||
      EVP_DecryptUpdate(context.get(), out, &wrote, text.data(), static_cast<int>(text.size())) != 1 ||
      EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_AEAD_SET_TAG, kTagBytes, tag.data()) != 1)
    return std::unexpected(opensslError(Reason::Internal, "unseal"));
  if (EVP_DecryptFinal_ex(context.get(), &nothing, &wrote) != 1) {
    // opensslError only for its emptying of the queue: OpenSSL has no words for a wrong tag.
    Error error = opensslError(Reason::BadInput, "");
    error.message = "the sealed blob is damaged or belongs to another record";
    error.hint = "restore the store from a backup, or install the profile again";
    return std::unexpected(std::move(error));
  }
  return clear;
}

}  // namespace wayleave::keys
