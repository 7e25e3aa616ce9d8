// A forecast step as text: a row for each resource, time from left to right.
#pragma once

#include <string>

#include "offload/update_plan.h"

namespace strata {

// columns: of the picture, without the names before it (>= 10). Empty when the plan has no forecast. In a row: a record's last
// digit while its instruction runs, '.' for a unit's forward or backward, a blank while idle; what is shorter than a column
// shows as the last that ran in it. The bar marks the norm, before which no update begins.
std::string format_timeline(const UpdatePlan& plan, int columns);

}  // namespace strata
