// The memory-bound kernels of training as benchmarks: each with tensors shaped as a model gives them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "launcher/bench_device.h"
#include "model/config.h"
#include "trainer/workbench.h"

namespace strata {

// What the tensors of all cases are made from. Letters are those of tensor.h.
struct KernelShapes {
  ModelConfig model;
  std::int64_t B = 0, T = 0;
  DType dtype = DType::f32;
};

// One kernel. `prepare` makes its tensors in the set, which outlives the case.
struct KernelRun {
  double bytes = 0.0;             // that must move: each operand read once, each result written once
  std::function<void()> enqueue;  // one call
};
struct KernelCase {
  std::string name;
  std::function<KernelRun(TensorSet&, StreamRef)> prepare;
};

std::vector<KernelCase> kernel_cases(const KernelShapes& shapes, const Device& device);

}  // namespace strata
