#include "runtime/kernels/simd.h"
#include "runtime/kernels/traffic_table.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace strata::STRATA_ISA {
namespace {

using kernels::UpdateStores;
using kernels::UpdateTraffic;

constexpr std::int64_t kAhead = 256;  // elements; see optim/adamw_simd.cpp
constexpr int kLineFloats = 16;
constexpr int kVecs = static_cast<int>(UpdateTraffic::kChunk) / Vec::kLanes;
constexpr int kWrittenVecs = kVecs / 2;  // the 16-bit elements of a chunk

// The compiler may not know that a value is what memory holds already, nor that nobody needs it.
#if defined(__x86_64__)
void keep(Vec& a) { asm volatile("" : "+x"(a.v)); }
#else
void keep(Vec& a) { asm volatile("" : "+m"(a.v)); }
#endif

#if defined(STRATA_ISA_avx512)
void stream(Vec a, float* p) { _mm512_stream_ps(p, a.v); }
#elif defined(STRATA_ISA_avx2)
void stream(Vec a, float* p) { _mm256_stream_ps(p, a.v); }
#elif defined(__x86_64__)
void stream(Vec a, float* p) { _mm_stream_ps(p, a.v); }
#else
void stream(Vec a, float* p) { store(a, p); }
#endif

void fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

void prefetch_chunk(const float* p) {
  for (int line = 0; line < UpdateTraffic::kChunk; line += kLineFloats) __builtin_prefetch(p + line);
}

template <UpdateStores kStores>
void move(const UpdateTraffic& t) {
  for (std::int64_t i = 0; i < t.n; i += UpdateTraffic::kChunk) {
    if constexpr (kStores == UpdateStores::prefetched) {
      for (const float* array : t.updated) prefetch_chunk(array + i + kAhead);
      prefetch_chunk(t.read + i + kAhead);
    }
    Vec first[kVecs];
    for (int k = 0; k < kVecs; ++k) {
      const std::int64_t at = i + k * Vec::kLanes;
      Vec others[] = {load(t.updated[1] + at), load(t.updated[2] + at), load(t.read + at)};
      first[k] = load(t.updated[0] + at);
      keep(first[k]);
      for (Vec& other : others) keep(other);
      const auto put_back = kStores == UpdateStores::streaming ? stream : static_cast<void (*)(Vec, float*)>(store);
      put_back(first[k], t.updated[0] + at);
      put_back(others[0], t.updated[1] + at);
      put_back(others[1], t.updated[2] + at);
    }
    if (t.written != nullptr) {
      for (int k = 0; k < kWrittenVecs; ++k) stream(first[k], reinterpret_cast<float*>(t.written + i) + k * Vec::kLanes);
    }
  }
  fence();
}

}  // namespace

const kernels::TrafficTable& traffic_table() {
  static constexpr kernels::TrafficTable table = {.ordinary = move<UpdateStores::ordinary>,
                                                  .prefetched = move<UpdateStores::prefetched>,
                                                  .streaming = move<UpdateStores::streaming>};
  return table;
}

}  // namespace strata::STRATA_ISA
