// Homes of parameters, gradient sums and optimizer state where the plan chooses them.
#pragma once

#include "trainer/plan_rehearsal.h"

namespace strata {

// options tell the placement of activations; see make_plan() for how the other homes are chosen.
Result<Plan> place_states(const PlanContext& context, const EngineOptions& options);

}  // namespace strata
