// What to tell the user when a loss or a norm is not finite: the first tensor, in the order of computation, that holds a bad
// value.
#include <algorithm>
#include <cmath>
#include <string>

#include "runtime/kernels/elementwise.h"
#include "trainer/engine.h"

namespace strata {

Result<std::int64_t> Engine::nonfinite_in(const ConstTensorRef& values, Tier tier) {
  if (dry()) return std::int64_t{-1};
  if (!window_ || tier != Tier::gpu) return kernels::find_nonfinite(values);
  const auto size = static_cast<std::int64_t>(size_of(values.dtype));
  const std::int64_t step = static_cast<std::int64_t>(window_.size()) / size;
  for (std::int64_t first = 0; first < values.numel(); first += step) {
    const std::int64_t count = std::min(step, values.numel() - first);
    copy_async(values.data + first * size, window_.data(), static_cast<std::size_t>(count * size), *compute_);
    STRATA_RETURN_IF_ERROR(compute_->ref().synchronize());
    const std::int64_t index = kernels::find_nonfinite({window_.data(), values.dtype, {count}});
    if (index >= 0) return first + index;
  }
  return std::int64_t{-1};
}

Status Engine::first_bad_parameter(std::string* found) {
  for (int u = 0; u < model_.unit_count() && found->empty(); ++u) {
    const ParamLease lease = params_->acquire(u);
    STRATA_RETURN_IF_ERROR(compute_->ref().synchronize());
    for (std::size_t p = 0; p < lease.params().size() && found->empty(); ++p) {
      STRATA_ASSIGN_OR_RETURN(const std::int64_t index, nonfinite_in(lease.params()[p]));
      if (index >= 0)
        *found = "parameter " + layout_.units[static_cast<std::size_t>(u)].params[p].name + "[" + std::to_string(index) + "]";
    }
  }
  return {};
}

Status Engine::first_bad_activation(std::string* found) {
  const std::vector<TensorRef> no_grads;
  for (int slot = 0; slot < options_.micro_batches; ++slot) {  // all of it on every rank: gathering is collective
    const Batch batch = batch_view(slot);
    Tensor x;
    for (std::size_t u = 0; u < model_.body().size(); ++u) {
      const Leases leases = acquire(static_cast<int>(u));
      const UnitContext ctx{*compute_, gpu_, options_.compute, batch, leases.params, no_grads};
      x = model_.body()[u]->forward(ctx, x, nullptr);
      STRATA_RETURN_IF_ERROR(compute_->ref().synchronize());
      STRATA_ASSIGN_OR_RETURN(const std::int64_t index, nonfinite_in(x));
      if (index >= 0 && found->empty())
        *found =
            "output of " + model_.body()[u]->name() + " [" + std::to_string(index) + "] in micro-batch " + std::to_string(slot);
    }
    const std::int64_t row = dry() ? -1 : kernels::find_nonfinite(losses_.host().rows(slot, 1));
    if (row >= 0 && found->empty()) *found = "loss of row " + std::to_string(row) + " in micro-batch " + std::to_string(slot);
  }
  return {};
}

Status Engine::first_bad_gradient(std::string* found) {
  for (int u = model_.unit_count() - 1; u >= 0 && found->empty(); --u) {
    if (optimizer_->units().is_frozen(u)) continue;
    STRATA_RETURN_IF_ERROR(grads_->look_at(u, [&](const ConstTensorRef& values, std::int64_t first) -> Status {
      STRATA_ASSIGN_OR_RETURN(const std::int64_t index, nonfinite_in(values, grads_->home(u)));
      if (index >= 0 && found->empty())
        *found = "gradient of " + element_name(layout_.units[static_cast<std::size_t>(u)], first + index);
      return {};
    }));
  }
  return {};
}

Status Engine::diagnose(std::int64_t step, const StepResult& result) {
  // Every rank takes part in gathering parameters; the first rank that found something is quoted.
  std::string found;
  STRATA_RETURN_IF_ERROR(first_bad_parameter(&found));
  std::string activation;
  STRATA_RETURN_IF_ERROR(first_bad_activation(&activation));
  if (found.empty()) found = activation;
  STRATA_RETURN_IF_ERROR(first_bad_gradient(&found));
  STRATA_ASSIGN_OR_RETURN(const auto all,
                          control_->gather_all(std::as_bytes(std::span(found)), "diagnosis of a non-finite value"));
  std::string first = "no single tensor: the sum of squared gradients overflows";
  for (std::size_t r = all.size(); r-- > 0;)
    if (!all[r].empty())
      first = std::string(reinterpret_cast<const char*>(all[r].data()), all[r].size()) + " on rank " + std::to_string(r);
  return Status(Code::numerical,
                "step " + std::to_string(step) + ": loss " + std::to_string(result.loss) + ", gradient norm " +
                    std::to_string(result.grad_norm) + " is not finite; first offending tensor: " + first +
                    ". Parameters were not updated. Lower optimizer.lr, lengthen scheduler.warmup_steps or resume from an "
                    "earlier checkpoint")
      .on_every_rank();
}

}  // namespace strata
