// The gradient of one normalised row by a team of threads: what norm_backward.cu and head_norm.cu share.
#pragma once

#include <type_traits>

#include "runtime/gpu/kernels/normalise.h"

namespace strata::STRATA_GPU {

// Of shared memory for a block's column sums: what every device of compute capability 8 and up has, less what teams need.
inline constexpr std::int64_t kMostColumnBytes = 96 * 1024;

// A block's sums over its rows of the columns of a row; each thread adds to its own columns. Held: in shared memory, a place
// for every thread and slice, in packs that a warp reaches without bank conflicts. `order`: among the sums of this block.
template <class T>
struct HeldColumns {
  static constexpr int kCount = Slice<T>::kCount;
  static constexpr int kPack = Pack<float>::kCount;
  SharedArray<float> places;

  template <class Team>
  STRATA_DEVICE HeldColumns(int order, const RowCut& cut, const Team& team, float* /*partial*/)
      : places(places_of(order, cut, team)) {
    const int slots = slots_of(cut, team);
    for (int k = 0; k < slots; ++k)
      for (int j = 0; j < kCount; j += kPack) store_pack(places, place(k, j, thread_index()), Pack<float>{});
  }
  template <class Team>
  STRATA_DEVICE static int slots_of(const RowCut& cut, const Team& team) {
    return (cut.slices + team.size - 1) / team.size;
  }
  template <class Team>
  STRATA_DEVICE static SharedArray<float> places_of(int order, const RowCut& cut, const Team& team) {
    const int floats = slots_of(cut, team) * kCount * block_threads();
    return shared_array<float>(static_cast<int>(Team::kSharedBytes) + order * floats * static_cast<int>(sizeof(float)), floats);
  }
  STRATA_DEVICE static int place(int k, int j, int thread) {
    return ((k * kCount + j) / kPack * block_threads() + thread) * kPack + j % kPack;
  }
  STRATA_DEVICE void add(int k, int /*c*/, const float (&values)[kCount]) const {
    STRATA_UNROLL
    for (int j = 0; j < kCount; j += kPack) {
      const int at = place(k, j, thread_index());
      Pack<float> sums = load_pack(places, at);
      STRATA_UNROLL
      for (int i = 0; i < kPack; ++i) sums[i] += values[j + i];
      store_pack(places, at, sums);
    }
  }
  // Adds the teams of the block in order. Called by all threads after a barrier.
  template <class Team>
  STRATA_DEVICE void store(const RowCut& cut, const Team& team, float* partial) const {
    for (int c = thread_index(); c < cut.C; c += block_threads()) {
      const int slice = c / kCount;
      float total = 0.0f;
      for (int t = 0; t < team.teams_in_block(); ++t)
        total += places[place(slice / team.size, c % kCount, t * team.size + slice % team.size)];
      partial[c] = total;
    }
  }
};

// The same in the block's row of partial sums, for rows that are too long to be held.
template <class T>
struct LoopColumns {
  static constexpr int kCount = Slice<T>::kCount;
  float* partial;
  std::int64_t C;

