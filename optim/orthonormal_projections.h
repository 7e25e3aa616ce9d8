// Random subspaces: projections whose columns are orthonormal, each subspace as likely as any other (FRUGAL's `random`).
#pragma once

#include "optim/projection.h"

namespace strata {

// Q of the QR decomposition of normal values (PhiloxProjections), where R has a positive diagonal; in f64, rounded once. On the
// host, by a library whose bits are those of this program: as those of svd_projection.h they are kept and not made again.
// rank <= columns.
class OrthonormalProjections final : public ProjectionSource {
 public:
  using ProjectionSource::fill;
  explicit OrthonormalProjections(std::uint64_t seed) : normal_(seed) {}
  void fill(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection) const override;

 private:
  PhiloxProjections normal_;
};

}  // namespace strata
