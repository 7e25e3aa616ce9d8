// Projections to the leading singular vectors of a gradient: GaLore (arXiv 2403.03507, section 4) and APOLLO's variant. They
// come from the eigenvectors of G^T G, whose size is that of the shorter dim: ranks that have rows of G add up what they know
// of it. In f64, where squaring loses nothing that a gradient in f32 has. Made on the host; which vectors a library gives for
// equal singular values is its own choice, so a projection is made by one rank, or by all with the same program, and
// checkpoints keep it.
#pragma once

#include <cstdint>
#include <span>

#include "runtime/dtype.h"
#include "runtime/status.h"
#include "runtime/thread_pool.h"

namespace strata {

// gram (columns x columns, f64, zero at first) += G^T G of rows of a gradient, in its upper triangle; what is below it is
// undefined. Sums go over the rows in their order: any cutting into blocks gives the same bits, on every processor. A factor
// that all of the gradient has (grad_scale) does not matter.
void add_to_gram(const float* g, std::int64_t rows, std::int64_t columns, std::span<double> gram);
void add_to_gram(const bf16* g, std::int64_t rows, std::int64_t columns, std::span<double> gram);
// The same bits; the pool's threads take part.
void add_to_gram(const float* g, std::int64_t rows, std::int64_t columns, std::span<double> gram, ThreadPool& pool);

// projection, columns x rank (LowRankBlock::projection): the eigenvectors of the `rank` largest eigenvalues, largest first; of
// each the element of largest magnitude is positive. Error numerical: the gradient was not finite. invalid_argument: rank >
// columns.
Status svd_projection(std::span<const double> gram, std::int64_t columns, std::int64_t rank, std::span<float> projection);

}  // namespace strata
