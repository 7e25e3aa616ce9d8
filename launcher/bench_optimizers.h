// The updates of `strata bench optimizers`: one matrix and what each method keeps of it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "optim/update_slice.h"
#include "trainer/workbench.h"

namespace strata {

// As `--method` takes them, in the order of the report.
const std::vector<std::string>& bench_method_names();

struct MatrixShape {
  std::int64_t rows = 0, columns = 0;  // outputs, inputs
  std::int64_t rank = 1;               // of projections, at most the shorter dim
  double density = 0.25;               // of FRUGAL's states
};

// One update, all passes of it.
struct MethodRun {
  double bytes_per_parameter = 0.0;  // that must move: gradients read (twice, where there are two passes), weights and states
                                     // read and written
  double flops_per_parameter = 0.0;  // of products with a projection; 0: there is none, or of rank 1, and memory is the bound
  std::function<void()> enqueue;
};

// Tensors of all methods, which take turns with them.
class MethodArrays {
 public:
  // In the set, which outlives them. Throws StatusError.
  MethodArrays(Workbench& bench, TensorSet& tensors, const MatrixShape& shape);
  ~MethodArrays();
  MethodArrays(const MethodArrays&) = delete;
  MethodArrays& operator=(const MethodArrays&) = delete;

  const UpdateSlice& slice() const;  // AdamW's
  // Of one of bench_method_names(). Its closure lives no longer than the arrays.
  MethodRun run(const std::string& name);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
