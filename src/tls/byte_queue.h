#pragma once

// Bytes on their way, first in first out, in memory that is borrowed while they wait.
//
// An idle connection must own next to nothing and a busy one moves 512 KiB per system call. So a queue holds no memory
// when it is empty, a small block for small messages, and for batches a chunk lent by the worker's cache. Chunks are
// kept warm: handing them back to malloc would fault their pages in again for each batch.

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "base/bytes.h"

namespace wayleave::tls {

// Owned by one worker, used on its loop only.
class ChunkCache {
 public:
  // A batch of 512 KiB with the overhead of its TLS records (22 bytes per 16 KiB), h2 frame headers, and a few control
  // frames that were waiting.
  static constexpr size_t kChunkBytes = 576 * 1024;
  using Chunk = std::unique_ptr<uint8_t[]>;

  Chunk take() {
    if (free_.empty()) return Chunk(new uint8_t[kChunkBytes]);  // not value-initialised: it is overwritten anyway
    Chunk chunk = std::move(free_.back());
    free_.pop_back();
    return chunk;
  }
  void give(Chunk chunk) {
    if (free_.size() < kKept) free_.push_back(std::move(chunk));
  }

 private:
  static constexpr size_t kKept = 8;
  std::vector<Chunk> free_;
};

class ByteQueue {
 public:
  ByteQueue() = default;
  ByteQueue(const ByteQueue&) = delete;
  ByteQueue& operator=(const ByteQueue&) = delete;
  ~ByteQueue() { release(); }

  // From now on big blocks come from `cache`, which must outlive the queue.
  void borrowFrom(ChunkCache* cache) { cache_ = cache; }

  size_t size() const { return end_ - begin_; }
  bool empty() const { return begin_ == end_; }
  ByteView view() const { return {data_.get() + begin_, size()}; }

  void append(ByteView bytes) {
    if (bytes.empty()) return;
    if (capacity_ - end_ < bytes.size()) makeRoom(bytes.size());
    std::memcpy(data_.get() + end_, bytes.data(), bytes.size());
    end_ += bytes.size();
  }
  void consume(size_t bytes) {
    begin_ += bytes;
    if (begin_ == end_) release();
  }
  void clear() { release(); }

 private:
  static constexpr size_t kSmallBytes = 2048;

  void makeRoom(size_t more) {
    const size_t needed = size() + more;
    if (needed <= capacity_ && begin_ >= capacity_ / 2) {  // moving less than half: cheaper than a bigger block
      std::memmove(data_.get(), data_.get() + begin_, size());
    } else {
      size_t capacity = kSmallBytes;
      if (needed > kSmallBytes) capacity = ChunkCache::kChunkBytes;
      while (capacity < needed) capacity *= 2;
      ChunkCache::Chunk block = capacity == ChunkCache::kChunkBytes && cache_ != nullptr
                                    ? cache_->take()
                                    : ChunkCache::Chunk(new uint8_t[capacity]);
      if (!empty()) std::memcpy(block.get(), data_.get() + begin_, size());
      const size_t kept = size();
      release();
      data_ = std::move(block);
      capacity_ = capacity;
      end_ = kept;
      return;
    }
    end_ = size();
    begin_ = 0;
  }
  void release() {
    if (capacity_ == ChunkCache::kChunkBytes && cache_ != nullptr) cache_->give(std::move(data_));
    data_.reset();
    capacity_ = begin_ = end_ = 0;
  }

  ChunkCache* cache_ = nullptr;
  ChunkCache::Chunk data_;
  size_t capacity_ = 0;
  size_t begin_ = 0;
  size_t end_ = 0;
};

}  // namespace wayleave::tls
