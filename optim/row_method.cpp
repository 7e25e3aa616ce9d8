#include "optim/row_method.h"

#include <algorithm>
#include <atomic>
#include <memory>

#include "optim/low_rank_kernels.h"

namespace strata {
namespace {

// Rows of a task: large against the cost of handing it out, small against a record.
std::int64_t rows_of_task(const LowRankBlock& block) {
  return std::max<std::int64_t>(1, kUpdateBlock / std::max<std::int64_t>(1, block.columns));
}

LowRankBlock rows_of(const LowRankBlock& block, std::int64_t first, std::int64_t rows) {
  LowRankBlock part = block;
  part.rows = rows;
  const auto move = [](auto*& array, std::int64_t n) {
    if (array != nullptr) array += n;
  };
  move(part.g, first * block.columns);
  move(part.g16, first * block.columns);
  for (float** moments : {&part.m, &part.v, &part.new_m, &part.new_v}) move(*moments, first * block.rank);
  return part;
}

// Tasks of `rows` rows over the pool: body(first, rows, workspace). Each thread has a workspace that its tasks share: it is as
// large as the cache.
template <class Body>
void for_tasks(const LowRankBlock& block, std::int64_t rows, ThreadPool& pool, const Body& body) {
  const std::int64_t tasks = (block.rows + rows - 1) / rows;
  const auto floats = static_cast<std::size_t>(low_rank_workspace(block.rank));
  std::atomic<std::int64_t> next = 0;
  pool.parallel_for(std::min<std::int64_t>(pool.threads(), tasks), [&](std::int64_t) {
    const auto workspace = std::make_unique_for_overwrite<float[]>(floats);
    for (std::int64_t task = 0; (task = next.fetch_add(1)) < tasks;)
      body(task * rows, std::min(rows, block.rows - task * rows), std::span(workspace.get(), floats));
  });
}

}  // namespace

void RowMethod::enqueue_projection(const ProjectedMatrix&, std::int64_t, float*, const GpuDriver&, GpuQueue&) const {
  STRATA_CHECK(false, "projections are made on the host");
}

void RowMethod::measure(const LowRankBlock&, const UpdateStep&, const RowResults&, std::span<float>) const {
  STRATA_CHECK(false, "nothing is measured");
}

double RowMethod::scale(const ApolloSums&, double&) const {
  STRATA_CHECK(false, "nothing is measured");
  return 1.0;
}

void RowMethod::enqueue_measure(const LowRankBlock&, const UpdateStep&, const RowResults&, const GpuDriver&, GpuQueue&) const {
  STRATA_CHECK(false, "nothing is measured");
}

void measure(const RowMethod& method, const LowRankBlock& block, const UpdateStep& step, const RowResults& results,
             ThreadPool& pool) {
  for_tasks(block, std::max(kLowRankRows, rows_of_task(block)), pool,
            [&](std::int64_t first, std::int64_t rows, std::span<float> workspace) {
              method.measure(
                  rows_of(block, first, rows), step,
                  {results.s + first, results.g_squares + first, results.r_squares + first, results.n_squares + first},
                  workspace);
            });
}

void apply(const RowMethod& method, const LowRankBlock& block, const float* s, const WeightRows& weights, double scale,
           const UpdateStep& step, const ParamGroup& group, ThreadPool& pool) {
  const std::int64_t rows_a_task = method.measures() ? rows_of_task(block) : std::max(kLowRankRows, rows_of_task(block));
  for_tasks(block, rows_a_task, pool, [&](std::int64_t first, std::int64_t rows, std::span<float> workspace) {
    const std::int64_t skip = first * block.columns;
    method.apply(rows_of(block, first, rows), s == nullptr ? nullptr : s + first,
                 {.p = weights.p + skip,
                  .p16 = weights.p16 == nullptr ? nullptr : weights.p16 + skip,
                  .new_p = weights.new_p == nullptr ? nullptr : weights.new_p + skip},
                 scale, step, group, workspace);
  });
}

}  // namespace strata
