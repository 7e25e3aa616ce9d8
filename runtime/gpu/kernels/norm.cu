// LayerNorm and RMSNorm; the formulas are those of kernels/norm_simd.cpp.
#include "runtime/gpu/kernels/entries.h"
#include "runtime/gpu/kernels/normalise.h"
#include "runtime/kernels/norm.h"

namespace strata::STRATA_GPU {
namespace {

template <class T>
struct ForwardLoop {
  const T* x;
  const T* residual;
  T* sum;
  T* y;
  float* mean;
  float* rstd;
  std::int64_t R, C;
  float eps;
  bool packed;
};

template <class T, bool kLayer, bool kHeld, class Team>
STRATA_KERNEL STRATA_LAUNCH_BOUNDS(Team::kIsBlock ? kMostTeamThreads : kThreads, 1)
    norm_forward_kernel(ForwardLoop<T> a, const T* __restrict__ w, const T* __restrict__ b, int lanes) {
  Team team(lanes);
  const std::int64_t r = block_x() * team.teams_in_block() + team.index_in_block();
  const RowCut cut = cut_row<T>(a.C, a.packed, r < a.R);
  const std::int64_t at = r * a.C;
  const ForwardRow<T> row = {.x = a.x + at,
                             .residual = a.residual != nullptr ? a.residual + at : nullptr,
                             .sum = a.residual != nullptr ? a.sum + at : nullptr,
                             .y = a.y + at,
                             .mean = kLayer ? a.mean + r : nullptr,
                             .rstd = a.rstd + r};
  normalise<T, kLayer, kHeld>(row, w, b, cut, a.eps, team);
}

template <class T, bool kLayer>
void forward(const kernels::NormForwardArgs& args, GpuQueue& queue) {
  ForwardLoop<T> a = {.x = args.x_RC.as<T>(),
                      .residual = data_or_null<T>(args.residual_RC),
                      .sum = data_or_null<T>(args.sum_RC),
                      .y = args.y_RC.as<T>(),
                      .mean = kLayer ? args.mean_R.as<float>() : nullptr,
                      .rstd = args.rstd_R.as<float>(),
                      .R = args.x_RC.shape[0],
                      .C = args.x_RC.shape[1],
                      .eps = args.eps,
                      .packed = false};
  const T* w = args.w_C.as<T>();
  const T* b = data_or_null<T>(args.b_C);
  a.packed = can_pack<T>(a.C, a.x, a.residual, a.sum, a.y, w, b);
  const TeamPlan plan = plan_team<T>(a.C);
  const auto start = [&](auto kernel) {
    launch(queue, kernel, Grid{.x = blocks_for(a.R, plan.teams())}, plan.threads, plan.shared_bytes, a, w, b, plan.lanes);
  };
  switch (plan.kind) {
    case TeamKind::lanes: return start(norm_forward_kernel<T, kLayer, true, LaneTeam>);
    case TeamKind::block: return start(norm_forward_kernel<T, kLayer, true, BlockTeam>);
    case TeamKind::block_loop: return start(norm_forward_kernel<T, kLayer, false, BlockTeam>);
  }
}

}  // namespace

void layernorm_forward(const kernels::NormForwardArgs& args, GpuQueue& queue) {
  with_type(args.x_RC.dtype, [&]<class T>() { forward<T, true>(args, queue); });
}
void rmsnorm_forward(const kernels::NormForwardArgs& args, GpuQueue& queue) {
  with_type(args.x_RC.dtype, [&]<class T>() { forward<T, false>(args, queue); });
}

}  // namespace strata::STRATA_GPU
