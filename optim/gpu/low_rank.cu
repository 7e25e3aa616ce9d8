// The passes of APOLLO and GaLore over blocks of rows (low_rank.h) on a GPU: the bits of low_rank_simd.cpp.
#include <algorithm>

#include "optim/gpu/low_rank.h"
#include "optim/gpu/update_ops.h"
#include "optim/late_decay_rules.h"
#include "optim/low_rank_rules.h"
#include "runtime/gpu/kernels/reduce.h"
#include "runtime/gpu/kernels/units.h"

namespace strata::STRATA_GPU {
namespace {

// A product's tile: 16 x 16 threads, each with every 16th row and column of it.
constexpr int kTile = 64;
constexpr int kTileDepth = 16;
constexpr int kSide = 16;
constexpr int kSpan = kTile / kSide;
constexpr int kStride = kTile + 1;  // neighbours along the depth are in different banks
constexpr int kTileFloats = kTileDepth * kStride;
constexpr std::size_t kTileBytes = 2 * kTileFloats * sizeof(float);
constexpr int kLoads = kTile * kTileDepth / kThreads;
static_assert(kSide * kSide == kThreads);

// Sums over the inner dim of a tile's kSpan x kSpan elements, each from +0 by fma in the dim's order. a(row, depth) and
// b(depth, column) give the operands; kDepthFirst: neighbours in memory are neighbours along the depth in b too. Behind the
// dim's end a is +0 and b is -0, whose product changes no sum, not even one of -0.
template <bool kDepthFirst, class A, class B>
STRATA_DEVICE void multiply_tiles(std::int64_t depth, A a, B b, float (&sums)[kSpan][kSpan]) {
  const auto of_a = shared_array<float>(0, kTileFloats);
  const auto of_b = shared_array<float>(kTileFloats * static_cast<int>(sizeof(float)), kTileFloats);
  const int x = thread_index() % kSide, y = thread_index() / kSide;
  STRATA_UNROLL
  for (int i = 0; i < kSpan; ++i) {
    STRATA_UNROLL
    for (int j = 0; j < kSpan; ++j) sums[i][j] = 0.0f;
  }
  for (std::int64_t first = 0; first < depth; first += kTileDepth) {
    STRATA_UNROLL
    for (int load = 0; load < kLoads; ++load) {
      const int e = thread_index() + load * kThreads;
      of_a[e % kTileDepth * kStride + e / kTileDepth] = a(e / kTileDepth, first + e % kTileDepth);
      const int d = kDepthFirst ? e % kTileDepth : e / kTile, column = kDepthFirst ? e / kTileDepth : e % kTile;
      of_b[d * kStride + column] = b(first + d, column);
    }
    sync_block();
    STRATA_UNROLL
    for (int d = 0; d < kTileDepth; ++d) {
      float left[kSpan], right[kSpan];
      STRATA_UNROLL
      for (int i = 0; i < kSpan; ++i) {
        left[i] = of_a[d * kStride + y + i * kSide];
        right[i] = of_b[d * kStride + x + i * kSide];
      }
      STRATA_UNROLL
      for (int i = 0; i < kSpan; ++i) {
        STRATA_UNROLL
        for (int j = 0; j < kSpan; ++j) sums[i][j] = fma_rn(left[i], right[j], sums[i][j]);
      }
    }
    sync_block();
  }
}

// r = g' P.
template <class G>
STRATA_KERNEL project_kernel(const G* g, const float* projection, std::int64_t rows, std::int64_t columns, std::int64_t rank,
                             float grad_scale, float* r) {
  const std::int64_t first_row = block_x() * kTile, first_column = block_y() * kTile;
  float sums[kSpan][kSpan];
  multiply_tiles<false>(
      columns,
      [=](int row, std::int64_t j) {
        const bool inside = first_row + row < rows && j < columns;
        return inside ? mul_rn(get(g + (first_row + row) * columns + j), grad_scale) : 0.0f;
      },
      [=](std::int64_t j, int column) {
        const bool inside = j < columns && first_column + column < rank;
        return inside ? projection[j * rank + first_column + column] : -0.0f;
      },
      sums);
  const int x = thread_index() % kSide, y = thread_index() / kSide;
  STRATA_UNROLL
  for (int i = 0; i < kSpan; ++i) {
    const std::int64_t row = first_row + y + i * kSide;
    STRATA_UNROLL
    for (int j = 0; j < kSpan; ++j) {
      const std::int64_t column = first_column + x + j * kSide;
      if (row < rows && column < rank) r[row * rank + column] = sums[i][j];
    }
  }
}

// p moves against N P^T.
STRATA_KERNEL project_back_kernel(const float* n, const float* projection, std::int64_t rows, std::int64_t columns,
                                  std::int64_t rank, float minus_step, float decay_factor, const float* p, float* new_p,
                                  bf16* p16) {
  const std::int64_t first_row = block_x() * kTile, first_column = block_y() * kTile;
  float sums[kSpan][kSpan];
  multiply_tiles<true>(
      rank,
      [=](int row, std::int64_t k) {
        const bool inside = first_row + row < rows && k < rank;
        return inside ? n[(first_row + row) * rank + k] : 0.0f;
      },
      [=](std::int64_t k, int column) {
        const bool inside = k < rank && first_column + column < columns;
        return inside ? projection[(first_column + column) * rank + k] : -0.0f;
      },
      sums);
  const int x = thread_index() % kSide, y = thread_index() / kSide;
  STRATA_UNROLL
  for (int i = 0; i < kSpan; ++i) {
    const std::int64_t row = first_row + y + i * kSide;
    STRATA_UNROLL
    for (int j = 0; j < kSpan; ++j) {
      const std::int64_t column = first_column + x + j * kSide;
      if (row < rows && column < columns) {
        const std::int64_t at = row * columns + column;
        const float moved = Ops::canonical(mul_rn(fma_rn(minus_step, sums[i][j], p[at]), decay_factor));
        new_p[at] = moved;
        if (p16 != nullptr) put(moved, p16 + at);
      }
    }
  }
}

// p moves against D P^T, and against the rule of what R P^T leaves of the gradient.
template <class G>
STRATA_KERNEL split_back_kernel(const float* d, const float* r, const float* projection, const G* g, std::int64_t rows,
                                std::int64_t columns, std::int64_t rank, float grad_scale, SplitStep<Ops> rule, const float* p,
                                float* new_p, bf16* p16) {
  const std::int64_t first_row = block_x() * kTile, first_column = block_y() * kTile;
  float steps[kSpan][kSpan], seen[kSpan][kSpan];
  const auto back = [=](std::int64_t k, int column) {
    const bool inside = k < rank && first_column + column < columns;
    return inside ? projection[(first_column + column) * rank + k] : -0.0f;
  };
  const auto from = [=](const float* values) {
    return [=](int row, std::int64_t k) {
      const bool inside = first_row + row < rows && k < rank;
      return inside ? values[(first_row + row) * rank + k] : 0.0f;
    };
  };
  multiply_tiles<true>(rank, from(d), back, steps);
  multiply_tiles<true>(rank, from(r), back, seen);
  const int x = thread_index() % kSide, y = thread_index() / kSide;
  STRATA_UNROLL
  for (int i = 0; i < kSpan; ++i) {
    const std::int64_t row = first_row + y + i * kSide;
    STRATA_UNROLL
    for (int j = 0; j < kSpan; ++j) {
      const std::int64_t column = first_column + x + j * kSide;
      if (row < rows && column < columns) {
        const std::int64_t at = row * columns + column;
        const float moved = rule.update(p[at], mul_rn(get(g + at), grad_scale), steps[i][j], seen[i][j]);
        new_p[at] = moved;
        if (p16 != nullptr) put(moved, p16 + at);
      }
    }
  }
}

STRATA_DEVICE double canonical(double x) { return x != x ? __builtin_nan("") : x; }
STRATA_DEVICE double total(double sum) {
  for (int half = kSquareLanes / 2; half > 0; half /= 2) sum = add_rn(sum, shuffle_xor(sum, half));
  return canonical(sum);
}
STRATA_DEVICE double add_square(double sum, float x) {
  return add_rn(sum, mul_rn(static_cast<double>(x), static_cast<double>(x)));
}

// A row has 16 threads, one a lane of its sums.
struct RowLane {
  std::int64_t row;
  int lane;
};
STRATA_DEVICE RowLane row_lane() {
  const std::int64_t thread = block_x() * block_threads() + thread_index();
  return {thread / kSquareLanes, static_cast<int>(thread % kSquareLanes)};
}
Grid grid_of_rows(std::int64_t rows) { return {.x = blocks_for(rows * kSquareLanes, kThreads)}; }

// Replaces r by N.
STRATA_KERNEL moments_kernel(LowRankBlock b, MomentsRule<Ops> rule, float* r) {
  const auto [row, lane] = row_lane();
  if (row >= b.rows) return;
  for (std::int64_t k = lane; k < b.rank; k += kSquareLanes) {
    const std::int64_t at = row * b.rank + k;
    float m = b.m[at], v = b.v[at];
    r[at] = rule.update(r[at], m, v);
    b.new_m[at] = m;
    b.new_v[at] = v;
  }
}

// d = what `rule` makes of r and the states. kept: bits of the stored states; none: they are zero.
template <class Rule>
STRATA_KERNEL directions_kernel(LowRankBlock b, Rule rule, std::uint32_t kept, const float* r, float* d) {
  const auto [row, lane] = row_lane();
  if (row >= b.rows) return;
  for (std::int64_t k = lane; k < b.rank; k += kSquareLanes) {
    const std::int64_t at = row * b.rank + k;
    float m = bits_to_float(float_to_bits(b.m[at]) & kept), v = 0.0f;
    if (Rule::kStates == 2) v = bits_to_float(float_to_bits(b.v[at]) & kept);
    d[at] = rule.update(r[at], m, v);
    b.new_m[at] = m;
    if (Rule::kStates == 2) b.new_v[at] = v;
  }
}

// With the norms and the factor of each row.
STRATA_KERNEL row_factors_kernel(LowRankBlock b, MomentsRule<Ops> rule, const float* r, RowResults results) {
  const auto [row, lane] = row_lane();
  double r_sum = 0.0, n_sum = 0.0;
  if (row < b.rows) {
    for (std::int64_t k = lane; k < b.rank; k += kSquareLanes) {
      const std::int64_t at = row * b.rank + k;
      float m = b.m[at], v = b.v[at];
      const float projected = r[at];
      n_sum = add_square(n_sum, rule.update(projected, m, v));
      r_sum = add_square(r_sum, projected);
      b.new_m[at] = m;
      b.new_v[at] = v;
    }
  }
  r_sum = total(r_sum);
  n_sum = total(n_sum);
  if (lane != 0 || row >= b.rows) return;
  results.r_squares[row] = r_sum;
  results.n_squares[row] = n_sum;
  results.s[row] = Ops::canonical(static_cast<float>(div_rn(sqrt_rn(n_sum), add_rn(sqrt_rn(r_sum), kNormEps))));
}

template <class G>
STRATA_KERNEL row_squares_kernel(const G* g, std::int64_t rows, std::int64_t columns, float grad_scale, double* g_squares) {
  const auto [row, lane] = row_lane();
  double sum = 0.0;
  if (row < rows)
    for (std::int64_t j = lane; j < columns; j += kSquareLanes)
      sum = add_square(sum, mul_rn(get(g + row * columns + j), grad_scale));
  sum = total(sum);
  if (lane == 0 && row < rows) g_squares[row] = sum;
}

// One row a run of blocks. minus_step: of the matrix. phase: of the first row in every array.
template <class G>
STRATA_KERNEL scale_rows_kernel(const G* g, const float* s, WeightRows weights, ScaledGradientRule<Ops> rule, double minus_step,
                                std::int64_t columns, std::int64_t blocks_a_row, int phase) {
  const std::int64_t row = block_x() / blocks_a_row, block = block_x() % blocks_a_row, at = row * columns;
  const Units units = {columns, phase == kNoPhase ? kNoPhase : static_cast<int>((phase + at) % kUnit)};
  const Unit unit = units[block * block_threads() + thread_index()];
  if (s != nullptr) minus_step = mul_rn(minus_step, static_cast<double>(s[row]));
  rule.minus_step_size = static_cast<float>(minus_step);
  float p[kUnit], gradient[kUnit];
  load_unit(static_cast<const float*>(weights.p + at), unit, 0.0f, p);
  load_unit(g + at, unit, 0.0f, gradient);
  for (int i = 0; i < kUnit; ++i) rule.update(p[i], nullptr, gradient[i]);
  store_unit(p, weights.new_p + at, unit);
  if (weights.p16 != nullptr) store_unit(p, weights.p16 + at, unit);
}

LowRankBlock with_results(LowRankBlock block) {
  if (block.new_m == nullptr) block.new_m = block.m, block.new_v = block.v;
  return block;
}

LowRankBlock rows_of(LowRankBlock block, std::int64_t first, std::int64_t rows) {
  block.rows = rows;
  if (block.g != nullptr) block.g += first * block.columns;
  if (block.g16 != nullptr) block.g16 += first * block.columns;
  for (float** states : {&block.m, &block.v, &block.new_m, &block.new_v})
    if (*states != nullptr) *states += first * block.rank;
  return block;
}

template <class G>
void launch_project(const LowRankBlock& b, const G* g, float grad_scale, float* r, GpuQueue& queue) {
  launch(queue, project_kernel<G>, {.x = blocks_for(b.rows, kTile), .y = blocks_for(b.rank, kTile)}, kThreads, kTileBytes, g,
         b.projection, b.rows, b.columns, b.rank, grad_scale, r);
}

// body(rows, first, r) for as many rows at a time as the scratch has room for, with their R, and behind it `more` times as much
// memory.
template <class Body>
void for_rows(const char* what, const LowRankBlock& whole, float grad_scale, int more, GpuQueue& queue, Body body) {
  const std::int64_t bytes_a_row = (1 + more) * whole.rank * static_cast<std::int64_t>(sizeof(float));
  if (whole.rows == 0 || !has_scratch(queue, what, bytes_a_row)) return;
  std::int64_t most = static_cast<std::int64_t>(queue.scratch().size()) / bytes_a_row;
  if (most > kTile) most -= most % kTile;
  auto* r = reinterpret_cast<float*>(queue.scratch().data());
  for (std::int64_t first = 0; first < whole.rows; first += most) {
    const LowRankBlock b = rows_of(with_results(whole), first, std::min(most, whole.rows - first));
    if (b.g16 != nullptr)
      launch_project(b, b.g16, grad_scale, r, queue);
    else
      launch_project(b, b.g, grad_scale, r, queue);
    body(b, first, r);
  }
}

template <class G>
void apply_from(const LowRankBlock& b, const G* g, const float* s, WeightRows weights, const ApplyScalars& scalars,
                GpuQueue& queue) {
  if (weights.new_p == nullptr) weights.new_p = weights.p;
  const int phase = weights.p16 == nullptr ? common_phase(weights.p, weights.new_p, g)
                                           : common_phase(weights.p, weights.new_p, g, weights.p16);
  const std::int64_t blocks = blocks_for(b.columns + kUnit, std::int64_t{kUnit} * kThreads);
  const ScaledGradientRule<Ops> rule(ScaledGradientScalars{.decay_factor = scalars.decay_factor,
                                                           .grad_scale = scalars.grad_scale});  // the kernel knows the step
  launch(queue, scale_rows_kernel<G>, {.x = b.rows * blocks}, kThreads, 0, g, s, weights, rule, -scalars.step, b.columns,
         blocks, phase);
}

template <class Rule>
void launch_directions(const LowRankBlock& b, const DirectionScalars& scalars, const float* r, float* d, GpuQueue& queue) {
  launch(queue, directions_kernel<Rule>, grid_of_rows(b.rows), kThreads, 0, b, Rule(scalars),
         scalars.states_are_zero ? 0u : ~0u, r, d);
}

template <class G>
void launch_split_back(const LowRankBlock& b, const G* g, const float* r, const float* d, const WeightRows& weights,
                       std::int64_t at, const SubspaceScalars& scalars, GpuQueue& queue) {
  float* new_p = weights.new_p != nullptr ? weights.new_p : weights.p;
  launch(queue, split_back_kernel<G>, {.x = blocks_for(b.rows, kTile), .y = blocks_for(b.columns, kTile)}, kThreads, kTileBytes,
         d, r, b.projection, g, b.rows, b.columns, b.rank, scalars.rest.grad_scale, SplitStep<Ops>(scalars),
         static_cast<const float*>(weights.p + at), new_p + at, weights.p16 != nullptr ? weights.p16 + at : nullptr);
}

}  // namespace

void apollo_project(const LowRankBlock& block, const LowRankScalars& scalars, const RowResults& results, GpuQueue& queue) {
  for_rows("apollo_project", block, scalars.grad_scale, 0, queue, [&](const LowRankBlock& b, std::int64_t first, float* r) {
    const RowResults of_rows = {results.s + first, results.g_squares + first, results.r_squares + first,
                                results.n_squares + first};
    launch(queue, row_factors_kernel, grid_of_rows(b.rows), kThreads, 0, b, MomentsRule<Ops>(scalars),
           static_cast<const float*>(r), of_rows);
    if (b.g16 != nullptr)
      launch(queue, row_squares_kernel<bf16>, grid_of_rows(b.rows), kThreads, 0, b.g16, b.rows, b.columns, scalars.grad_scale,
             of_rows.g_squares);
    else
      launch(queue, row_squares_kernel<float>, grid_of_rows(b.rows), kThreads, 0, b.g, b.rows, b.columns, scalars.grad_scale,
             of_rows.g_squares);
  });
}

void apollo_apply(const LowRankBlock& block, const float* s, const WeightRows& weights, const ApplyScalars& scalars,
                  GpuQueue& queue) {
  if (block.g16 != nullptr) return apply_from(block, block.g16, s, weights, scalars, queue);
  apply_from(block, block.g, s, weights, scalars, queue);
}

void galore(const LowRankBlock& block, const WeightRows& weights, const GaloreScalars& scalars, GpuQueue& queue) {
  for_rows("galore", block, scalars.moments.grad_scale, 0, queue, [&](const LowRankBlock& b, std::int64_t first, float* r) {
    launch(queue, moments_kernel, grid_of_rows(b.rows), kThreads, 0, b, MomentsRule<Ops>(scalars.moments), r);
    const std::int64_t at = first * b.columns;
    float* new_p = weights.new_p != nullptr ? weights.new_p : weights.p;
    launch(queue, project_back_kernel, {.x = blocks_for(b.rows, kTile), .y = blocks_for(b.columns, kTile)}, kThreads,
           kTileBytes, static_cast<const float*>(r), b.projection, b.rows, b.columns, b.rank, -scalars.step_size,
           scalars.decay_factor, static_cast<const float*>(weights.p + at), new_p + at,
           weights.p16 != nullptr ? weights.p16 + at : nullptr);
  });
}

void subspace(const LowRankBlock& block, const WeightRows& weights, const SubspaceScalars& scalars, GpuQueue& queue) {
  for_rows("subspace", block, scalars.rest.grad_scale, 1, queue, [&](const LowRankBlock& b, std::int64_t first, float* r) {
    float* d = r + b.rows * b.rank;
    switch (scalars.direction.kind) {
      case DirectionKind::adamw: launch_directions<AdamWDirection<Ops>>(b, scalars.direction, r, d, queue); break;
      case DirectionKind::lion: launch_directions<LionDirection<Ops>>(b, scalars.direction, r, d, queue); break;
      case DirectionKind::momentum: launch_directions<MomentumDirection<Ops>>(b, scalars.direction, r, d, queue); break;
    }
    const std::int64_t at = first * b.columns;
    if (b.g16 != nullptr)
      launch_split_back(b, b.g16, r, d, weights, at, scalars, queue);
    else
      launch_split_back(b, b.g, r, d, weights, at, scalars, queue);
  });
}

}  // namespace strata::STRATA_GPU
