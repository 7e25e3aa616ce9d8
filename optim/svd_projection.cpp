#include "optim/svd_projection.h"

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "optim/low_rank_kernels.h"

namespace strata {

void add_to_gram(const float* g, std::int64_t rows, std::int64_t columns, std::span<double> gram) {
  STRATA_CHECK(std::cmp_equal(gram.size(), columns * columns), "the Gram matrix's size is columns x columns");
  // Rows that stay in the caches while all pairs of columns are walked.
  const std::int64_t at_once = std::max<std::int64_t>(1, (std::int64_t{1} << 18) / std::max<std::int64_t>(1, columns));
  for (std::int64_t row = 0; row < rows; row += at_once)
    low_rank_kernels().add_gram(g + row * columns, std::min(at_once, rows - row), columns, 0, columns, gram.data());
}

void add_to_gram(const float* g, std::int64_t rows, std::int64_t columns, std::span<double> gram, ThreadPool& pool) {
  STRATA_CHECK(std::cmp_equal(gram.size(), columns * columns), "the Gram matrix's size is columns x columns");
  constexpr std::int64_t kBand = 32;  // rows of the Gram matrix that a task has; the first ones are the longest
  pool.parallel_for((columns + kBand - 1) / kBand, [&](std::int64_t task) {
    low_rank_kernels().add_gram(g, rows, columns, task * kBand, std::min(columns, (task + 1) * kBand), gram.data());
  });
}

void add_to_gram(const bf16* g, std::int64_t rows, std::int64_t columns, std::span<double> gram) {
  constexpr std::int64_t kRows = 64;
  std::vector<float> widened(static_cast<std::size_t>(kRows * columns));
  for (std::int64_t row = 0; row < rows; row += kRows) {
    const std::int64_t n = std::min(kRows, rows - row);
    std::transform(g + row * columns, g + (row + n) * columns, widened.begin(), [](bf16 x) { return to_float(x); });
    add_to_gram(widened.data(), n, columns, gram);
  }
}

Status svd_projection(std::span<const double> gram, std::int64_t columns, std::int64_t rank, std::span<float> projection) {
  STRATA_CHECK(std::cmp_equal(gram.size(), columns * columns), "the Gram matrix's size is columns x columns");
  STRATA_CHECK(std::cmp_equal(projection.size(), columns * rank), "the projection's size is columns x rank");
  if (rank > columns)
    return {Code::invalid_argument, "a projection to " + std::to_string(rank) + " singular vectors of a matrix that has " +
                                        std::to_string(columns) + ": lower the rank, or project at random"};
  // Only its upper triangle is known, which of the transposed, column-major matrix is the lower one that the solver reads.
  const Eigen::Map<const Eigen::MatrixXd> lower(gram.data(), columns, columns);
  for (Eigen::Index j = 0; j < columns; ++j) {
    for (Eigen::Index i = j; i < columns; ++i) {
      if (!std::isfinite(lower(i, j)))
        return {Code::numerical, "the gradient that a projection is made of is not finite, or its squares are too large"};
    }
  }
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(lower);
  if (solver.info() != Eigen::Success)
    return {Code::numerical, "the singular vectors of a gradient were not found: the eigenvalues did not converge"};
  for (Eigen::Index k = 0; k < rank; ++k) {
    const auto vector = solver.eigenvectors().col(columns - 1 - k);
    Eigen::Index largest = 0;
    vector.cwiseAbs().maxCoeff(&largest);
    const double sign = vector[largest] < 0.0 ? -1.0 : 1.0;
    for (Eigen::Index j = 0; j < columns; ++j)
      projection[static_cast<std::size_t>(j * rank + k)] = static_cast<float>(sign * vector[j]);
  }
  return {};
}

}  // namespace strata
