// Parameter initialisation as a pure function, so that any rank can draw its own slice.
#pragma once

#include <cstdint>
#include <span>

#include "model/unit.h"

namespace strata {

// Elements [first, first + out.size()) of the parameter's initial value, as it is stored. Depends on (seed, spec.name,
// spec.init) and the element only: the stream is stream_id("parameter/" + name). A transposed parameter has the values of the
// matrix (out, in), transposed; a slice of two rows and more takes about as long as one that is not transposed.
void init_parameter(const ParamSpec& spec, std::uint64_t seed, std::int64_t first, std::span<float> out);

}  // namespace strata
