// FRUGAL (Zmushko et al. 2025, arXiv 2411.07837: gradient splitting), as the authors' code computes it
// (github.com/fzmushko/FRUGAL, c7ebe4c): a part of the elements, chosen anew every update_gap steps, is trained by an optimizer
// with states; the others by a rule without. Which part: columns, rows or entries of every matrix (their Coord classes), or
// whole tensors (their Block classes). What is projected on singular vectors (their Galore classes) is not here.
//
// Arithmetic without state: what is chosen is a function of seed, names and step (StatefulSet, active_blocks()); states are the
// caller's, laid out as stateful_set.h says. Differences from the authors' code: momentum begins at zero, not as a copy of the
// gradient or of the weights; where states are kept over a refresh, they pass from the old choice to the new one in ascending
// order, not in that of two random lists.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "optim/adamw.h"
#include "optim/lion.h"
#include "optim/stateful_set.h"
#include "optim/update_slice.h"
#include "runtime/status.h"
#include "runtime/thread_pool.h"

namespace strata {

class GpuQueue;
class GpuDriver;

enum class FrugalChoice : std::uint8_t { columns, rows, entries, tensors };
// The step of elements without states, from their gradient: none, the gradient, its sign (of 0: 0).
enum class StateFreeRule : std::uint8_t { none, sgd, sign_sgd };
// State momentum; decay is decoupled, unlike that of Sgd.
struct FrugalMomentumConfig {
  double momentum = 0.9;
};

struct FrugalConfig {
  FrugalChoice choice = FrugalChoice::columns;
  double density = 0.25;          // in [0, 1]: the part that has states
  std::int64_t update_gap = 200;  // steps; at least 1
  bool reset_statistics = true;   // at a refresh; those of whole tensors always are
  StateFreeRule state_free = StateFreeRule::sign_sgd;
  double inactive_lr_scale = 1.0;     // of elements without states, times the next one
  double proj_params_lr_scale = 1.0;  // of the learning rate for both kinds of elements, but not for their decay
  std::variant<AdamWConfig, LionConfig, FrugalMomentumConfig> stateful = AdamWConfig{};
};

// How many columns, rows or entries of a matrix have states: density times as many as there are, cut off, in double.
std::int64_t frugal_count(FrugalChoice choice, std::int64_t rows, std::int64_t columns, double density);

// Where a step, counted from 1, is between the choices.
struct FrugalPeriod {
  std::int64_t refresh = 0;     // number of the choice that holds, from 0
  std::int64_t local_step = 1;  // of the states, for bias corrections, from 1
  bool begins = true;           // the choice is new
  bool states_are_zero = true;  // whatever is stored, which may be anything
  bool operator==(const FrugalPeriod&) const = default;
};
FrugalPeriod frugal_period(const FrugalConfig& config, std::int64_t step);

// The choice of refresh `key.refresh` for a matrix, whose name is in the key; not of tensors.
StatefulSet frugal_set(const FrugalConfig& config, std::int64_t rows, std::int64_t columns, const StatefulKey& key);

// A range of a matrix. range.states and new_states: from the range's first element with states on, without gaps (null or
// anything where it has none). UpdateSlice says the rest.
struct FrugalSlice {
  UpdateSlice range;
  StatefulMap map;
  std::int64_t first = 0;  // of the range, flat, row-major
  std::int64_t states_before_first = 0;
};
// first + range.n <= elements of the set. words: a copy of the set's for the processor that updates; null: its own, for the
// host.
FrugalSlice frugal_slice(const StatefulSet& set, const UpdateSlice& range, std::int64_t first,
                         const StatefulWord* words = nullptr);
// Elements [begin, begin + n) of the range, with their states. The map's words are in host memory.
FrugalSlice part(const FrugalSlice& slice, std::int64_t begin, std::int64_t n);

// One step's scalars, as AdamWScalars.
struct StateFreeScalars {
  StateFreeRule rule = StateFreeRule::none;
  float lr = 0.0f;
  float decay_factor = 1.0f;
  float grad_scale = 1.0f;
};
struct FrugalMomentumScalars {
  float lr, momentum, decay_factor, grad_scale;
};

// Immutable: one object serves every thread.
class Frugal {
 public:
  // density in [0, 1], update_gap at least 1.
  explicit Frugal(const FrugalConfig& config);
  const FrugalConfig& config() const { return config_; }
  // Of elements that have states.
  std::vector<std::string> states() const;

  // On the calling thread. step.number counts all steps from 1: which states are current is frugal_period()'s. Per element,
  // each operation rounded once: with states those of AdamW (adamw.h), Lion (lion.h) at the learning rate lr *
  // proj_params_lr_scale, or
  //   g' = g * grad_scale;  p' = p * decay_factor;  b = fma(momentum, b, g');  p = fma(-lr, b, p')
  // and without states
  //   g' = g * grad_scale;  p' = p * decay_factor;  p = fma(-(lr * proj_params_lr_scale * inactive_lr_scale), f(g'), p')
  // decay_factor is 1 - lr * weight_decay for all. Any cutting, alignment and processor gives the same bits.
  void update(const FrugalSlice& slice, const UpdateStep& step, const ParamGroup& group) const;
  // Cut into blocks over the pool; the calling thread takes part. The same bits.
  void update(const FrugalSlice& slice, const UpdateStep& step, const ParamGroup& group, ThreadPool& pool) const;
  // Enqueues the update on device memory, the map's words too, and returns: the same bits. Arrays and words live until it is
  // done.
  void enqueue_on_gpu(const FrugalSlice& slice, const UpdateStep& step, const ParamGroup& group, const GpuDriver& driver,
                      GpuQueue& queue) const;

 private:
  FrugalConfig config_;
};

}  // namespace strata
