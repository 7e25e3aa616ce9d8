#include "optim/projection.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>
#include <vector>

#include "optim/torch_random.h"
#include "runtime/rng.h"
#include "runtime/status.h"

namespace strata {
namespace {

void check(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection) {
  STRATA_CHECK(matrix.columns >= 1 && matrix.rank >= 1 && number >= 0,
               "a projection has columns and a rank, and counts from 0");
  STRATA_CHECK(std::cmp_equal(projection.size(), matrix.columns * matrix.rank), "the projection's size is columns x rank");
}

}  // namespace

void ProjectionSource::fill(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection,
                            ThreadPool&) const {
  fill(matrix, number, projection);
}

void PhiloxProjections::fill(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection) const {
  ThreadPool alone(1);
  fill(matrix, number, projection, alone);
}

void PhiloxProjections::fill(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection,
                             ThreadPool& pool) const {
  check(matrix, number, projection);
  const auto deviation = static_cast<float>(1.0 / std::sqrt(static_cast<double>(matrix.rank)));
  const Philox values(seed_, stream_id("projection " + std::to_string(number) + "/" + matrix.name));
  constexpr std::size_t kTask = std::size_t{1} << 14;
  pool.parallel_for(static_cast<std::int64_t>((projection.size() + kTask - 1) / kTask), [&](std::int64_t task) {
    const std::size_t first = static_cast<std::size_t>(task) * kTask;
    values.normal(first, 0.0f, deviation, projection.subspan(first, std::min(kTask, projection.size() - first)));
  });
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