  STRATA_DEVICE LoopColumns(int /*order*/, const RowCut& cut, const BlockTeam& team, float* to) : partial(to), C(cut.C) {
    for (int c = team.rank; c < cut.slices; c += team.size)
      for (int j = 0; j < kCount; ++j)
        if (const std::int64_t at = std::int64_t{c} * kCount + j; at < C) partial[at] = 0.0f;
  }
  STRATA_DEVICE void add(int /*k*/, int c, const float (&values)[kCount]) const {
    STRATA_UNROLL
    for (int j = 0; j < kCount; ++j)
      if (const std::int64_t at = std::int64_t{c} * kCount + j; at < C) partial[at] += values[j];
  }
  STRATA_DEVICE void store(const RowCut& /*cut*/, const BlockTeam& /*team*/, float* /*partial*/) const {}
};

template <class T, bool kHeld>
using ColumnSums = std::conditional_t<kHeld, HeldColumns<T>, LoopColumns<T>>;

// plan_team for a block that also has `sums` column sums.
template <class T>
TeamPlan plan_backward(std::int64_t C, int sums) {
  TeamPlan plan = plan_team<T>(C);
  if (plan.kind == TeamKind::block_loop) return plan;
  const std::int64_t team = plan.kind == TeamKind::lanes ? plan.lanes : plan.threads;
  const std::int64_t slots = blocks_for(blocks_for(C, Pack<T>::kCount), team);
  const std::int64_t bytes = sums * slots * Pack<T>::kCount * plan.threads * static_cast<std::int64_t>(sizeof(float));
  if (bytes > kMostColumnBytes) return {TeamKind::block_loop, 0, kMostTeamThreads, BlockTeam::kSharedBytes};
  plan.shared_bytes += static_cast<std::size_t>(bytes);
  return plan;
}

template <class T>
struct BackwardRow {
  const T* dy;
  const T* s;
  const T* dresidual;  // null: none
  T* dx;
  float mean, rstd;
};

// With g = dy w and h = (s - mean) rstd:  dx = rstd (g - mean(g) - h mean(g h));  rms has no mean(g).
// dw += dy h, db += dy (kBias). Like normalise() to be called for a row that does not exist.
template <class T, bool kLayer, bool kBias, bool kHeld, class Team>
STRATA_DEVICE void normalise_backward(const BackwardRow<T>& row, const T* __restrict__ w, const RowCut& cut, Team& team,
                                      const ColumnSums<T, kHeld>& dw, const ColumnSums<T, kHeld>& db) {
  constexpr int kCount = Slice<T>::kCount;
  const int rounds = rounds_of<kHeld>(cut, team.size);
  const auto first_of = [&](int round) { return round * kSlices * team.size + team.rank; };
  const float mean = kLayer ? row.mean : 0.0f;
  Portion<T> dy, s, other;

  float sums[kLayer ? 2 : 1] = {};  // of g h, of g
  for (int round = 0; round < rounds; ++round) {
    const int first = first_of(round);
    dy.load(row.dy, cut, first, team.size);
    s.load(row.s, cut, first, team.size);
    if (kHeld && row.dresidual != nullptr) other.load(row.dresidual, cut, first, team.size);
    STRATA_UNROLL
    for (int k = 0; k < kSlices; ++k) {
      const int c = first + k * team.size;
      if (c >= cut.slices) continue;
      Slice<T> weight;
      weight.load(w, cut, c);
      float d[kCount], dh[kCount];
      STRATA_UNROLL
      for (int j = 0; j < kCount; ++j) {
        const float h = (s.slices[k][j] - mean) * row.rstd;
        d[j] = dy.slices[k][j];
        dh[j] = d[j] * h;
        const float g = d[j] * weight[j];
        sums[0] += g * h;
        if constexpr (kLayer) sums[1] += g;
      }
      dw.add(k, c, dh);
      if constexpr (kBias) db.add(k, c, d);
    }
  }
  team.sum(sums);
  const float mean_gh = div_rn(sums[0], static_cast<float>(cut.C));
  float mean_g = 0.0f;
  if constexpr (kLayer) mean_g = div_rn(sums[1], static_cast<float>(cut.C));

  for (int round = 0; round < rounds; ++round) {
    const int first = first_of(round);
    if (!kHeld) {
      dy.load(row.dy, cut, first, team.size);
      s.load(row.s, cut, first, team.size);
      if (row.dresidual != nullptr) other.load(row.dresidual, cut, first, team.size);
    }
    STRATA_UNROLL
    for (int k = 0; k < kSlices; ++k) {
      const int c = first + k * team.size;
      if (c >= cut.slices) continue;
      Slice<T> weight;
      weight.load(w, cut, c);
      STRATA_UNROLL
      for (int j = 0; j < kCount; ++j) {
        const float g = dy.slices[k][j] * weight[j];
        const float h = (s.slices[k][j] - mean) * row.rstd;
        dy.slices[k].set(j, (g - mean_g - h * mean_gh) * row.rstd + other.slices[k][j]);
      }
      dy.slices[k].store(row.dx, cut, c);
    }
  }
}

}  // namespace strata::STRATA_GPU
