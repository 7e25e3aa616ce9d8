// The random bits that round states stochastically: words of Philox4x32-10 (runtime/rng.h), a function of the run's seed, the
// parameter's name, the update's number and the element's index in the parameter. So however parameters are cut and wherever
// they are updated the noise is the same, and no two updates have the same.
//
// Element i has word i % 4 of block i / 4; its state k is rounded by the 16 bits from bit 16 k on: they are added to its f32
// bits, whose upper half is then kept. A value is rounded away from zero with the probability that makes the mean exact (as
// long as neighbours in bf16 are as far apart on both sides of it); what bf16 has never moves; infinities and NaN stay.
#pragma once

#include <cstdint>
#include <string_view>

#include "optim/update_slice.h"

namespace strata {

struct StateNoise {
  std::uint32_t key[2], step[2];
  std::int64_t first;  // element of the slice's first, in the parameter
};
// slice: its stream, first element and steps before.
StateNoise state_noise(std::uint64_t seed, const UpdateSlice& slice, std::int64_t step);
// Of a parameter: UpdateSlice::stream.
std::uint64_t state_noise_stream(std::string_view param);

}  // namespace strata
