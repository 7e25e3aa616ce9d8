#include "optim/frugal.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>

#include "optim/frugal_kernels.h"
#include "optim/frugal_subspace.h"
#include "optim/gpu_kernels.h"
#include "optim/row_method.h"
#include "runtime/gpu/driver.h"
#include "runtime/kernels/isa.h"

namespace strata {
namespace {

float rounded(double x) { return static_cast<float>(x); }

StatefulKind kind_of(FrugalChoice choice) {
  if (choice == FrugalChoice::columns) return StatefulKind::columns;
  if (choice == FrugalChoice::rows) return StatefulKind::rows;
  STRATA_CHECK(choice == FrugalChoice::entries, "tensors and subspaces are not chosen by sets");
  return StatefulKind::entries;
}

// Calls one member of a table, whose last arguments are `more`.
template <class Table, class... More>
void call(const Table& table, const FrugalConfig& config, UpdateSlice slice, const UpdateStep& step, const ParamGroup& group,
          More&... more) {
  FrugalPeriod period{.local_step = step.number, .states_are_zero = step.number == 1};
  if (group.projected) period = frugal_period(config, step.number);
  slice.states_are_zero = slice.states_are_zero || period.states_are_zero;
  const double lr = step.lr * group.lr_scale;
  const double projected = group.projected ? lr * config.proj_params_lr_scale : lr;
  const UpdateStep local{.number = period.local_step, .lr = projected, .grad_scale = step.grad_scale};
  const float decay_factor = rounded(1.0 - lr * group.weight_decay);
  const StateFreeScalars rest{.rule = config.state_free,
                              .lr = rounded(projected * config.inactive_lr_scale),
                              .decay_factor = decay_factor,
                              .grad_scale = rounded(step.grad_scale)};
  if (const auto* adamw = std::get_if<AdamWConfig>(&config.stateful)) {
    AdamWScalars scalars = adamw_scalars(*adamw, local, {});
    scalars.decay_factor = decay_factor;
    table.adamw(slice, scalars, rest, more...);
  } else if (const auto* lion = std::get_if<LionConfig>(&config.stateful)) {
    LionScalars scalars = lion_scalars(*lion, local, {});
    scalars.decay_factor = decay_factor;
    table.lion(slice, scalars, rest, more...);
  } else {
    const FrugalMomentumScalars scalars{.lr = rounded(projected),
                                        .momentum = rounded(std::get<FrugalMomentumConfig>(config.stateful).momentum),
                                        .decay_factor = decay_factor,
                                        .grad_scale = rounded(step.grad_scale)};
    table.momentum(slice, scalars, rest, more...);
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

Frugal::Frugal(const FrugalConfig& config, std::uint64_t seed) : config_(config), seed_(seed) {
  STRATA_CHECK(config.density >= 0.0 && config.density <= 1.0, "FRUGAL's density is a part");
  STRATA_CHECK(config.update_gap >= 1, "FRUGAL's update_gap is a number of steps");
  if (config.choice == FrugalChoice::singular_vectors || config.choice == FrugalChoice::random_space)
    subspace_ = make_subspace_method(config, seed);
}

std::vector<std::string> Frugal::states() const {
  if (std::holds_alternative<AdamWConfig>(config_.stateful)) return {"m", "v"};
  if (std::holds_alternative<LionConfig>(config_.stateful)) return {"m"};
  return {"momentum"};
}

namespace {

bool chooses(const FrugalConfig& config, const ParamGroup& group) {
  return group.projected && (config.choice == FrugalChoice::columns || config.choice == FrugalChoice::rows ||
                             config.choice == FrugalChoice::entries);
}

const char* to_string(BlockOrder order) {
  switch (order) {
    case BlockOrder::random: return "random";
    case BlockOrder::ascending: return "ascending";
    case BlockOrder::descending: return "descending";
    case BlockOrder::mirror: return "mirror";
  }
  return "?";
}

const char* to_string(FrugalChoice choice) {
  switch (choice) {
    case FrugalChoice::columns: return "columns";
    case FrugalChoice::rows: return "rows";
    case FrugalChoice::entries: return "entries";
    case FrugalChoice::tensors: return "tensors";
    case FrugalChoice::singular_vectors: return "singular vectors";
    case FrugalChoice::random_space: return "random space";
  }
  return "?";
}

}  // namespace

std::vector<std::int64_t> Frugal::active_matrices(std::int64_t matrices, std::int64_t choice) const {
  const std::int64_t count = active_block_count(config_.block_order, matrices, config_.density).value();
  return active_blocks(config_.block_order, matrices, count, choice, seed_);
}

bool Frugal::takes_turns(const ParamShape&, const ParamGroup& group) const {
  return group.projected && config_.choice == FrugalChoice::tensors;
}

Status Frugal::accepts(std::int64_t matrices) const {
  if (config_.choice != FrugalChoice::tensors) return {};
  return active_block_count(config_.block_order, matrices, config_.density).status();
}

std::int64_t Frugal::most_at_once(std::span<const std::int64_t> elements) const {
  if (config_.choice != FrugalChoice::tensors) return 0;
  const std::int64_t matrices = std::ssize(elements);
  if (config_.block_order == BlockOrder::random) {
    std::vector<std::int64_t> sorted(elements.begin(), elements.end());
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    const auto count = active_block_count(config_.block_order, matrices, config_.density).value();
    return std::accumulate(sorted.begin(), sorted.begin() + count, std::int64_t{0});
  }
  std::int64_t most = 0;
  for (std::int64_t choice = 0; choice < matrices; ++choice) {  // then they come again
    std::int64_t all = 0;
    for (const std::int64_t matrix : active_matrices(matrices, choice)) all += elements[static_cast<std::size_t>(matrix)];
    most = std::max(most, all);
  }
  return most;
}

StatefulSet Frugal::stateful(const ParamShape& param, const ParamGroup& group, std::int64_t choice) const {
  if (takes_turns(param, group)) {
    const std::vector<std::int64_t> active = active_matrices(param.matrices, choice);
    const auto is_active = [&](std::int64_t matrix) { return std::binary_search(active.begin(), active.end(), matrix); };
    std::vector<std::int64_t> rows;
    std::int64_t matrix = param.first_matrix, first = 0;
    const std::array whole = {param.rows};
    for (const std::int64_t part : param.parts.empty() ? std::span<const std::int64_t>(whole) : param.parts) {
      for (std::int64_t row = first; row < first + part && is_active(matrix); ++row) rows.push_back(row);
      first += part;
      ++matrix;
    }
    if (rows.empty()) return StatefulSet::none(param.rows, param.columns);
    if (std::ssize(rows) == param.rows) return StatefulSet::all(param.rows, param.columns);
    return StatefulSet::of(StatefulKind::rows, param.rows, param.columns, rows);
  }
  if (!chooses(config_, group)) return Optimizer::stateful(param, group, choice);
  return frugal_set(config_, param.rows, param.columns, {seed_, param.name, choice});
}

std::int64_t Frugal::most_states(const ParamShape& param, const ParamGroup& group, std::int64_t first, std::int64_t n) const {
  if (!chooses(config_, group)) return n;
  return StatefulSet::most_drawn(kind_of(config_.choice), param.rows, param.columns,
                                 frugal_count(config_.choice, param.rows, param.columns, config_.density), first, n);
}

std::int64_t Frugal::stateful_words(const ParamShape& param, const ParamGroup& group) const {
  if (takes_turns(param, group))
    return param.parts.size() > 1 ? StatefulSet::word_count(StatefulKind::rows, param.rows, param.columns) : 0;
  return chooses(config_, group) ? StatefulSet::word_count(kind_of(config_.choice), param.rows, param.columns) : 0;
}

std::string Frugal::choice_rule() const {
  const bool tensors = config_.choice == FrugalChoice::tensors;
  return fmt::format("{}{} density {} every {} steps, seed {}{}", to_string(config_.choice),
                     tensors ? std::string(" ") + to_string(config_.block_order) : "", config_.density, config_.update_gap,
                     seed_, config_.reset_statistics || tensors ? "" : ", states are kept");
}

void Frugal::update(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group) const {
  call(frugal_kernels(), config_, slice, step, group);
}

void Frugal::enqueue_on_gpu(const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group, const GpuDriver& driver,
                            GpuQueue& queue) const {
  call(driver.table<OptimGpuKernels>().frugal, config_, slice, step, group, queue);
}

}  // namespace strata
