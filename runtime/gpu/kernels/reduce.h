// Gradients of parameters as sums over rows, in an order that is a function of the shape: kernels sum blocks of rows to partial
// sums in the queue's scratch; these are then added in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "runtime/gpu/device.h"

namespace strata::STRATA_GPU {

// `count` rows of `width` floats; row k is of the rows [k * rows, min(R, (k + 1) * rows)).
struct Partials {
  float* data;
  std::int64_t count, rows, width;
};

// Whether the queue's scratch has `bytes`; if not, the queue fails in the name of `what`.
bool has_scratch(GpuQueue& queue, const char* what, std::int64_t bytes);

// Partial sums for R rows in the queue's scratch, or nothing when it is too small.
std::optional<Partials> make_partials(GpuQueue& queue, const char* what, std::int64_t R, std::int64_t width);

// sums[c] += the sum of column first + c, for c in [0, C).
void add_partials(const Partials& partials, std::int64_t first, std::int64_t C, float* sums, GpuQueue& queue);

}  // namespace strata::STRATA_GPU
