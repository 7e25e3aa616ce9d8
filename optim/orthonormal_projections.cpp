#include "optim/orthonormal_projections.h"

#include <Eigen/QR>
#include <cstddef>

#include "runtime/status.h"

namespace strata {

void OrthonormalProjections::fill(const ProjectedMatrix& matrix, std::int64_t number, std::span<float> projection) const {
  STRATA_CHECK(matrix.rank <= matrix.columns, "no more directions are orthonormal than there are columns");
  normal_.fill(matrix, number, projection);
  using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Eigen::Map<RowMajor> values(projection.data(), matrix.columns, matrix.rank);
  const Eigen::HouseholderQR<Eigen::MatrixXd> qr(values.cast<double>());
  Eigen::MatrixXd q = qr.householderQ() * Eigen::MatrixXd::Identity(matrix.columns, matrix.rank);
  for (Eigen::Index k = 0; k < matrix.rank; ++k)
    if (qr.matrixQR()(k, k) < 0.0) q.col(k) *= -1.0;
  values = q.cast<float>();
}

}  // namespace strata
