#include "trainer/model_setup.h"

#include <algorithm>
#include <cmath>

#include "model/hf.h"
#include "optim/adamw.h"
#include "optim/apollo_optimizer.h"
#include "optim/freeze_policy.h"
#include "optim/frugal.h"
#include "optim/galore_optimizer.h"
#include "optim/lion.h"
#include "optim/sgd.h"
#include "trainer/gpu_setup.h"

namespace strata {

bool wants_long_rows(const Config::Optimizer& optimizer) {
  switch (optimizer.type) {
    case Config::Optimizer::Type::adamw:
    case Config::Optimizer::Type::lion:
    case Config::Optimizer::Type::sgd: break;
    case Config::Optimizer::Type::frugal: return *optimizer.proj_type != Config::Optimizer::Space::none;
    case Config::Optimizer::Type::apollo:
    case Config::Optimizer::Type::galore: return true;
  }
  return false;
}

Result<ModelConfig> model_config_of(const Config& resolved) {
  if (resolved.model.hf.empty()) return model_config(resolved);
  STRATA_ASSIGN_OR_RETURN(ModelConfig config, read_hf_config(resolved.model.hf));
  config.long_rows = wants_long_rows(resolved.optimizer);
  using Type = Config::Model::Type;
  const Type found = config.architecture == Architecture::gpt2 ? Type::gpt2 : Type::llama;
  if (resolved.model.type != Type::automatic && resolved.model.type != found)
    return Status(Code::invalid_config, "model.type is " + std::string(found == Type::gpt2 ? "llama" : "gpt2") + ", but " +
                                            resolved.model.hf + " holds a " + to_string(config.architecture) +
                                            " model; remove model.type");
  return config;
}

namespace {

Rates rates_of(const Config::Device::Speeds& speeds) {
  Rates rates;
  rates[Resource::compute] = speeds.compute_unit > 0.0 ? 1.0 / speeds.compute_unit : 0.0;
  rates[Resource::gpu_to_cpu] = static_cast<double>(speeds.d2h);
  rates[Resource::cpu_to_gpu] = static_cast<double>(speeds.h2d);
  rates[Resource::cpu_update] = static_cast<double>(speeds.cpu_update);
  rates[Resource::gpu_update] = static_cast<double>(speeds.gpu_update);
  rates[Resource::nvme_read] = static_cast<double>(speeds.nvme_read);
  rates[Resource::nvme_write] = static_cast<double>(speeds.nvme_write);
  return rates;
}

BlockOrder block_order_of(const std::optional<Config::Optimizer::BlockOrder>& order) {
  using Order = Config::Optimizer::BlockOrder;
  switch (order.value_or(Order::descending)) {
    case Order::random: return BlockOrder::random;
    case Order::ascending: return BlockOrder::ascending;
    case Order::mirror: return BlockOrder::mirror;
    case Order::descending: break;
  }
  return BlockOrder::descending;
}

std::shared_ptr<const Optimizer> make_frugal(const Config::Optimizer& o, std::uint64_t seed) {
  using Choice = Config::Optimizer::Choice;
  using Inactive = Config::Optimizer::Inactive;
  using Space = Config::Optimizer::Space;
  FrugalConfig config{.choice = *o.proj_type == Space::svd           ? FrugalChoice::singular_vectors
                                : *o.proj_type == Space::random      ? FrugalChoice::random_space
                                : *o.coord_choice == Choice::columns ? FrugalChoice::columns
                                : *o.coord_choice == Choice::rows    ? FrugalChoice::rows
                                : *o.coord_choice == Choice::entries ? FrugalChoice::entries
                                                                     : FrugalChoice::tensors,
                      .block_order = block_order_of(o.block_order),
                      .density = o.density.value(),
                      .update_gap = o.update_gap,
                      .reset_statistics = o.reset_statistics.value(),
                      .state_free = *o.inactive_update_rule == Inactive::none  ? StateFreeRule::none
                                    : *o.inactive_update_rule == Inactive::sgd ? StateFreeRule::sgd
                                                                               : StateFreeRule::sign_sgd,
                      .inactive_lr_scale = o.inactive_lr_scale.value(),
                      .proj_params_lr_scale = o.proj_params_lr_scale.value()};
  switch (o.stateful.value()) {
    case Config::Optimizer::Stateful::adamw:
      config.stateful = AdamWConfig{.beta1 = o.beta1.value(), .beta2 = o.beta2.value(), .eps = o.eps.value()};
      break;
    case Config::Optimizer::Stateful::lion:
      config.stateful = LionConfig{.beta1 = o.beta1.value(), .beta2 = o.beta2.value()};
      break;
    case Config::Optimizer::Stateful::sgd: config.stateful = FrugalMomentumConfig{.momentum = o.momentum.value()}; break;
  }
  return std::make_shared<Frugal>(config, seed);
}

std::shared_ptr<const Optimizer> make_apollo(const Config::Optimizer& o, std::uint64_t seed) {
  return std::make_shared<Apollo>(
      ApolloMethodConfig{.apollo = {.beta1 = o.beta1.value(),
                                    .beta2 = o.beta2.value(),
                                    .eps = o.eps.value(),
                                    .scaling = *o.scale_type == Config::Optimizer::Scaling::channel ? ApolloScaling::channel
                                                                                                    : ApolloScaling::tensor,
                                    .scale = o.scale.value(),
                                    .scale_front = o.scale_front.value(),
                                    .limit_growth = !o.disable_nl.value(),
                                    .norm_floor = o.nl_floor.value()},
                         .rank = o.rank,
                         .update_gap = o.update_proj_gap,
                         .projections = *o.proj == Config::Optimizer::Projection::svd    ? ProjectionKind::svd
                                        : *o.proj_seeds == Config::Optimizer::Seeds::run ? ProjectionKind::philox
                                                                                         : ProjectionKind::torch},
      seed);
}

std::shared_ptr<const Optimizer> make_galore(const Config::Optimizer& o) {
  return std::make_shared<Galore>(GaloreMethodConfig{
      .galore = {.beta1 = o.beta1.value(), .beta2 = o.beta2.value(), .eps = o.eps.value(), .scale = o.scale.value()},
      .rank = o.rank,
      .update_gap = o.update_proj_gap});
}

StateFormat format_of(Config::Optimizer::StateDtype dtype) {
  using StateDtype = Config::Optimizer::StateDtype;
  return dtype == StateDtype::bf16 ? kBf16States : dtype == StateDtype::eight_bit ? kEightBitStates : kF32States;
}

// seed: of what an optimizer draws.
std::shared_ptr<const Optimizer> make_optimizer(const Config::Optimizer& o, std::uint64_t seed) {
  const StateStorage storage = {.format = format_of(o.state_dtype), .seed = seed};
  switch (o.type) {
    case Config::Optimizer::Type::frugal: return make_frugal(o, seed);
    case Config::Optimizer::Type::apollo: return make_apollo(o, seed);
    case Config::Optimizer::Type::galore: return make_galore(o);
    case Config::Optimizer::Type::adamw:
      return std::make_shared<AdamW>(AdamWConfig{.beta1 = o.beta1.value(), .beta2 = o.beta2.value(), .eps = o.eps.value()},
                                     storage);
    case Config::Optimizer::Type::lion:
      return std::make_shared<Lion>(LionConfig{.beta1 = o.beta1.value(), .beta2 = o.beta2.value()}, storage);
    case Config::Optimizer::Type::sgd: break;
  }
  return std::make_shared<Sgd>(SgdConfig{.momentum = o.momentum.value(), .nesterov = o.nesterov.value()}, storage);
}

std::shared_ptr<const FreezePolicy> make_freeze(const Config::Optimizer::Freeze& f, std::uint64_t seed) {
  using Freeze = Config::Optimizer::Freeze;
  switch (f.type) {
    case Freeze::Policy::none: break;
    case Freeze::Policy::lisa:
      return std::make_shared<Lisa>(LisaConfig{.activated_layers = f.lisa_activated_layers,
                                               .interval_steps = f.lisa_interval_steps,
                                               .drop_states = *f.states == Freeze::States::drop},
                                    seed);
    case Freeze::Policy::badam: {
      const BAdamOrder order = *f.switch_mode == Freeze::Mode::random      ? BAdamOrder::random
                               : *f.switch_mode == Freeze::Mode::ascending ? BAdamOrder::ascending
                                                                           : BAdamOrder::descending;
      return std::make_shared<BAdam>(BAdamConfig{.switch_block_every = f.switch_block_every, .switch_mode = order}, seed);
    }
    case Freeze::Policy::slimfit:
      return std::make_shared<SlimFit>(
          SlimFitConfig{.freezing_rate = *f.freezing_rate, .switch_block_every = f.switch_block_every}, seed);
  }
  return nullptr;
}

}  // namespace

EngineOptions engine_options(const Config& c, Rank rank) {
  EngineOptions options;
  options.compute = c.precision.compute;
  options.grads_dtype = c.precision.gradients;
  options.zero_stage = static_cast<int>(c.zero.stage);
  options.prefetch_units = static_cast<int>(c.zero.prefetch_units);
  options.micro_batch = c.training.micro_batch_size;
  options.micro_batches = static_cast<int>(c.training.gradient_accumulation_steps);
  options.vertical = c.offload.micro_batch_order == Config::Offload::Order::vertical;
  options.order_is_planned = c.offload.micro_batch_order == Config::Offload::Order::automatic;
  options.seq_length = c.training.seq_length;
  options.clip_norm = c.training.clip_grad;
  options.optimizer.method = make_optimizer(c.optimizer, c.run.seed);
  options.optimizer.freeze = make_freeze(c.optimizer.freeze, c.run.seed);
  std::vector<GroupRule> rules;
  for (const std::string& text : c.optimizer.groups) rules.push_back(parse_group_rule(text).value());
  options.optimizer.groups = ParamGroups(c.optimizer.weight_decay, std::move(rules));
  options.params.home = c.offload.param.device;
  options.grads.home = c.offload.gradient.device;
  using Recompute = Config::Training::Recompute;
  options.activations.home = c.offload.activation.device;
  options.activations.recompute = c.training.recompute == Recompute::automatic
                                      ? std::optional<bool>()
                                      : std::optional<bool>(c.training.recompute == Recompute::full);
  options.optimizer.home = c.offload.optimizer.device;  // absent: see make_plan()
  options.optimizer.record_size = c.offload.optimizer.record_size;
  options.optimizer.share = {.gpu_fraction = c.offload.optimizer.gpu_fraction,
                             .stride = c.offload.optimizer.stride,
                             .speculation = c.offload.optimizer.speculation};
  options.always_speculate = c.offload.optimizer.speculate == Config::Offload::Optimizer::When::always;
  options.delayed_share = c.offload.optimizer.delayed_share;
  options.optimizer.rates = rates_of(c.device.rates);
  for (std::size_t r = 0; r < kResources; ++r)
    if (double& rate = options.optimizer.rates.per_second[r]; rate == 0.0) rate = rates_of(c.device.emulate).per_second[r];
  if (c.device.emulate.any()) options.emulate = rates_of(c.device.emulate);
  options.nvme_folders = c.nvme.path;
  options.nvme_rank = rank.v;
  options.nvme.weights = c.nvme.weights;
  options.nvme.io.kind = c.nvme.engine;
  options.nvme.io.queue_depth = static_cast<unsigned>(c.nvme.queue_depth);
  options.nvme.io.block_bytes = static_cast<std::size_t>(c.nvme.block_size);
  options.nvme.turns.when = c.nvme.exclusive == AutoOnOff::on    ? TurnOptions::When::always
                            : c.nvme.exclusive == AutoOnOff::off ? TurnOptions::When::never
                                                                 : TurnOptions::When::automatic;
  options.nvme.gpu_direct = c.nvme.gpu_direct;
  options.gpu_communicator_timeout = std::chrono::milliseconds(std::llround(c.parallel.timeout * 1e3));
  options.nvme.io.timeout = std::chrono::milliseconds(std::llround(c.nvme.timeout * 1e3));
  return options;
}

Schedule schedule_of(const Config& c) {
  return {.kind = c.scheduler.type,
          .lr = c.optimizer.lr,
          .min_lr = c.scheduler.min_lr,
          .warmup_steps = c.scheduler.warmup_steps,
          .total_steps = c.training.steps,
          .decay_steps = c.scheduler.decay_steps};
}

DriveUse drive_use_of(const Config& c, std::int64_t steps_done) {
  return {.steps = std::max<std::int64_t>(c.training.steps - steps_done, 0), .endurance = c.device.nvme_endurance};
}

Budgets budgets_of(const Config& c, std::size_t host_memory) {
  Budgets budgets;
  if (c.memory.gpu) budgets.gpu = static_cast<std::size_t>(*c.memory.gpu);
  if (c.memory.cpu) budgets.cpu = static_cast<std::size_t>(*c.memory.cpu);
  if (c.memory.nvme) budgets.nvme = static_cast<std::size_t>(*c.memory.nvme);
  budgets.host_memory = host_memory;
  return budgets;
}

Budgets budgets_of(const Config& c, std::size_t host_memory, const Device& device) {
  Budgets budgets = budgets_of(c, host_memory);
  if (device.backend() == Backend::cuda && !budgets.gpu) budgets.gpu = usable_gpu_memory(device.gpu().properties());
  return budgets;
}

}  // namespace strata
