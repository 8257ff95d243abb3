// A keychain of 100,000 items: opened, and a reference resolved in it. `heap` is what the open keychain holds.

#include <benchmark/benchmark.h>
#include <malloc.h>

#include "keychain/file_keychain.h"
#include "keychain/keychain_database.h"
#include "keychain/kych_writer.h"

namespace wayleave::keychain {
namespace {

constexpr size_t kItems = 100'000;
constexpr size_t kCertificateBytes = 900;  // of an ordinary device certificate

Bytes serialOf(size_t i) {
  Bytes serial(12, 0x40);
  appendU32(serial, static_cast<uint32_t>(i));
  appendU32(serial, static_cast<uint32_t>(i * 2654435761u));
  return serial;
}

const Bytes& issuer() {
  static const Bytes name = fromHex("301f311d301b06035504030c146b6579636861696e627265616b65722d74657374").value();
  return name;
}

const Bytes& fileKeychain() {
  static const Bytes bytes = [] {
    KychWriter writer(kBlobVersionClassic, "bench");
    const Bytes der(kCertificateBytes, 0x30);
    for (size_t i = 0; i < kItems; ++i)
      writer.addCertificateRecord(der, "device", issuer(), serialOf(i), sha1(serialOf(i)));
    return writer.write().value();
  }();
  return bytes;
}

std::array<uint8_t, 16> uuidOf(size_t i) {
  std::array<uint8_t, 16> uuid{};
  std::ranges::copy(ByteView(sha1(serialOf(i))).first(16), uuid.begin());
  return uuid;
}

const Bytes& database() {
  static const Bytes bytes = [] {
    KeychainDatabaseWriter writer;
    DatabaseRow row;
    row.accessGroup = "com.apple.identities";
    row.dataBytes = kCertificateBytes;
    for (size_t i = 0; i < kItems; ++i) {
      row.rowId = static_cast<int64_t>(i) + 1;
      row.uuid = uuidOf(i);
      row.publicKeyHash = sha1(serialOf(i));
      writer.add(row);
    }
    return writer.write().value();
  }();
  return bytes;
}

size_t heapBytes() {
  const struct mallinfo2 info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
}

void openFileKeychain(benchmark::State& state) {
  const Bytes& bytes = fileKeychain();
  size_t heap = 0;
  for (auto _ : state) {
    state.PauseTiming();
    Bytes copy = bytes;
    const size_t before = heapBytes() - copy.size();
    state.ResumeTiming();
    auto keychain = FileKeychain::open(std::move(copy));
    if (!keychain) state.SkipWithError(keychain.error().message.c_str());
    state.PauseTiming();
    heap = heapBytes() - before;
    state.ResumeTiming();
  }
  state.counters["file_MiB"] = static_cast<double>(bytes.size()) / (1 << 20);
  state.counters["heap_MiB"] = static_cast<double>(heap) / (1 << 20);
}
BENCHMARK(openFileKeychain)->Unit(benchmark::kMillisecond);

void resolveInFileKeychain(benchmark::State& state) {
  const FileKeychain keychain = FileKeychain::open(fileKeychain()).value();
  FileReference reference;
  reference.item.attributes = {{1, 0, 0, 0}, issuer(), serialOf(kItems - 1)};  // the last record: the longest way
  for (auto _ : state)
    if (!keychain.resolve(reference)) state.SkipWithError("not found");
}
BENCHMARK(resolveInFileKeychain)->Unit(benchmark::kMillisecond);

void openDatabase(benchmark::State& state) {
  const Bytes& bytes = database();
  for (auto _ : state)
    if (!KeychainDatabase::open(bytes)) state.SkipWithError("not opened");
  state.counters["file_MiB"] = static_cast<double>(bytes.size()) / (1 << 20);
}
BENCHMARK(openDatabase)->Unit(benchmark::kMillisecond);

void locateInDatabase(benchmark::State& state) {
  const KeychainDatabase keychain = KeychainDatabase::open(database()).value();
  const UuidReference reference{ItemClass::Certificate, uuidOf(kItems - 1)};
  for (auto _ : state)
    if (!keychain.locate(reference)) state.SkipWithError("not found");
}
BENCHMARK(locateInDatabase)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace wayleave::keychain
