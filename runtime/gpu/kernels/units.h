// How flat ranges of any alignment are walked: by units of 8 elements, which are whole 16-byte accesses in arrays of 2-byte
// and of 4-byte elements alike; the elements before the first and behind the last whole unit are accessed one by one.
#pragma once

#include <cstdint>

#include "runtime/gpu/device.h"
#include "runtime/gpu/kernels/access.h"
#include "runtime/host_device.h"

namespace strata::STRATA_GPU {

inline constexpr int kUnit = 8;
inline constexpr int kNoPhase = -1;

// By how many elements all the arrays begin behind a multiple of 16 bytes; kNoPhase where they differ.
template <class... T>
STRATA_HOST_DEVICE inline int common_phase(const T*... arrays) {
  for (int phase = 0; phase < kUnit; ++phase)
    if ((((reinterpret_cast<std::uintptr_t>(arrays) - static_cast<std::uintptr_t>(phase) * sizeof(T)) % 16 == 0) && ...))
      return phase;
  return kNoPhase;
}

// Elements [first, first + kUnit) of a range [0, n), of which those outside it are neither read nor written.
struct Unit {
  std::int64_t first, n;
  bool whole;  // all inside, and every array of the phase is aligned here
  STRATA_DEVICE bool contains(int k) const { return first + k >= 0 && first + k < n; }
};

// The units of [0, n) in arrays of one phase. Unit 0 begins `phase` elements before the range.
struct Units {
  std::int64_t n;
  int phase;

  STRATA_HOST_DEVICE std::int64_t count() const { return (n + shift() + kUnit - 1) / kUnit; }
  STRATA_DEVICE Unit operator[](std::int64_t i) const {
    const std::int64_t first = i * kUnit - shift();
    return {first, n, phase != kNoPhase && first >= 0 && first + kUnit <= n};
  }

 private:
  STRATA_HOST_DEVICE int shift() const { return phase == kNoPhase ? 0 : phase; }
};

// The elements of a unit as f32; `outside` for those outside the range.
template <class T>
STRATA_DEVICE void load_unit(const T* from, const Unit& unit, float outside, float (&values)[kUnit]) {
  if (unit.whole) {
    for (int part = 0; part < kUnit; part += Pack<T>::kCount) {
      const Pack<T> pack = load_pack(from + unit.first + part);
      for (int k = 0; k < Pack<T>::kCount; ++k) values[part + k] = get(&pack[k]);
    }
  } else {
    for (int k = 0; k < kUnit; ++k) values[k] = unit.contains(k) ? get(from + unit.first + k) : outside;
  }
}

template <class T>
STRATA_DEVICE void store_unit(const float (&values)[kUnit], T* to, const Unit& unit) {
  if (unit.whole) {
    for (int part = 0; part < kUnit; part += Pack<T>::kCount) {
      Pack<T> pack;
      for (int k = 0; k < Pack<T>::kCount; ++k) put(values[part + k], &pack[k]);
      store_pack(to + unit.first + part, pack);
    }
  } else {
    for (int k = 0; k < kUnit; ++k)
      if (unit.contains(k)) put(values[k], to + unit.first + k);
  }
}

// One thread a unit.
inline Grid grid_of(const Units& units) { return {.x = blocks_for(units.count(), kThreads)}; }
STRATA_DEVICE Unit unit_of_thread(const Units& units) { return units[block_x() * block_threads() + thread_index()]; }

}  // namespace strata::STRATA_GPU
