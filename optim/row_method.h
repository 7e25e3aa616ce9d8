// What an optimizer does that sees a matrix's gradient through a projection (APOLLO, GaLore, FRUGAL's subspaces). Stores know
// such optimizers by this (Optimizer::rows()).
//
// Matrices lie as low_rank.h has them. In a step of a matrix, each pass over any cutting into blocks of whole rows:
//   measure   every block: its moments, and what is left of each row (RowResults)
//   scale     once: from the sums over all rows (add_rows(), in a fixed order) to a number
//   apply     every block: the weights
// The first two only where the update of a row depends on the whole matrix (measures()); else apply has the moments too.
#pragma once

#include <cstdint>
#include <span>

#include "optim/apollo.h"
#include "optim/low_rank.h"
#include "optim/optimizer.h"
#include "optim/projection.h"

namespace strata {

// Immutable: one object serves every thread. The optimizer's states are two, m and v; here each row of a matrix has rank()
// values of both, zero before the first update.
class RowMethod {
 public:
  virtual ~RowMethod() = default;

  // Columns of the projection; 0: this parameter is updated element by element.
  virtual std::int64_t rank(const ParamShape& param, const ParamGroup& group) const = 0;
  virtual bool measures() const = 0;
  // Number of the projection that holds in a step, for fill_projection(); it does not fall from step to step.
  virtual std::int64_t projection(std::int64_t step) const = 0;
  // Whether a projection is made once and then kept, in memory and in checkpoints, until the next one holds; else it is made
  // anew in each step. Those that apply() or the gradient needs.
  virtual bool keeps_projections() const = 0;
  // Whether it is made of the gradient of the step where it begins to hold: its leading singular vectors (svd_projection.h).
  virtual bool projects_on_singular_vectors() const = 0;
  // Not of singular vectors. On the host; a function of its arguments alone, so the same on every rank. The pool's threads take
  // part.
  virtual void fill_projection(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection,
                               ThreadPool& pool) const = 0;
  // Whether a GPU can do that: then enqueue_projection() gives the same bits.
  virtual bool projects_on_gpu() const { return false; }
  virtual void enqueue_projection(const ProjectedMatrix& matrix, std::int64_t number, float* projection,
                                  const GpuDriver& driver, GpuQueue& queue) const;
  // Work of the projected gradient's part of an element, in updates of one that are element by element: of measuring, or of
  // what apply() does more. An estimate, for the order of what is done.
  virtual double projecting(std::int64_t rank) const = 0;

  // On the calling thread; workspace: low_rank_workspace(block.rank) floats of its own.
  virtual void measure(const LowRankBlock& block, const UpdateStep& step, const RowResults& results,
                       std::span<float> workspace) const;
  // `memory`: what the matrix keeps from step to step; negative before the first.
  virtual double scale(const ApolloSums& sums, double& memory) const;
  // s: of the block's rows (RowResults::s); null, and scale 1, where nothing is measured. workspace: as measure().
  virtual void apply(const LowRankBlock& block, const float* s, const WeightRows& weights, double scale, const UpdateStep& step,
                     const ParamGroup& group, std::span<float> workspace) const = 0;

  // The same bits, enqueued on a GPU whose queue has scratch; the arrays live until it is done.
  virtual void enqueue_measure(const LowRankBlock& block, const UpdateStep& step, const RowResults& results,
                               const GpuDriver& driver, GpuQueue& queue) const;
  virtual void enqueue_apply(const LowRankBlock& block, const float* s, const WeightRows& weights, double scale,
                             const UpdateStep& step, const ParamGroup& group, const GpuDriver& driver,
                             GpuQueue& queue) const = 0;
};

// Cut into blocks of rows over the pool; the calling thread takes part. The same bits.
void measure(const RowMethod& method, const LowRankBlock& block, const UpdateStep& step, const RowResults& results,
             ThreadPool& pool);
void apply(const RowMethod& method, const LowRankBlock& block, const float* s, const WeightRows& weights, double scale,
           const UpdateStep& step, const ParamGroup& group, ThreadPool& pool);

}  // namespace strata
