// The bodies of the element-wise updates (update_rules.h), one table for each instruction set and one for GPUs.
#pragma once

#include "optim/adamw.h"
#include "optim/adamw_transformers.h"
#include "optim/late_decay_rules.h"
#include "optim/lion.h"
#include "optim/sgd.h"
#include "optim/state_noise.h"

namespace strata {

// Of states in bf16 (kBf16States).
struct Bf16StateKernels {
  void (*adamw)(const UpdateSlice& slice, const AdamWScalars& scalars, const StateNoise& noise);
  void (*lion)(const UpdateSlice& slice, const LionScalars& scalars, const StateNoise& noise);
  void (*momentum)(const UpdateSlice& slice, const SgdScalars& scalars, const StateNoise& noise);
  void (*nesterov)(const UpdateSlice& slice, const SgdScalars& scalars, const StateNoise& noise);
};

struct UpdateKernels {
  void (*adamw)(const UpdateSlice& slice, const AdamWScalars& scalars);
  void (*adamw_transformers)(const UpdateSlice& slice, const TransformersAdamWScalars& scalars);
  void (*lion)(const UpdateSlice& slice, const LionScalars& scalars);
  void (*sgd)(const UpdateSlice& slice, const SgdScalars& scalars);
  void (*momentum)(const UpdateSlice& slice, const SgdScalars& scalars);
  void (*nesterov)(const UpdateSlice& slice, const SgdScalars& scalars);
  void (*scaled_gradient)(const UpdateSlice& slice, const ScaledGradientScalars& scalars);
  Bf16StateKernels bf16_states;
  void (*adamw_8bit)(const UpdateSlice& slice, const AdamWScalars& scalars);  // states kEightBitStates
};
// Of the instruction set in use (runtime/kernels/isa.h).
const UpdateKernels& update_kernels();

namespace isa_generic {
const UpdateKernels& update_kernels();
}
namespace isa_avx2 {
const UpdateKernels& update_kernels();
}
namespace isa_avx512 {
const UpdateKernels& update_kernels();
}

}  // namespace strata
