// Writes checkpoints: every rank its own slices, committed together by one rename.
#pragma once

#include <string>

#include "model/unit.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/engine.h"

namespace strata {

struct SaveOptions {
  std::string parent;          // folder of the step folders; the checkpoint becomes <parent>/step_<N>
  std::int64_t keep_last = 2;  // 0: all
};

// Collective, blocking. `info` gives step, samples, seed and model_json; the rest is filled in here. After an error on any rank
// no rank has committed, nothing that was there before is gone, and what was written is removed. The value is a remark for the
// user, mostly empty: the checkpoint is safe, but old ones could not be removed.
Result<std::string> save_checkpoint(Engine& engine, const Model& model, const Manifest& info, const SaveOptions& options);

// Names of the units that are trained in the choice at hand (OptimizerStore::units()).
std::vector<std::string> trained_units(Engine& engine);

// Parameters of a model with their shapes, in unit order.
std::vector<CheckpointParam> checkpoint_params(const Model& model);

}  // namespace strata
