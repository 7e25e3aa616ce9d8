// Global-norm clipping, independent of how the gradient is sharded or stored.
#pragma once

#include <span>

namespace strata {

// sqrt of the sum of partial squares (kernels/elementwise.h: sum_squares_blocks), added in index order in double.
double global_norm(std::span<const double> partials);
// What gradients are multiplied by, as in torch.nn.utils.clip_grad_norm_: min(1, max_norm / (norm + 1e-6)); 1 if
// max_norm <= 0 (off). A NaN norm gives NaN, an infinite one 0.
double clip_coefficient(double norm, double max_norm);

}  // namespace strata
