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

}  // namespace

void measure(const RowMethod& method, const LowRankBlock& block, const UpdateStep& step, const RowResults& results,
             ThreadPool& pool) {
  const std::int64_t rows = std::max(kLowRankRows, rows_of_task(block));
  const std::int64_t tasks = (block.rows + rows - 1) / rows;
  const auto floats = static_cast<std::size_t>(low_rank_workspace(block.rank));
  std::atomic<std::int64_t> next = 0;
  // Each with a workspace that its tasks share: it is as large as the cache.
  pool.parallel_for(std::min<std::int64_t>(pool.threads(), tasks), [&](std::int64_t) {
    const auto workspace = std::make_unique_for_overwrite<float[]>(floats);
    for (std::int64_t task = 0; (task = next.fetch_add(1)) < tasks;) {
      const std::int64_t first = task * rows;
      method.measure(rows_of(block, first, std::min(rows, block.rows - first)), step,
                     {results.s + first, results.g_squares + first, results.r_squares + first, results.n_squares + first},
                     std::span(workspace.get(), floats));
    }
  });
}

void apply(const RowMethod& method, const LowRankBlock& block, const float* s, const WeightRows& weights, double scale,
           const UpdateStep& step, const ParamGroup& group, ThreadPool& pool) {
  const std::int64_t rows = rows_of_task(block);
  pool.parallel_for((block.rows + rows - 1) / rows, [&](std::int64_t task) {
    const std::int64_t first = task * rows, skip = first * block.columns;
    method.apply(rows_of(block, first, std::min(rows, block.rows - first)), s + first,
                 {.p = weights.p + skip,
                  .p16 = weights.p16 == nullptr ? nullptr : weights.p16 + skip,
                  .new_p = weights.new_p == nullptr ? nullptr : weights.new_p + skip},
                 scale, step, group);
  });
}

}  // namespace strata
