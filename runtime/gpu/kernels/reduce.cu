#include <algorithm>
#include <string>
#include <utility>

#include "runtime/gpu/kernels/access.h"
#include "runtime/gpu/kernels/reduce.h"

namespace strata::STRATA_GPU {
namespace {

constexpr std::int64_t kMostPartials = 256;    // enough blocks to keep a large device busy
constexpr std::int64_t kLeastRows = 8;         // of a partial sum, which costs about as much memory traffic as a row
constexpr std::int64_t kMostFloats = 1 << 23;  // 32 MiB of scratch, unless one row is longer

constexpr int kGroups = kThreads / kWarp;

// A warp adds a run of partial sums of 32 columns in order; then the runs are added in order.
STRATA_KERNEL add_partials_kernel(const float* partials, std::int64_t count, std::int64_t width, std::int64_t C, float* sums) {
  const auto runs = shared_array<float>(0, kThreads);
  const std::int64_t c = block_x() * kWarp + lane_index();
  const std::int64_t run = (count + kGroups - 1) / kGroups;
  const std::int64_t first = warp_index() * run;
  const std::int64_t last = first + run < count ? first + run : count;
  float total = 0.0f;
  if (c < C)
    for (std::int64_t k = first; k < last; ++k) total += partials[k * width + c];
  runs[thread_index()] = total;
  sync_block();
  if (warp_index() != 0 || c >= C) return;
  for (int group = 1; group < kGroups; ++group) total += runs[group * kWarp + lane_index()];
  sums[c] += total;
}

}  // namespace

bool has_scratch(GpuQueue& queue, const char* what, std::int64_t bytes) {
  if (std::cmp_less_equal(bytes, queue.scratch().size())) return true;
  queue.fail(Status(Code::out_of_budget, std::string(what) + " needs " + std::to_string(bytes) +
                                             " bytes of scratch memory of the queue on " + queue.properties().name +
                                             ", which has " + std::to_string(queue.scratch().size())));
  return false;
}

std::optional<Partials> make_partials(GpuQueue& queue, const char* what, std::int64_t R, std::int64_t width) {
  const std::int64_t most = std::clamp<std::int64_t>(kMostFloats / std::max<std::int64_t>(1, width), 1, kMostPartials);
  const std::int64_t rows = std::max(kLeastRows, blocks_for(R, most));
  const std::int64_t count = blocks_for(R, rows);
  if (!has_scratch(queue, what, count * width * static_cast<std::int64_t>(sizeof(float)))) return std::nullopt;
  return Partials{reinterpret_cast<float*>(queue.scratch().data()), count, rows, width};
}

void add_partials(const Partials& partials, std::int64_t first, std::int64_t C, float* sums, GpuQueue& queue) {
  if (partials.count == 0) return;
  launch(queue, add_partials_kernel, Grid{.x = blocks_for(C, kWarp)}, kThreads, kThreads * sizeof(float),
         static_cast<const float*>(partials.data + first), partials.count, partials.width, C, sums);
}

}  // namespace strata::STRATA_GPU
