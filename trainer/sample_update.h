// An optimizer update of arrays that stand for training's: what is timed where updates are measured.
#pragma once

#include <cstdint>

#include "optim/optimizer.h"
#include "runtime/stream.h"
#include "trainer/workbench.h"

namespace strata {

struct SampleUpdateOptions {
  std::size_t states = 2;  // of the optimizer
  StateFormat format = kF32States;
  bool p16 = false;  // also writes parameters as bf16
  bool g16 = false;  // gradients are bf16
};

// n parameters with what training has: small parameters and gradients, moments of some steps. Throws StatusError.
UpdateSlice sample_update(TensorSet& tensors, std::int64_t n, const SampleUpdateOptions& options);

// As OptimizerStore gives it to whoever updates: by the stream's GPU, or by the threads of its device's pool.
void enqueue_sample_update(const Optimizer& method, const UpdateSlice& slice, StreamRef stream);

}  // namespace strata
