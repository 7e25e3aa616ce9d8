// Gradients of LayerNorm and RMSNorm in one pass over memory: a block takes the rows of one partial sum of dw and db.
#include "runtime/gpu/kernels/entries.h"
#include "runtime/gpu/kernels/normalise_backward.h"
#include "runtime/gpu/kernels/reduce.h"
#include "runtime/kernels/norm.h"

namespace strata::STRATA_GPU {
namespace {

template <class T>
struct BackwardLoop {
  const T* dy;
  const T* s;
  const T* dresidual;
  T* dx;
  const float* mean;
  const float* rstd;
  std::int64_t R, C;
  bool packed;
  Partials partials;
};

template <class T, bool kLayer, bool kBias, bool kHeld, class Team>
STRATA_KERNEL STRATA_LAUNCH_BOUNDS(Team::kIsBlock ? kMostTeamThreads : kThreads, Team::kIsBlock ? 1 : 2)
    norm_backward_kernel(BackwardLoop<T> a, const T* __restrict__ w, int lanes) {
  Team team(lanes);
  const std::int64_t first = block_x() * a.partials.rows;
  const std::int64_t last = first + a.partials.rows < a.R ? first + a.partials.rows : a.R;
  float* partial = a.partials.data + block_x() * a.partials.width;
  const RowCut whole = cut_row<T>(a.C, a.packed, true);
  const ColumnSums<T, kHeld> dw(0, whole, team, partial);
  const ColumnSums<T, kHeld> db = kBias ? ColumnSums<T, kHeld>(1, whole, team, partial + a.C) : dw;
  for (std::int64_t start = first; start < last; start += team.teams_in_block()) {
    const std::int64_t r = start + team.index_in_block();
    const bool exists = r < last;
    const std::int64_t at = r * a.C;
    const BackwardRow<T> row = {.dy = a.dy + at,
                                .s = a.s + at,
                                .dresidual = a.dresidual != nullptr ? a.dresidual + at : nullptr,
                                .dx = a.dx + at,
                                .mean = kLayer && exists ? a.mean[r] : 0.0f,
                                .rstd = exists ? a.rstd[r] : 0.0f};
    normalise_backward<T, kLayer, kBias, kHeld>(row, w, cut_row<T>(a.C, a.packed, exists), team, dw, db);
  }
  sync_block();
  dw.store(whole, team, partial);
  if (kBias) db.store(whole, team, partial + a.C);
}

template <class T, bool kLayer, bool kBias>
void enqueue(const BackwardLoop<T>& a, const T* w, GpuQueue& queue) {
  const TeamPlan plan = plan_backward<T>(a.C, kBias ? 2 : 1);
  const auto start = [&](auto kernel) {
    launch(queue, kernel, Grid{.x = a.partials.count}, plan.threads, plan.shared_bytes, a, w, plan.lanes);
  };
  switch (plan.kind) {
    case TeamKind::lanes: return start(norm_backward_kernel<T, kLayer, kBias, true, LaneTeam>);
    case TeamKind::block: return start(norm_backward_kernel<T, kLayer, kBias, true, BlockTeam>);
    case TeamKind::block_loop: return start(norm_backward_kernel<T, kLayer, kBias, false, BlockTeam>);
  }
}

template <class T, bool kLayer>
void backward(const char* name, const kernels::NormBackwardArgs& args, GpuQueue& queue) {
  const std::int64_t R = args.s_RC.shape[0], C = args.s_RC.shape[1];
  float* db = data_or_null<float>(args.db_C);
  const auto partials = make_partials(queue, name, R, db != nullptr ? 2 * C : C);
  if (!partials) return;
  BackwardLoop<T> a = {.dy = args.dy_RC.as<T>(),
                       .s = args.s_RC.as<T>(),
                       .dresidual = data_or_null<T>(args.dresidual_RC),
                       .dx = args.dx_RC.as<T>(),
                       .mean = kLayer ? args.mean_R.as<float>() : nullptr,
                       .rstd = args.rstd_R.as<float>(),
                       .R = R,
                       .C = C,
                       .packed = false,
                       .partials = *partials};
  const T* w = args.w_C.as<T>();
  a.packed = can_pack<T>(C, a.dy, a.s, a.dresidual, a.dx, w);
  if constexpr (kLayer) {
    db != nullptr ? enqueue<T, true, true>(a, w, queue) : enqueue<T, true, false>(a, w, queue);
  } else {
    enqueue<T, false, false>(a, w, queue);
  }
  add_partials(*partials, 0, C, args.dw_C.as<float>(), queue);
  if (db != nullptr) add_partials(*partials, C, C, db, queue);
}

}  // namespace

void layernorm_backward(const kernels::NormBackwardArgs& args, GpuQueue& queue) {
  with_type(args.s_RC.dtype, [&]<class T>() { backward<T, true>("layernorm_backward", args, queue); });
}
void rmsnorm_backward(const kernels::NormBackwardArgs& args, GpuQueue& queue) {
  with_type(args.s_RC.dtype, [&]<class T>() { backward<T, false>("rmsnorm_backward", args, queue); });
}

}  // namespace strata::STRATA_GPU
