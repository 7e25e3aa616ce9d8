// Rows by their token: what lets a table's rows be summed without atomics and in the order of the rows.
#pragma once

#include <cstdint>

#include "runtime/gpu/device.h"

namespace strata::STRATA_GPU {

// The token of a row (all ones: outside the vocabulary) above the number of the row; all are different, and in order they are
// the rows of the first token in order of rows, then those of the next.
using TokenKey = std::uint64_t;

STRATA_DEVICE std::uint32_t token_of(TokenKey key) { return static_cast<std::uint32_t>(key >> 32); }
STRATA_DEVICE std::uint32_t row_of(TokenKey key) { return static_cast<std::uint32_t>(key); }
inline constexpr std::uint32_t kNoToken = 0xffffffffu;

// Bytes of scratch that order_tokens needs for R rows.
inline std::int64_t token_order_bytes(std::int64_t R) { return 2 * R * static_cast<std::int64_t>(sizeof(TokenKey)); }

// Enqueues the ordering of R < 2^32 tokens and returns where the R keys will be, inside `scratch`. Tokens outside [0, V) are
// reported as faults of the queue.
const TokenKey* order_tokens(const std::int32_t* tokens_R, std::int64_t R, std::int64_t V, std::byte* scratch, GpuQueue& queue);

}  // namespace strata::STRATA_GPU
