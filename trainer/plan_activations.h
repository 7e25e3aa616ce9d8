// What becomes of what units keep for their backward where the plan chooses it.
#pragma once

#include "trainer/plan_rehearsal.h"

namespace strata {

// Chooses the placement of activations, and with each that is tried every other home (plan_placement.h).
Result<Plan> place_activations(const PlanContext& context, const EngineOptions& options);

}  // namespace strata
