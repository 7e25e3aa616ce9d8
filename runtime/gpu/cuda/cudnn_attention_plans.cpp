#include "runtime/gpu/cuda/cudnn_attention_plans.h"

#if STRATA_HAS_CUDNN

namespace strata {
namespace {

// What the fused engines are documented not to take, said in our words.
Status check_shape(const kernels::AttentionShape& s) {
  if (s.T < 2) return {Code::unsupported, "cuDNN's attention takes sequences of 2 tokens or more"};
  if (s.H % 8 != 0) return {Code::unsupported, "cuDNN's attention takes head sizes that are multiples of 8"};
  return {};
}

// The whole, then its largest parts: fewer sequences, then one sequence's key heads with their queries.
std::vector<CudnnAttentionPart> parts_of(const CudnnAttentionPart& whole) {
  std::vector<CudnnAttentionPart> parts;
  CudnnAttentionPart part = whole;
  for (part.B = whole.B; part.B >= 1; --part.B)
    if (whole.B % part.B == 0) parts.push_back(part);
  part.B = 1;
  for (part.K = whole.K - 1; part.K >= 1; --part.K) {
    if (whole.K % part.K != 0) continue;
    part.N = part.K * (whole.N / whole.K);
    parts.push_back(part);
  }
  return parts;
}

}  // namespace

Result<CudnnAttentionPlans::Prepared> CudnnAttentionPlans::prepare(Direction direction, const CudnnAttentionPart& whole,
                                                                   std::size_t workspace) const {
  Status refused;
  for (const CudnnAttentionPart& part : parts_of(whole)) {
    CudnnGraph graph(api_);
    direction == Direction::forward ? add_attention_forward(graph, part) : add_attention_backward(graph, part);
    Result<CudnnPlan> plan = graph.plan(properties_, workspace);
    if (plan.ok()) return Prepared{part, std::move(graph), std::move(plan).value()};
    refused = plan.status();
    if (refused.code() != Code::out_of_budget) break;
  }
  return Status(Code::unsupported, refused.message());
}

Result<const CudnnAttentionPlans::Prepared*> CudnnAttentionPlans::get(Direction direction, const kernels::AttentionShape& s,
                                                                      std::size_t workspace) {
  const std::string what = (direction == Direction::forward ? "attention forward of " : "attention backward of ") +
                           std::to_string(s.B) + " sequences of " + std::to_string(s.T) + " tokens, " + std::to_string(s.N) +
                           " heads of " + std::to_string(s.H) + " over " + std::to_string(s.K) + " key heads";
  const std::string advice = "; set device.attention: strata";
  const auto refuse = [&](const Status& status) { return Status(status.code(), status.message() + advice).with_context(what); };
  if (const Status status = check_shape(s); !status.ok()) return refuse(status);
  const CudnnAttentionPart whole = {
      .B = s.B, .T = s.T, .N = s.N, .K = s.K, .H = s.H, .qkv_row = (s.N + 2 * s.K) * s.H, .o_row = s.N * s.H};
  const std::lock_guard lock(mutex_);
  const Key key{direction, whole, workspace};
  if (const auto found = prepared_.find(key); found != prepared_.end()) return &found->second;
  Result<Prepared> made = prepare(direction, whole, workspace);
  if (!made.ok()) return refuse(made.status());
  return &prepared_.emplace(key, std::move(made).value()).first->second;
}

}  // namespace strata

#endif
