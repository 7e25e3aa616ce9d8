#include "optim/state_noise.h"

#include <string>

#include "runtime/rng.h"

namespace strata {

StateNoise state_noise(std::uint64_t seed, const UpdateSlice& slice, std::int64_t step) {
  const std::uint64_t key = Philox(seed, slice.stream).u64(0), number = static_cast<std::uint64_t>(slice.steps_before + step);
  return {.key = {static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)},
          .step = {static_cast<std::uint32_t>(number), static_cast<std::uint32_t>(number >> 32)},
          .first = slice.first};
}

std::uint64_t state_noise_stream(std::string_view param) { return stream_id("state noise/" + std::string(param)); }

}  // namespace strata
