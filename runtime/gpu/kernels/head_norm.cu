// RMSNorm of the query and key heads of fused qkv rows: every head is a row of H elements, and heads lie behind each other.
#include "runtime/gpu/kernels/entries.h"
#include "runtime/gpu/kernels/normalise_backward.h"
#include "runtime/gpu/kernels/reduce.h"
#include "runtime/kernels/norm.h"

namespace strata::STRATA_GPU {
namespace {

template <class T>
struct HeadForwardLoop {
  const T* in;
  T* out;
  float* rstd;
  std::int64_t R, N, K, H;
  float eps;
  bool packed;
};

// A team takes a head; a value head is copied, while the other teams of its warp sum.
template <class T, bool kHeld, class Team>
STRATA_KERNEL STRATA_LAUNCH_BOUNDS(kThreads, 1)
    head_forward_kernel(HeadForwardLoop<T> a, const T* __restrict__ wq, const T* __restrict__ wk, int lanes) {
  Team team(lanes);
  const std::int64_t heads = a.N + 2 * a.K;
  const std::int64_t i = block_x() * team.teams_in_block() + team.index_in_block();
  const std::int64_t r = i / heads, m = i % heads;
  const bool exists = r < a.R, normalised = m < a.N + a.K;
  const T* in = a.in + i * a.H;
  T* out = a.out + i * a.H;
  if (exists && !normalised) {
    const RowCut cut = cut_row<T>(a.H, a.packed, true);
    for (int c = team.rank; c < cut.slices; c += team.size) {
      Slice<T> slice;
      slice.load(in, cut, c);
      slice.store(out, cut, c);
    }
  }
  const ForwardRow<T> row = {
      .x = in, .residual = nullptr, .sum = nullptr, .y = out, .mean = nullptr, .rstd = a.rstd + r * (a.N + a.K) + m};
  const RowCut cut = cut_row<T>(a.H, a.packed, exists && normalised);
  normalise<T, false, kHeld>(row, m < a.N ? wq : wk, static_cast<const T*>(nullptr), cut, a.eps, team);
}

template <class T>
struct HeadBackwardLoop {
  T* dqkv;
  const T* in;
  const float* rstd;
  std::int64_t R, N, K, H;
  bool packed;
  Partials partials;  // columns: wq, wk
};

// Blocks: rows of a partial sum in x; in y its query heads (0) and its key heads (1).
template <class T, bool kHeld, class Team>
STRATA_KERNEL STRATA_LAUNCH_BOUNDS(kThreads, 1)
    head_backward_kernel(HeadBackwardLoop<T> a, const T* __restrict__ wq, const T* __restrict__ wk, int lanes) {
  Team team(lanes);
  const bool query = block_y() == 0;
  const std::int64_t heads = query ? a.N : a.K;
  const std::int64_t first_row = block_x() * a.partials.rows;
  const std::int64_t rows = first_row + a.partials.rows < a.R ? a.partials.rows : a.R - first_row;
  float* partial = a.partials.data + block_x() * a.partials.width + (query ? 0 : a.H);
  const RowCut whole = cut_row<T>(a.H, a.packed, true);
  const ColumnSums<T, kHeld> dw(0, whole, team, partial);
  for (std::int64_t start = 0; start < rows * heads; start += team.teams_in_block()) {
    const std::int64_t i = start + team.index_in_block();
    const bool exists = i < rows * heads;
    const std::int64_t r = first_row + i / heads, m = (query ? 0 : a.N) + i % heads;
    const std::int64_t at = (r * (a.N + 2 * a.K) + m) * a.H;
    const BackwardRow<T> row = {.dy = a.dqkv + at,
                                .s = a.in + at,
                                .dresidual = nullptr,
                                .dx = a.dqkv + at,
                                .mean = 0.0f,
                                .rstd = exists ? a.rstd[r * (a.N + a.K) + m] : 0.0f};
    normalise_backward<T, false, false, kHeld>(row, query ? wq : wk, cut_row<T>(a.H, a.packed, exists), team, dw, dw);
  }
  sync_block();
  dw.store(whole, team, partial);
}

// Heads are short: a block loops over one that a warp cannot hold.
TeamPlan plan_heads(TeamPlan plan) {
  if (plan.kind == TeamKind::lanes) return plan;
  return {TeamKind::block_loop, 0, kThreads, BlockTeam::kSharedBytes};
}

template <class T>
void forward(const kernels::HeadNormForwardArgs& args, GpuQueue& queue) {
  const T* wq = args.wq_H.as<T>();
  const T* wk = args.wk_H.as<T>();
  const HeadForwardLoop<T> a = {.in = args.in_RD.as<T>(),
                                .out = args.out_RD.as<T>(),
                                .rstd = args.rstd_RM.as<float>(),
                                .R = args.in_RD.shape[0],
                                .N = args.N,
                                .K = args.K,
                                .H = args.H,
                                .eps = args.eps,
                                .packed = can_pack<T>(args.H, args.in_RD.as<T>(), args.out_RD.as<T>(), wq, wk)};
  const TeamPlan plan = plan_heads(plan_team<T>(a.H));
  const Grid grid = {.x = blocks_for(a.R * (a.N + 2 * a.K), plan.teams())};
  if (plan.kind == TeamKind::lanes)
    launch(queue, head_forward_kernel<T, true, LaneTeam>, grid, plan.threads, plan.shared_bytes, a, wq, wk, plan.lanes);
  else
    launch(queue, head_forward_kernel<T, false, BlockTeam>, grid, plan.threads, plan.shared_bytes, a, wq, wk, plan.lanes);
}

template <class T>
void backward(const kernels::HeadNormBackwardArgs& args, GpuQueue& queue) {
  const auto partials = make_partials(queue, "head_rmsnorm_backward", args.in_RD.shape[0], 2 * args.H);
  if (!partials) return;
  const T* wq = args.wq_H.as<T>();
  const T* wk = args.wk_H.as<T>();
  const HeadBackwardLoop<T> a = {.dqkv = args.dqkv_RD.as<T>(),
                                 .in = args.in_RD.as<T>(),
                                 .rstd = args.rstd_RM.as<float>(),
                                 .R = args.in_RD.shape[0],
                                 .N = args.N,
                                 .K = args.K,
                                 .H = args.H,
                                 .packed = can_pack<T>(args.H, args.dqkv_RD.as<T>(), args.in_RD.as<T>(), wq, wk),
                                 .partials = *partials};
  const TeamPlan plan = plan_heads(plan_backward<T>(a.H, 1));
  const Grid grid = {.x = partials->count, .y = 2};
  if (plan.kind == TeamKind::lanes)
    launch(queue, head_backward_kernel<T, true, LaneTeam>, grid, plan.threads, plan.shared_bytes, a, wq, wk, plan.lanes);
  else
    launch(queue, head_backward_kernel<T, false, BlockTeam>, grid, plan.threads, plan.shared_bytes, a, wq, wk, plan.lanes);
  if (a.N > 0) add_partials(*partials, 0, a.H, args.dwq_H.as<float>(), queue);
  if (a.K > 0) add_partials(*partials, a.H, a.H, args.dwk_H.as<float>(), queue);
}

}  // namespace

void head_rmsnorm_forward(const kernels::HeadNormForwardArgs& args, GpuQueue& queue) {
  with_type(args.in_RD.dtype, [&]<class T>() { forward<T>(args, queue); });
}
void head_rmsnorm_backward(const kernels::HeadNormBackwardArgs& args, GpuQueue& queue) {
  with_type(args.in_RD.dtype, [&]<class T>() { backward<T>(args, queue); });
}

}  // namespace strata::STRATA_GPU
