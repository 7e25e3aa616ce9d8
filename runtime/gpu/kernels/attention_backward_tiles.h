// What both backward kernels of attention on tensor cores share. A block owns 64 rows (keys or queries) and streams tiles of
// the other kind.
#pragma once

#include "runtime/gpu/kernels/attention_tiles.h"

namespace strata::STRATA_GPU {

template <int kColumns>
struct Backward {
  static constexpr int kWarps = 4, kThreads = kWarps * kWarp, kOwned = kWarps * kWarpRows;
  static constexpr int kStreamed = kColumns <= 128 ? 32 : 16;
  static constexpr int kBlocks = kColumns <= 64 ? 3 : kColumns <= 128 ? 2 : 1;  // on a multiprocessor
  using Stream = SharedTile<kStreamed, kColumns, 2>;
};

// What a row of probabilities needs beside its scores.
struct RowStatistics {
  float shift;  // -log2(e) * lse
  float delta;
};
// A score becomes its probability, and the gradient of the probability that of the score, without the factor scale.
STRATA_DEVICE void softmax_backward(float& score, float& gradient, bool masked, float factor, const RowStatistics& row) {
  score = masked ? 0.0f : exp2_flushed(fma_rn(score, factor, row.shift));
  gradient = score * (gradient - row.delta);
}

}  // namespace strata::STRATA_GPU
