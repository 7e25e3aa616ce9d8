#include "launcher/stream_copy.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "runtime/status.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace strata {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kBlock = std::size_t{4} << 20;  // handed out one by one, so that a slow thread does not hold up the rest

#if defined(__SSE2__)
constexpr CopyStores kAvailable[] = {CopyStores::ordinary, CopyStores::streaming, CopyStores::library};

void store(CopyStores stores, __m128i* to, __m128i value) {
  stores == CopyStores::streaming ? _mm_stream_si128(to, value) : _mm_store_si128(to, value);
}

template <CopyStores kStores>
void copy_lines(const std::byte* from, std::byte* to, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += 64) {
    const auto* a = reinterpret_cast<const __m128i*>(from + i);
    auto* b = reinterpret_cast<__m128i*>(to + i);
    const __m128i x0 = _mm_load_si128(a), x1 = _mm_load_si128(a + 1), x2 = _mm_load_si128(a + 2), x3 = _mm_load_si128(a + 3);
    store(kStores, b, x0);
    store(kStores, b + 1, x1);
    store(kStores, b + 2, x2);
    store(kStores, b + 3, x3);
  }
  _mm_sfence();
}

void copy_block(CopyStores stores, const std::byte* from, std::byte* to, std::size_t bytes) {
  stores == CopyStores::streaming ? copy_lines<CopyStores::streaming>(from, to, bytes)
                                  : copy_lines<CopyStores::ordinary>(from, to, bytes);
}
#else
constexpr CopyStores kAvailable[] = {CopyStores::library};

void copy_block(CopyStores, const std::byte* from, std::byte* to, std::size_t bytes) { std::memcpy(to, from, bytes); }
#endif

// One long range a thread: memcpy decides by the length whether to keep out of the caches.
void copy_with_library(const std::byte* from, std::byte* to, std::size_t bytes, ThreadPool& pool) {
  const auto pages = static_cast<std::int64_t>(bytes / kPage);
  const std::int64_t parts = pool.threads();
  pool.parallel_for(parts, [&](std::int64_t part) {
    const auto begin = static_cast<std::size_t>(pages * part / parts) * kPage;
    const auto end = static_cast<std::size_t>(pages * (part + 1) / parts) * kPage;
    if (end > begin) std::memcpy(to + begin, from + begin, end - begin);
  });
}

}  // namespace

const char* to_string(CopyStores stores) {
  switch (stores) {
    case CopyStores::ordinary: return "ordinary stores";
    case CopyStores::streaming: return "streaming stores";
    case CopyStores::library: return "memcpy";
  }
  return "?";
}

std::span<const CopyStores> available_copies() { return kAvailable; }

void stream_copy(CopyStores stores, const std::byte* from, std::byte* to, std::size_t bytes, ThreadPool& pool) {
  STRATA_CHECK(bytes % kPage == 0, "a copy is measured in whole pages");
  if (stores == CopyStores::library) return copy_with_library(from, to, bytes, pool);
  const auto blocks = static_cast<std::int64_t>((bytes + kBlock - 1) / kBlock);
  pool.parallel_for(blocks, [&](std::int64_t block) {
    const std::size_t begin = static_cast<std::size_t>(block) * kBlock;
    copy_block(stores, from + begin, to + begin, std::min(kBlock, bytes - begin));
  });
}

}  // namespace strata
