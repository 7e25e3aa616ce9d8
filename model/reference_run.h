// A model run whole in memory on one rank, without trainer, stores or schedule: for tests, and to see in one page what the
// contract of unit.h asks of a caller.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/unit.h"

namespace strata {

// Blocking; one thread. Throws StatusError when an operation fails.
class ReferenceRun {
 public:
  struct Options {
    DType compute_dtype = DType::f32;  // f32 or bf16; parameters given here are f32 and rounded before each run
    int threads = 2;
    std::size_t budget = std::size_t{1} << 30;  // of the compute tier, in bytes, beside the f32 parameters and gradients
    std::function<std::unique_ptr<GpuDriver>()> make_gpu = {};  // computes on that GPU; none: on the host
  };
  ReferenceRun(const Model& model, const Options& options);
  // `backend` dry: everything runs except the operations, for measuring memory.
  ReferenceRun(const Model& model, const Options& options, Backend backend);
  ~ReferenceRun();

  // Every parameter drawn by init_parameter().
  void init(std::uint64_t seed);
  // f32 master values and accumulated gradients of the unit's own parameter; the caller writes values, and reads gradients.
  std::span<float> param(int unit, int param);
  std::span<float> grad(int unit, int param);
  void zero_grads();

  struct Tokens {
    std::vector<std::int32_t> tokens;   // B * T
    std::vector<std::int32_t> targets;  // B * T, or empty for logits()
    std::int64_t B = 0, T = 0;
  };
  // Cross-entropy of every row. Adds the gradients of sum(loss) * scale. recompute: a block's forward keeps nothing and runs
  // again before its backward.
  std::vector<float> forward_backward(const Tokens& batch, float scale, bool recompute);
  // Cross-entropy of every row.
  std::vector<float> loss(const Tokens& batch);
  // [B * T, V]
  std::vector<float> logits(const Tokens& batch);

  TierArena& arena();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
