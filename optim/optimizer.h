// An optimizer: what it keeps for each parameter, and what a step makes of both. Stores, plans, checkpoints and the trainer
// know optimizers by this alone; examples/custom_optimizer adds one.
//
// Element-wise, but for what rows() does: what becomes of an element depends on its own gradient, value and states, the step's
// scalars, its group and whether it has states, and on nothing else, so that records may be cut anywhere. Every update is one
// written sequence of correctly rounded IEEE operations: the same bits on every processor, whatever the vector width, slicing
// or alignment.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "optim/param_groups.h"
#include "optim/state_format.h"
#include "optim/stateful_set.h"
#include "optim/update_slice.h"
#include "runtime/status.h"
#include "runtime/thread_pool.h"

namespace strata {

class GpuQueue;
class GpuDriver;
class RowMethod;

// What all elements of a step have in common. Equal steps give equal updates.
struct UpdateStep {
  std::int64_t number = 1;  // of the update, 1-based
  double lr = 0.0;          // of the schedule; a group may scale it
  double grad_scale = 1.0;  // clip coefficient; 1 changes no bit
  bool operator==(const UpdateStep&) const = default;
};

// A parameter as an optimizer sees it: row-major; a vector is one row.
struct ParamShape {
  std::string_view name;
  std::int64_t rows = 1, columns = 1;
  // Of a parameter whose group is projected: rows of the matrices that it is, one above the other (empty: it is one); all such
  // matrices of the model are numbered, in its order from 0, and this is the number of the first one here; how many there are.
  std::span<const std::int64_t> parts = {};
  std::int64_t first_matrix = 0, matrices = 0;
};

// `slice` of a matrix of which not all elements have states, from element `first` on (flat, row-major). words: a copy of the
// set's for the processor that updates; null: its own, for the host.
UpdateSlice stateful_slice(const StatefulSet& set, const UpdateSlice& slice, std::int64_t first,
                           const StatefulWord* words = nullptr);

// Immutable: one object serves every thread.
class Optimizer {
 public:
  virtual ~Optimizer() = default;

  // As in `optimizer.type`, traces and checkpoints. Lives as long as the optimizer.
  virtual const char* name() const = 0;
  // Names of the values that it keeps for each parameter, as checkpoints call them: at most kMaxStates; none is "p". They
  // are zero before the first update.
  virtual std::vector<std::string> states() const = 0;

  // How they are stored. Other formats than f32 are of optimizers without rows() whose elements all have states.
  virtual StateFormat state_format() const { return kF32States; }

  // Which elements have states may be chosen, and chosen anew from time to time; by default all have. Number of the choice that
  // holds in a step, from 0; it does not fall from step to step. States of a new
  // choice are zero whatever was stored before, but where all elements have states.
  virtual std::int64_t choice(std::int64_t /*step*/) const { return 0; }
  // A function of its arguments alone: the same on every rank.
  virtual StatefulSet stateful(const ParamShape& param, const ParamGroup& group, std::int64_t choice) const;
  // How many of elements [first, first + n) have states at most, whatever the choice; of a whole parameter: in every choice.
  virtual std::int64_t most_states(const ParamShape& /*param*/, const ParamGroup& /*group*/, std::int64_t /*first*/,
                                   std::int64_t n) const {
    return n;
  }
  // Whether this parameter's states take turns with those of others: they are zero at the first step of every choice, which is
  // made among matrices as a whole. Memory for those that have states at once is then enough, and it may move with each choice.
  virtual bool takes_turns(const ParamShape& /*param*/, const ParamGroup& /*group*/) const { return false; }
  // elements: of each matrix of the model (ParamShape::matrices). How many of them take part in one choice, at most.
  virtual std::int64_t most_at_once(std::span<const std::int64_t> /*elements*/) const { return 0; }
  // Whether it can train a model with so many matrices. Error invalid_config.
  virtual Status accepts(std::int64_t /*matrices*/) const { return {}; }
  // How many words() the sets of this parameter have.
  virtual std::int64_t stateful_words(const ParamShape& /*param*/, const ParamGroup& /*group*/) const { return 0; }
  // Where some parameters are not updated element by element: what is done with them (row_method.h). Null: none is.
  virtual const RowMethod* rows() const { return nullptr; }
  // What choices and projections depend on besides the parameters, as a text: checkpoints hold it, and states of another one
  // are refused. Empty: there are none.
  virtual std::string choice_rule() const { return {}; }

  // On the calling thread.
  virtual void update(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group) const = 0;

  // Whether enqueue_on_gpu() is there. Without it the states live off the GPU, and the CPU updates them.
  virtual bool updates_on_gpu() const { return false; }
  // Enqueues the update on device memory and returns: the same bits. The slice's arrays live until it is done.
  virtual void enqueue_on_gpu(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group,
                              const GpuDriver& driver, GpuQueue& queue) const;
};

// Cut into blocks over the pool; the calling thread takes part. The same bits.
void update(const Optimizer& optimizer, const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group,
            ThreadPool& pool);

}  // namespace strata
