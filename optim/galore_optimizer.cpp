#include "optim/galore_optimizer.h"

#include <fmt/format.h>

#include <algorithm>

namespace strata {

Galore::Galore(const GaloreMethodConfig& config)
    : config_(config), others_({.beta1 = config.galore.beta1, .beta2 = config.galore.beta2, .eps = config.galore.eps}) {
  STRATA_CHECK(config.rank >= 1, "a projection has a rank");
  STRATA_CHECK(config.update_gap >= 1, "GaLore's update_gap is a number of steps");
}

std::string Galore::choice_rule() const {
  return fmt::format("singular vectors of rank {} for {} steps", config_.rank, config_.update_gap);
}

std::int64_t Galore::rank(const ParamShape& param, const ParamGroup& group) const {
  return group.projected && param.rows > 1 && param.columns > 1 ? std::min(config_.rank, param.columns) : 0;
}

void Galore::fill_projection(const ProjectedMatrix&, std::int64_t, std::span<float>, ThreadPool&) const {
  STRATA_CHECK(false, "GaLore's projections are made of gradients");
}

// There and back: 4 * rank operations an element.
double Galore::projecting(std::int64_t rank) const { return static_cast<double>(rank) / 32.0; }

}  // namespace strata
