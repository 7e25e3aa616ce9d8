#include "optim/frugal.h"

#include <algorithm>

#include "optim/frugal_kernels.h"
#include "optim/gpu_kernels.h"
#include "runtime/gpu/driver.h"
#include "runtime/kernels/isa.h"

namespace strata {
namespace {

float rounded(double x) { return static_cast<float>(x); }

StatefulKind kind_of(FrugalChoice choice) {
  STRATA_CHECK(choice != FrugalChoice::tensors, "whole tensors are chosen by active_blocks()");
  if (choice == FrugalChoice::columns) return StatefulKind::columns;
  return choice == FrugalChoice::rows ? StatefulKind::rows : StatefulKind::entries;
}

// Calls one member of a table, whose last arguments are `more`.
template <class Table, class... More>
void call(const Table& table, const FrugalConfig& config, const FrugalSlice& slice, const UpdateStep& step,
          const ParamGroup& group, More&... more) {
  const FrugalPeriod period = frugal_period(config, step.number);
  const double lr = step.lr * group.lr_scale;
  const double projected = lr * config.proj_params_lr_scale;
  const UpdateStep local{.number = period.local_step, .lr = projected, .grad_scale = step.grad_scale};
  const float decay_factor = rounded(1.0 - lr * group.weight_decay);
  const StateFreeScalars rest{.rule = config.state_free,
                              .lr = rounded(projected * config.inactive_lr_scale),
                              .decay_factor = decay_factor,
                              .grad_scale = rounded(step.grad_scale)};
  if (const auto* adamw = std::get_if<AdamWConfig>(&config.stateful)) {
    AdamWScalars scalars = adamw_scalars(*adamw, local, {});
    scalars.decay_factor = decay_factor;
    table.adamw(slice, scalars, rest, period.states_are_zero, more...);
  } else if (const auto* lion = std::get_if<LionConfig>(&config.stateful)) {
    LionScalars scalars = lion_scalars(*lion, local, {});
    scalars.decay_factor = decay_factor;
    table.lion(slice, scalars, rest, period.states_are_zero, more...);
  } else {
    const FrugalMomentumScalars scalars{.lr = rounded(projected),
                                        .momentum = rounded(std::get<FrugalMomentumConfig>(config.stateful).momentum),
                                        .decay_factor = decay_factor,
                                        .grad_scale = rounded(step.grad_scale)};
    table.momentum(slice, scalars, rest, period.states_are_zero, more...);
  }
}

}  // namespace

const FrugalKernels& frugal_kernels() {
#if defined(__x86_64__)
  switch (kernels::active_isa()) {
    case kernels::Isa::generic: break;
    case kernels::Isa::avx2: return isa_avx2::frugal_kernels();
    case kernels::Isa::avx512: return isa_avx512::frugal_kernels();
  }
#endif
  return isa_generic::frugal_kernels();
}

std::int64_t frugal_count(FrugalChoice choice, std::int64_t rows, std::int64_t columns, double density) {
  STRATA_CHECK(density >= 0.0 && density <= 1.0, "a density is a part");
  const StatefulKind kind = kind_of(choice);
  const std::int64_t n = kind == StatefulKind::columns ? columns : kind == StatefulKind::rows ? rows : rows * columns;
  return static_cast<std::int64_t>(static_cast<double>(n) * density);
}

FrugalPeriod frugal_period(const FrugalConfig& config, std::int64_t step) {
  STRATA_CHECK(step >= 1, "FRUGAL counts steps from 1");
  const std::int64_t before = step - 1;
  const bool resets = config.reset_statistics || config.choice == FrugalChoice::tensors;
  const bool begins = before % config.update_gap == 0;
  return {.refresh = before / config.update_gap,
          .local_step = resets ? before % config.update_gap + 1 : step,
          .begins = begins,
          .states_are_zero = begins && (resets || step == 1)};
}

StatefulSet frugal_set(const FrugalConfig& config, std::int64_t rows, std::int64_t columns, const StatefulKey& key) {
  return StatefulSet::draw(kind_of(config.choice), rows, columns, frugal_count(config.choice, rows, columns, config.density),
                           key);
}

FrugalSlice frugal_slice(const StatefulSet& set, const UpdateSlice& range, std::int64_t first, const StatefulWord* words) {
  STRATA_CHECK(first >= 0 && range.n >= 0 && first + range.n <= set.rows() * set.columns(), "a range is of its matrix");
  return {.range = range,
          .map = words == nullptr ? set.map() : set.map(words),
          .first = first,
          .states_before_first = states_before(set.map(), first)};
}

FrugalSlice part(const FrugalSlice& slice, std::int64_t begin, std::int64_t n) {
  FrugalSlice part = slice;
  part.first = slice.first + begin;
  part.states_before_first = states_before(slice.map, part.first);
  // The states move by other steps than the rest.
  UpdateSlice rest = slice.range;
  rest.states = rest.new_states = {};
  part.range = strata::part(rest, begin, n);
  const std::int64_t states = part.states_before_first - slice.states_before_first;
  const auto moved = [states](float* array) { return array == nullptr ? nullptr : array + states; };
  std::transform(slice.range.states.begin(), slice.range.states.end(), part.range.states.begin(), moved);
  std::transform(slice.range.new_states.begin(), slice.range.new_states.end(), part.range.new_states.begin(), moved);
  return part;
}

Frugal::Frugal(const FrugalConfig& config) : config_(config) {
  STRATA_CHECK(config.density >= 0.0 && config.density <= 1.0, "FRUGAL's density is a part");
  STRATA_CHECK(config.update_gap >= 1, "FRUGAL's update_gap is a number of steps");
}

std::vector<std::string> Frugal::states() const {
  if (std::holds_alternative<AdamWConfig>(config_.stateful)) return {"m", "v"};
  if (std::holds_alternative<LionConfig>(config_.stateful)) return {"m"};
  return {"momentum"};
}

void Frugal::update(const FrugalSlice& slice, const UpdateStep& step, const ParamGroup& group) const {
  call(frugal_kernels(), config_, slice, step, group);
}

void Frugal::update(const FrugalSlice& slice, const UpdateStep& step, const ParamGroup& group, ThreadPool& pool) const {
  const std::int64_t n = slice.range.n;
  pool.parallel_for((n + kUpdateBlock - 1) / kUpdateBlock, [&](std::int64_t block) {
    const std::int64_t begin = block * kUpdateBlock;
    update(part(slice, begin, std::min(kUpdateBlock, n - begin)), step, group);
  });
}

void Frugal::enqueue_on_gpu(const FrugalSlice& slice, const UpdateStep& step, const ParamGroup& group, const GpuDriver& driver,
                            GpuQueue& queue) const {
  call(driver.table<OptimGpuKernels>().frugal, config_, slice, step, group, queue);
}

}  // namespace strata
