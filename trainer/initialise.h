// Fresh parameters.
#pragma once

#include <cstdint>

#include "model/unit.h"
#include "trainer/engine.h"

namespace strata {

// Collective, blocking: every parameter drawn from (seed, its name), whatever the layout; moments and padding zero.
Status initialise_parameters(Engine& engine, const Model& model, std::uint64_t seed);

}  // namespace strata
