// What an element-wise update reads and writes, whichever optimizer computes it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "optim/state_format.h"
#include "optim/stateful_map.h"
#include "runtime/dtype.h"

namespace strata {

// f32 values that an optimizer keeps for each parameter, besides the parameter itself, at most.
inline constexpr int kMaxStates = 2;

// n elements of one parameter group, f32 but for what has 16 in its name. The arrays do not overlap; any alignment of the
// element type will do. Elements do not depend on each other: any cutting into slices gives the same bits. A NaN result is
// stored as 0x7fc00000 (p16: 0x7fc0), because processors disagree on the NaN they produce. Denormals are kept; callers' threads
// must not set FTZ/DAZ. Speed: arrays whose distances are multiples of a large power of two (arrays of 2^k elements laid end to
// end) meet in the same memory banks and run at half the rate; keep them off by 16 KiB or more.
struct UpdateSlice {
  float* p = nullptr;
  std::array<float*, kMaxStates> states{};  // the first ones, as many as the optimizer has
  const float* g = nullptr;
  const bf16* g16 = nullptr;  // if any, the gradient is this and not g
  bf16* p16 =
      nullptr;  // optional: receives p rounded to bf16; written past the caches, and visible to all when the call returns
  std::int64_t n = 0;
  // All or none: what p and the states become goes here, and they are only read.
  float* new_p = nullptr;
  std::array<float*, kMaxStates> new_states{};
  // States of an optimizer that has another format than f32 (Optimizer::state_format()); `states` and new_states are then
  // unused, all elements have states, and the slice begins at a block of the format.
  StateFormat format = kF32States;
  std::array<std::byte*, kMaxStates> packed{}, new_packed{};
  std::uint64_t stream = 0;       // of the parameter's noise (state_noise.h)
  std::int64_t steps_before = 0;  // of the run, in which updates were not counted: noise is numbered by the run's steps
  // Which elements have states, where not all do: the slice begins at element `first` (flat, row-major) of the map's matrix,
  // and states and new_states with those of the first element from there on that has some, without gaps.
  StatefulMap map{.kind = StatefulKind::all};
  std::int64_t first = 0;                // also where `packed` is used: of the parameter
  std::int64_t states_before_first = 0;  // of the matrix
  bool states_are_zero = false;          // whatever is stored, which may be anything
};

// Elements of a thread's task: its arrays (1.1 MiB for AdamW) are large against the cost of handing it out, small against a
// record.
inline constexpr std::int64_t kUpdateBlock = std::int64_t{1} << 16;

// Elements [begin, begin + n) of the slice; begin: where a block of the format begins. The map's words are in host memory.
UpdateSlice part(const UpdateSlice& slice, std::int64_t begin, std::int64_t n);

}  // namespace strata
