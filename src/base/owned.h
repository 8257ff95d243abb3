#pragma once

// RAII for operating-system and C-library handles, from one template.

#include <unistd.h>

#include <memory>
#include <utility>

namespace wayleave {

// Owns one handle and releases it exactly once. Every kind of handle is an alias of this.
// Assignment swaps: the old handle closes when the source of the move is destroyed.
template <typename T, T Invalid, auto Release>
class Owned {
 public:
  Owned() = default;
  static Owned adopt(T raw) { return Owned(raw); }  // the caller gives up `raw`
  Owned(Owned&& other) noexcept : raw_(other.release()) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(raw_, other.raw_);
    return *this;
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() {
    if (raw_ != Invalid) Release(raw_);
  }
  explicit operator bool() const { return raw_ != Invalid; }
  T borrow() const { return raw_; }                     // still ours; valid while *this lives
  T release() { return std::exchange(raw_, Invalid); }  // the caller must close it
  void reset() { Owned gone(std::move(*this)); }

 private:
  explicit Owned(T raw) : raw_(raw) {}
  T raw_ = Invalid;
};

inline void closeFd(int fd) { ::close(fd); }  // EINTR on Linux still closes: never retry
using Fd = Owned<int, -1, closeFd>;

// For C pointers: `using X509Ptr = Handle<X509, X509_free>;` is a unique_ptr, so .get() and bool work as usual.
template <auto Free>
struct FreeWith {
  template <typename T>
  void operator()(T* pointer) const {
    Free(pointer);
  }
};
template <typename T, auto Free>
using Handle = std::unique_ptr<T, FreeWith<Free>>;

}  // namespace wayleave
