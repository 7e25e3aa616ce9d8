// What memory gives at most to an update in place: the reads and writes of AdamW without its arithmetic, the denominator of
// `strata bench adam`.
#pragma once

#include <cstdint>
#include <span>

#include "runtime/dtype.h"
#include "runtime/thread_pool.h"

namespace strata::kernels {

// Arrays that start at a cache line and do not overlap.
struct UpdateTraffic {
  static constexpr std::int64_t kChunk = 32;

  float* updated[3];        // read, and what was read is written back
  const float* read;        // only read
  bf16* written = nullptr;  // optional, only written: bytes of updated[0], without meaning
  std::int64_t n = 0;       // elements of each, a multiple of kChunk
};

enum class UpdateStores {
  ordinary,    // what is only written goes past the caches, as in every kind
  prefetched,  // as ordinary, and lines are asked for ahead of their use
  streaming    // everything goes past the caches
};
const char* to_string(UpdateStores stores);
// Those this processor has.
std::span<const UpdateStores> available_update_stores();

// Moves the bytes with the active instruction set (isa.h), cut into blocks over the pool.
void move_update_traffic(UpdateStores stores, const UpdateTraffic& traffic, ThreadPool& pool);

}  // namespace strata::kernels
