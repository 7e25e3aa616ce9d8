#include "optim/projection.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "optim/gpu_kernels.h"
#include "optim/torch_random.h"
#include "runtime/gpu/driver.h"
#include "runtime/rng.h"
#include "runtime/status.h"

namespace strata {
namespace {

void check(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection) {
  STRATA_CHECK(matrix.columns >= 1 && matrix.rank >= 1 && number >= 0,
               "a projection has columns and a rank, and counts from 0");
  STRATA_CHECK(std::cmp_equal(projection.size(), matrix.columns * matrix.rank), "the projection's size is columns x rank");
}

std::uint64_t stream_of(const ProjectedMatrix& matrix, std::int64_t number) {
  return stream_id("projection " + std::to_string(number) + "/" + matrix.name);
}
float deviation_of(const ProjectedMatrix& matrix) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(matrix.rank)));
}

}  // namespace

void ProjectionSource::fill(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection,
                            ThreadPool&) const {
  fill(matrix, number, projection);
}

void ProjectionSource::enqueue_fill(const ProjectedMatrix&, std::int64_t, float*, const GpuDriver&, GpuQueue&) const {
  STRATA_CHECK(false, "these projections are made on the host");
}

void PhiloxProjections::fill(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection) const {
  ThreadPool alone(1);
  fill(matrix, number, projection, alone);
}

void PhiloxProjections::fill(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection,
                             ThreadPool& pool) const {
  check(matrix, number, projection);
  const float deviation = deviation_of(matrix);
  const Philox values(seed_, stream_of(matrix, number));
  constexpr std::size_t kTask = std::size_t{1} << 14;
  pool.parallel_for(static_cast<std::int64_t>((projection.size() + kTask - 1) / kTask), [&](std::int64_t task) {
    const std::size_t first = static_cast<std::size_t>(task) * kTask;
    values.normal(first, 0.0f, deviation, projection.subspan(first, std::min(kTask, projection.size() - first)));
  });
}

void PhiloxProjections::enqueue_fill(const ProjectedMatrix& matrix, std::int64_t number, float* projection,
                                     const GpuDriver& driver, GpuQueue& queue) const {
  driver.table<OptimGpuKernels>().normal(
      {.seed = seed_, .stream = stream_of(matrix, number), .deviation = deviation_of(matrix)}, matrix.columns * matrix.rank,
      projection, queue);
}

void TorchProjections::fill(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection) const {
  check(matrix, number, projection);
  auto seed = static_cast<std::uint64_t>(matrix.number);
  for (std::int64_t i = 0; i < number; ++i) seed = next_apollo_seed(seed);
  const auto root = static_cast<float>(std::sqrt(static_cast<double>(matrix.rank)));
  if (matrix.transposed) {  // the authors multiply by it from the left, and have it as it is here
    torch_randn(seed, projection);
    for (float& value : projection) value /= root;
    return;
  }
  std::vector<float> drawn(projection.size());
  torch_randn(seed, drawn);
  const auto columns = static_cast<std::size_t>(matrix.columns), rank = static_cast<std::size_t>(matrix.rank);
  for (std::size_t k = 0; k < rank; ++k)
    for (std::size_t j = 0; j < columns; ++j) projection[j * rank + k] = drawn[k * columns + j] / root;
}

}  // namespace strata
