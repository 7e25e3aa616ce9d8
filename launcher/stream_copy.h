// Ways of copying large ranges of memory: the bound of everything that streams.
#pragma once

#include <cstddef>
#include <span>

#include "runtime/thread_pool.h"

namespace strata {

enum class CopyStores {
  ordinary,   // lines of the target are read before they are written
  streaming,  // past the caches
  library     // std::memcpy, which chooses by size
};
const char* to_string(CopyStores stores);
// Those this processor has.
std::span<const CopyStores> available_copies();

// Copies `bytes` with every thread of the pool. Both ranges are 4096-aligned and do not overlap; bytes is a multiple of 4096.
void stream_copy(CopyStores stores, const std::byte* from, std::byte* to, std::size_t bytes, ThreadPool& pool);

}  // namespace strata
