// Normalising one row by a team of threads: what norm.cu and head_norm.cu share. Threads keep the slices of a
// row between the passes (kHeld), or read them again where a row is too long.
#pragma once

#include "runtime/gpu/kernels/rows.h"

namespace strata::STRATA_GPU {

template <bool kHeld>
STRATA_DEVICE int rounds_of(const RowCut& cut, int team_size) {
  return kHeld ? 1 : (cut.slices + team_size * kSlices - 1) / (team_size * kSlices);
}

template <class T>
struct ForwardRow {
  const T* x;
  const T* residual;  // null: none
  T* sum;             // with residual
  T* y;
  float* mean;  // layer only
  float* rstd;
};

// Of a row that does not exist (cut.slices == 0) nothing is touched; its threads call this all the same, for the sums.
template <class T, bool kLayer, bool kHeld, class Team>
STRATA_DEVICE void normalise(const ForwardRow<T>& row, const T* __restrict__ w, const T* __restrict__ b, const RowCut& cut,
                             float eps, Team& team) {
  const int rounds = rounds_of<kHeld>(cut, team.size);
  const auto first_of = [&](int round) { return round * kSlices * team.size + team.rank; };
  const T* stored = row.residual != nullptr ? row.sum : row.x;
  Portion<T> s;

  float total[1] = {0.0f};
  for (int round = 0; round < rounds; ++round) {
    const int first = first_of(round);
    s.load(row.x, cut, first, team.size);
    if (row.residual != nullptr) {
      Portion<T> other;  // all loads before the first store, which may be in place
      other.load(row.residual, cut, first, team.size);
      STRATA_UNROLL
      for (int k = 0; k < kSlices; ++k) {
        const int c = first + k * team.size;
        if (c >= cut.slices) continue;
        STRATA_UNROLL
        for (int j = 0; j < Slice<T>::kCount; ++j) s.slices[k].set(j, s.slices[k][j] + other.slices[k][j]);
        s.slices[k].store(row.sum, cut, c);
      }
    }
    if constexpr (kLayer) {
      STRATA_UNROLL
      for (int k = 0; k < kSlices; ++k) {
        if (first + k * team.size >= cut.slices) continue;
        STRATA_UNROLL
        for (int j = 0; j < Slice<T>::kCount; ++j) total[0] += s.slices[k][j];
      }
    }
  }
  const auto count = static_cast<float>(cut.C);
  if (kLayer) team.sum(total);
  const float mean = kLayer ? div_rn(total[0], count) : 0.0f;

  float squares[1] = {0.0f};
  for (int round = 0; round < rounds; ++round) {
    const int first = first_of(round);
    if (!kHeld) s.load(stored, cut, first, team.size);
    STRATA_UNROLL
    for (int k = 0; k < kSlices; ++k) {
      const int c = first + k * team.size;
      if (c >= cut.slices) continue;
      const std::int64_t live = cut.C - std::int64_t{c} * Slice<T>::kCount;
      STRATA_UNROLL
      for (int j = 0; j < Slice<T>::kCount; ++j) {
        const float d = j < live ? s.slices[k][j] - mean : 0.0f;
        squares[0] += d * d;
      }
    }
  }
  team.sum(squares);
  const float rstd = div_rn(1.0f, sqrt_rn(div_rn(squares[0], count) + eps));

  if (cut.slices > 0 && team.rank == 0) {
    if (kLayer) *row.mean = mean;
    *row.rstd = rstd;
  }
  for (int round = 0; round < rounds; ++round) {
    const int first = first_of(round);
    if (!kHeld) s.load(stored, cut, first, team.size);
    STRATA_UNROLL
    for (int k = 0; k < kSlices; ++k) {
      const int c = first + k * team.size;
      if (c >= cut.slices) continue;
      Slice<T> weight, bias;
      weight.load(w, cut, c);
      if (kLayer && b != nullptr) bias.load(b, cut, c);
      STRATA_UNROLL
      for (int j = 0; j < Slice<T>::kCount; ++j) s.slices[k].set(j, (s.slices[k][j] - mean) * rstd * weight[j] + bias[j]);
      s.slices[k].store(row.y, cut, c);
    }
  }
}

}  // namespace strata::STRATA_GPU
