#include "model/init.h"

#include <algorithm>

#include "runtime/rng.h"

namespace strata {

void init_parameter(const ParamSpec& spec, std::uint64_t seed, std::int64_t first, std::span<float> out) {
  STRATA_CHECK(first >= 0 && first + static_cast<std::int64_t>(out.size()) <= spec.shape.numel(), "slice outside " + spec.name);
  if (spec.init.kind == Init::Kind::constant) {
    std::fill(out.begin(), out.end(), spec.init.mean);
    return;
  }
  Philox(seed, stream_id("parameter/" + spec.name))
      .normal(static_cast<std::uint64_t>(first), spec.init.mean, spec.init.stddev, out);
}

}  // namespace strata
