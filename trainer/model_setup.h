// From the configuration to the values the engine takes: what Trainer::create and `strata plan` share. Pure but for reading a
// Hugging Face folder's config.json.
#pragma once

#include <string>

#include "model/config.h"
#include "optim/schedule.h"
#include "trainer/config.h"
#include "trainer/engine.h"
#include "trainer/plan.h"

namespace strata {

// Whether this optimizer needs ModelConfig::long_rows. The one place that decides: every model that is built from a resolved
// config has what it says, and one from a checkpoint what the checkpoint's manifest says.
bool wants_long_rows(const Config::Optimizer& optimizer);
// The model's shape: the config's own keys, or the config.json of model.hf.
Result<ModelConfig> model_config_of(const Config& resolved);
// Everything but the two budgets.
EngineOptions engine_options(const Config& resolved, Rank rank);
Schedule schedule_of(const Config& resolved);
Budgets budgets_of(const Config& resolved, std::size_t host_memory);
// The same on a device, whose GPU has as much memory as it has.
Budgets budgets_of(const Config& resolved, std::size_t host_memory, const Device& device);
DriveUse drive_use_of(const Config& resolved, std::int64_t steps_done = 0);

}  // namespace strata
