// References decoded and minted per second.

#include <benchmark/benchmark.h>

#include "keychain/reference_codec.h"
#include "keychain/reference_vectors_test_support.h"

namespace wayleave::keychain {
namespace {

void decodes(benchmark::State& state, std::string_view hex, DecodeOptions options) {
  const Bytes bytes = fromHex(hex).value();
  for (auto _ : state) benchmark::DoNotOptimize(decodeReference(bytes, options));
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK_CAPTURE(decodes, file_196_bytes, vectors::kVectorA, DecodeOptions{});
BENCHMARK_CAPTURE(decodes, file_196_bytes_annotated, vectors::kVectorA, DecodeOptions{.fields = true});
BENCHMARK_CAPTURE(decodes, uuid_20_bytes, "6365727400112233445566778899aabbccddeeff", DecodeOptions{});
BENCHMARK_CAPTURE(decodes, token, "746b707230220c04636572740c13636f6d2e6578616d706c652e746f6b656e3a3104050102030405",
                  DecodeOptions{});

void encodes(benchmark::State& state) {
  const Decoded decoded = decodeReference(fromHex(vectors::kVectorA).value()).value();
  for (auto _ : state) benchmark::DoNotOptimize(encodeReference(decoded.reference));
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(encodes);

}  // namespace
}  // namespace wayleave::keychain
