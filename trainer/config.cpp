#include "trainer/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <sstream>

#include "model/config.h"
#include "optim/freeze_policy.h"
#include "optim/param_groups.h"
#include "trainer/config_schema.h"
#include "trainer/model_setup.h"

namespace strata {
namespace {

constexpr std::int64_t kRecordGranularity = 4096;  // parameters; the blocks that norms are summed in

std::int64_t round_up(std::int64_t n, std::int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Fills in a config and collects what is wrong with it.
class Resolver {
 public:
  Resolver(const Config& config, WorldSize world, Supplied supplied) : c_(config), world_(world.v), supplied_(supplied) {}

  Result<Config> run() {
    run_section();
    length();
    batch();
    model();
    schedule();
    optimizer();
    rest();
    if (problems_.empty()) return c_;
    if (problems_.size() == 1) return Status(Code::invalid_config, problems_[0]);
    return Status(Code::invalid_config,
                  fmt::format("{} problems in the configuration:\n  {}", problems_.size(), fmt::join(problems_, "\n  ")));
  }

 private:
  template <class... Args>
  void require(bool condition, fmt::format_string<Args...> format, Args&&... args) {
    if (!condition) problems_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  void run_section() {
    require(!c_.run.name.empty() && c_.run.name.find('/') == std::string::npos && c_.run.name != "." && c_.run.name != "..",
            "run.name: must be a plain file name, found \"{}\"", c_.run.name);
    if (c_.run.folder.empty()) c_.run.folder = "runs/" + c_.run.name;
    if (c_.nvme.path.empty()) c_.nvme.path = {c_.run.folder + "/nvme"};
  }

  void length() {
    require(c_.training.steps > 0, "training.steps: must be given, the number of updates to make");
    require(c_.training.seq_length > 0, "training.seq_length: must be given, the tokens of a sequence");
    require(supplied_.train || !c_.data.train.empty(), "data.train: must be given, the training data");
    require(c_.training.eval_interval == 0 || supplied_.validation || !c_.data.validation.empty(),
            "training.eval_interval: is {}, but data.validation names no data", c_.training.eval_interval);
  }

  void batch() {
    require(c_.parallel.data == 0 || c_.parallel.data == world_, "parallel.data: is {}, but the number of ranks is {}",
            c_.parallel.data, world_);
    c_.parallel.data = world_;
    std::int64_t& micro = c_.training.micro_batch_size;
    std::int64_t& global = c_.training.global_batch_size;
    std::int64_t& accumulation = c_.training.gradient_accumulation_steps;
    if (micro == 0 && global == 0) {
      require(false, "training: micro_batch_size or global_batch_size must be given");
      return;
    }
    if (accumulation == 0 && (micro == 0 || global == 0)) accumulation = 1;
    if (global == 0) global = micro * accumulation * world_;
    if (micro == 0) micro = share(global, accumulation, "micro_batch_size", "gradient_accumulation_steps");
    if (accumulation == 0) accumulation = share(global, micro, "gradient_accumulation_steps", "micro_batch_size");
    if (micro == 0 || accumulation == 0) return;
    require(global == micro * accumulation * world_,
            "training: global_batch_size = micro_batch_size * gradient_accumulation_steps * data-parallel ranks fails: {} != "
            "{} * {} * {} = {}",
            global, micro, accumulation, world_, micro * accumulation * world_);
  }

  // global / (known * ranks), or 0 and a problem.
  std::int64_t share(std::int64_t global, std::int64_t known, const char* wanted, const char* known_name) {
    const std::int64_t divisor = known * world_;
    if (global % divisor == 0) return global / divisor;
    require(false,
            "training: {} = global_batch_size / ({} * data-parallel ranks) fails: {} / ({} * {}) is {}, not a whole number",
            wanted, known_name, global, known, world_, static_cast<double>(global) / static_cast<double>(divisor));
    return 0;
  }

  void model() {
    if (supplied_.model) return;
    if (!c_.model.hf.empty()) return model_from_folder();
    const bool gpt2 = c_.model.type == Config::Model::Type::gpt2;
    require(c_.model.type != Config::Model::Type::automatic,
            "model: give model.hf, or model.type (gpt2 or llama) with a shape");
    bool complete = true;
    const auto needed = [&](const char* key, std::int64_t value) {
      require(value > 0, "model.{}: must be given when there is no model.hf", key);
      complete = complete && value > 0;
    };
    needed("vocab_size", c_.model.vocab_size);
    needed("hidden_size", c_.model.hidden_size);
    needed("num_layers", c_.model.num_layers);
    needed("num_heads", c_.model.num_heads);
    if (complete && c_.model.type != Config::Model::Type::automatic) {
      model_defaults(gpt2);
      check_model();
    }
  }

  void model_from_folder() {
    const auto& m = c_.model;
    const bool shape_given = m.vocab_size || m.hidden_size || m.num_layers || m.num_heads || m.num_kv_heads || m.head_dim ||
                             m.ffn_size || m.max_positions || m.norm_eps != 0.0 || m.rope_theta != 0.0 ||
                             m.rope_scaling.type != Config::Model::RopeScaling::Type::none || m.tie_embeddings || m.qkv_bias ||
                             m.qk_norm || m.init_std != 0.0;
    require(!shape_given, "model.hf: the folder {} gives the shape; remove the other model keys (model.type may stay)", m.hf);
  }

  void model_defaults(bool gpt2) {
    auto& m = c_.model;
    if (m.head_dim == 0) {
      require(m.hidden_size % m.num_heads == 0,
              "model.head_dim = hidden_size / num_heads fails: {} / {} is not a whole number; give model.head_dim",
              m.hidden_size, m.num_heads);
      m.head_dim = std::max<std::int64_t>(m.hidden_size / m.num_heads, 1);
    }
    if (m.num_kv_heads == 0) m.num_kv_heads = m.num_heads;
    if (m.ffn_size == 0) m.ffn_size = gpt2 ? 4 * m.hidden_size : round_up((8 * m.hidden_size + 2) / 3, 64);
    if (m.max_positions == 0) m.max_positions = c_.training.seq_length;
    if (m.norm_eps == 0.0) m.norm_eps = 1e-5;
    if (m.init_std == 0.0) m.init_std = 0.02;
    if (!m.tie_embeddings) m.tie_embeddings = gpt2;
    if (!m.qkv_bias) m.qkv_bias = false;
    if (!m.qk_norm) m.qk_norm = false;
    if (!gpt2 && m.rope_theta == 0.0) m.rope_theta = 10000.0;
  }

  void check_model() {
    const auto& m = c_.model;
    const bool gpt2 = m.type == Config::Model::Type::gpt2;
    require(!gpt2 || (m.rope_theta == 0.0 && m.rope_scaling.type == Config::Model::RopeScaling::Type::none),
            "model: gpt2 has learned positions; remove rope_theta and rope_scaling");
    require(m.max_positions >= c_.training.seq_length, "model.max_positions: must be at least training.seq_length: {} < {}",
            m.max_positions, c_.training.seq_length);
    std::istringstream problems(model_config(c_).validate().message());
    for (std::string line; std::getline(problems, line);) problems_.push_back("model: " + line);
  }

  void schedule() {
    auto& s = c_.scheduler;
    const bool wsd = s.type == ScheduleKind::wsd;
    const std::int64_t steps = c_.training.steps;
    require(s.type == ScheduleKind::constant || s.min_lr <= c_.optimizer.lr,
            "scheduler.min_lr: must be at most optimizer.lr: {} > {}", s.min_lr, c_.optimizer.lr);
    require(steps == 0 || s.warmup_steps <= steps, "scheduler.warmup_steps: must be at most training.steps: {} > {}",
            s.warmup_steps, steps);
    require(wsd || s.decay_steps == 0, "scheduler.decay_steps: only scheduler.type wsd has a decay of its own length");
    if (!wsd || steps == 0) return;
    if (s.decay_steps == 0) s.decay_steps = std::max<std::int64_t>(steps / 10, 1);
    require(s.warmup_steps + s.decay_steps <= steps,
            "scheduler: warmup_steps + decay_steps must be at most training.steps: {} + {} > {}", s.warmup_steps, s.decay_steps,
            steps);
  }

  // Gives `value` its default where the optimizer has it; given where it has none, it would do nothing.
  template <class T>
  void optional(const char* key, std::optional<T>& value, bool has, const char* type, T usual) {
    require(has || !value, "optimizer.{}: {} has none; remove it", key, type);
    if (has && !value) value = usual;
  }

  void optimizer() {
    auto& o = c_.optimizer;
    using Type = Config::Optimizer::Type;
    using Stateful = Config::Optimizer::Stateful;
    const bool frugal = o.type == Type::frugal, apollo = o.type == Type::apollo, galore = o.type == Type::galore;
    const bool low_rank = apollo || galore;
    const char* const name = frugal                  ? "frugal"
                             : apollo                ? "apollo"
                             : galore                ? "galore"
                             : o.type == Type::adamw ? "adamw"
                             : o.type == Type::lion  ? "lion"
                                                     : "sgd";
    optional("stateful", o.stateful, frugal, name, Stateful::adamw);
    const Stateful stateful = frugal                              ? *o.stateful
                              : o.type == Type::adamw || low_rank ? Stateful::adamw
                              : o.type == Type::lion              ? Stateful::lion
                                                                  : Stateful::sgd;
    const char* const type = stateful == Stateful::adamw  ? "adamw"
                             : stateful == Stateful::lion ? "lion"
                                                          : "sgd";  // of its states
    const bool sgd = stateful == Stateful::sgd;
    optional("beta1", o.beta1, !sgd, type, 0.9);
    optional("beta2", o.beta2, !sgd, type, low_rank ? 0.999 : stateful == Stateful::lion ? 0.99 : 0.95);
    optional("eps", o.eps, stateful == Stateful::adamw, type, low_rank ? 1e-6 : 1e-8);
    optional("momentum", o.momentum, sgd, type, frugal ? 0.9 : 0.0);
    optional("nesterov", o.nesterov, sgd && !frugal, name, false);
    using Space = Config::Optimizer::Space;
    optional("proj_type", o.proj_type, frugal, name, Space::none);
    const bool space = frugal && *o.proj_type != Space::none;
    optional("coord_choice", o.coord_choice, frugal && !space, space ? "frugal with proj_type" : name,
             Config::Optimizer::Choice::columns);
    const bool blocks = frugal && !space && *o.coord_choice == Config::Optimizer::Choice::blocks;
    optional("block_order", o.block_order, blocks, frugal ? "frugal without coord_choice: blockwise" : name,
             Config::Optimizer::BlockOrder::descending);
    optional("density", o.density, frugal, name, 0.25);
    require(!frugal || space || o.reset_statistics.value_or(true),
            "optimizer.reset_statistics: states of chosen elements cannot pass to others; set proj_type, or remove it");
    optional("reset_statistics", o.reset_statistics, frugal, name, true);
    require(frugal || o.update_gap == 0, "optimizer.update_gap: {} has none; remove it", name);
    if (frugal && o.update_gap == 0) o.update_gap = 200;
    optional("inactive_update_rule", o.inactive_update_rule, frugal, name, Config::Optimizer::Inactive::sign_sgd);
    optional("inactive_lr_scale", o.inactive_lr_scale, frugal, name, 1.0);
    optional("proj_params_lr_scale", o.proj_params_lr_scale, frugal, name, 1.0);
    using Projection = Config::Optimizer::Projection;
    optional("proj", o.proj, apollo, name, Projection::random);
    const bool svd = apollo && *o.proj == Projection::svd;
    using Scaling = Config::Optimizer::Scaling;
    optional("scale_type", o.scale_type, apollo, name, Scaling::channel);
    const bool tensor = apollo && *o.scale_type == Scaling::tensor;
    require(low_rank || o.rank == 0, "optimizer.rank: {} has none; remove it", name);
    if (low_rank && o.rank == 0) o.rank = tensor ? 1 : galore ? 128 : 256;
    optional("scale", o.scale, low_rank, name, tensor ? 128.0 : galore ? 0.25 : 1.0);
    require(low_rank || o.update_proj_gap == 0, "optimizer.update_proj_gap: {} has none; remove it", name);
    if (low_rank && o.update_proj_gap == 0) o.update_proj_gap = 200;
    optional("scale_front", o.scale_front, apollo, name, false);
    optional("disable_nl", o.disable_nl, apollo, name, false);
    require(!o.disable_nl.value_or(false) || !o.nl_floor,
            "optimizer.nl_floor: is of the limiter that disable_nl turns off; remove one");
    optional("nl_floor", o.nl_floor, apollo, name, 1.0);
    optional("proj_seeds", o.proj_seeds, apollo && !svd, svd ? "apollo with proj svd" : name, Config::Optimizer::Seeds::run);
    require(!o.nesterov.value_or(false) || o.momentum.value_or(0.0) > 0.0,
            "optimizer.nesterov: looks one momentum ahead, and there is none; set optimizer.momentum");
    using StateDtype = Config::Optimizer::StateDtype;
    require(o.state_dtype == StateDtype::fp32 || (!frugal && !low_rank),
            "optimizer.state_dtype: {} keeps its states in fp32; remove it, or use adamw, lion or sgd", name);
    require(o.state_dtype == StateDtype::fp32 || o.type != Type::sgd || o.momentum.value_or(0.0) > 0.0,
            "optimizer.state_dtype: sgd without momentum has no states; set optimizer.momentum, or remove it");
    require(o.state_dtype != StateDtype::eight_bit || o.type == Type::adamw || frugal || low_rank,
            "optimizer.state_dtype: {} has no 8-bit states; set bf16 or fp32, or optimizer.type adamw", name);
    for (const std::string& text : o.groups) {
      const Result<GroupRule> rule = parse_group_rule(text);
      require(rule.ok(), "optimizer.groups: {}", rule.ok() ? std::string() : rule.status().message());
    }
    freeze(name, frugal || low_rank);
  }

  // States of a choice that holds for every parameter at once cannot be skipped for some.
  void freeze(const char* optimizer, bool chooses) {
    auto& f = c_.optimizer.freeze;
    using Policy = Config::Optimizer::Freeze::Policy;
    using Freeze = Config::Optimizer::Freeze;
    const bool lisa = f.type == Policy::lisa, badam = f.type == Policy::badam, slimfit = f.type == Policy::slimfit;
    const auto of = [this](const char* key, bool set, bool has, const char* owner) {
      require(has || !set, "optimizer.freeze.{}: only {} has it; set optimizer.freeze.type: {}, or remove it", key, owner,
              owner);
    };
    of("lisa_activated_layers", f.lisa_activated_layers != 0, lisa, "lisa");
    of("lisa_interval_steps", f.lisa_interval_steps != 0, lisa, "lisa");
    of("switch_block_every", f.switch_block_every != 0, badam || slimfit, "badam");
    of("switch_mode", f.switch_mode.has_value(), badam, "badam");
    of("freezing_rate", f.freezing_rate.has_value(), slimfit, "slimfit");
    of("states", f.states.has_value(), lisa || badam || slimfit, "lisa");
    require(!badam || f.states != Freeze::States::keep,
            "optimizer.freeze.states: badam drops them; set drop, or optimizer.freeze.type: lisa");
    require(!slimfit || f.states != Freeze::States::drop,
            "optimizer.freeze.states: slimfit keeps them; set keep, or optimizer.freeze.type: lisa");
    if (slimfit && f.switch_block_every == 0) f.switch_block_every = 1;
    if (slimfit && !f.freezing_rate) f.freezing_rate = 0.9;
    if (slimfit) f.states = Freeze::States::keep;
    if (lisa && f.lisa_activated_layers == 0) f.lisa_activated_layers = 2;
    if (lisa && f.lisa_interval_steps == 0) f.lisa_interval_steps = 20;
    if (badam && f.switch_block_every == 0) f.switch_block_every = 50;
    if (badam && !f.switch_mode) f.switch_mode = Freeze::Mode::descending;
    if ((lisa || badam) && !f.states) f.states = Freeze::States::drop;
    require(f.type == Policy::none || !chooses,
            "optimizer.freeze.type: {} chooses states or projections for all units at once; set optimizer.type: adamw, lion or "
            "sgd, or remove optimizer.freeze",
            optimizer);
    require(!lisa || c_.model.num_layers == 0 || f.lisa_activated_layers <= c_.model.num_layers,
            "optimizer.freeze.lisa_activated_layers: the model has fewer blocks: {} > {}", f.lisa_activated_layers,
            c_.model.num_layers);
    require(!slimfit || c_.model.num_layers == 0 || slimfit_frozen(*f.freezing_rate, c_.model.num_layers) > 0,
            "optimizer.freeze.freezing_rate: {} of {} blocks is not one; set more, or optimizer.freeze.type: none",
            f.freezing_rate.value_or(0.0), c_.model.num_layers);
  }

  void rest() {
    c_.offload.optimizer.record_size = round_up(c_.offload.optimizer.record_size, kRecordGranularity);
    require(c_.device.attention != Config::Device::Attention::cudnn || c_.precision.compute == DType::bf16,
            "device.attention: cudnn computes in bf16, but precision.compute is {}; set bf16, or device.attention: auto",
            to_string(c_.precision.compute));
    require(!c_.device.emulate.any() || c_.device.backend != Config::Device::Choice::cuda,
            "device.emulate: a GPU has its own speed; set device.backend: host, or remove device.emulate");
    require(!c_.device.emulate.any() || !c_.device.probe,
            "device.emulate: is another machine than the one that probing measures; remove device.emulate, or do not probe "
            "(device.hardware)");
    require(!c_.nvme.gpu_direct || c_.device.backend != Config::Device::Choice::host || c_.device.emulate.any(),
            "nvme.gpu_direct: is on, but device.backend is host, so nothing is on a GPU; set false, or device.backend: cuda");
    if (c_.device.emulate.any()) c_.device.backend = Config::Device::Choice::host;
    require(c_.offload.optimizer.stride == 0 || !c_.offload.optimizer.gpu_fraction,
            "offload.optimizer: stride and gpu_fraction both say who updates; remove one");
    nvme();
    require(!c_.checkpoint.resume.empty(), "checkpoint.resume: must be auto, never or a checkpoint folder");
  }

  // Different names of one folder are found when the folders are there.
  void nvme() {
    const std::vector<std::string>& paths = c_.nvme.path;
    for (auto path = paths.begin(); path != paths.end(); ++path) {
      require(!path->empty(), "nvme.path: a folder must have a name");
      require(std::find(paths.begin(), path, *path) == path, "nvme.path: names {} twice; name each folder once", *path);
    }
    require(c_.nvme.weights.empty() || c_.nvme.weights.size() == paths.size(),
            "nvme.weights: must be as many as the folders of nvme.path: {} != {}", c_.nvme.weights.size(), paths.size());
  }

  Config c_;
  std::int64_t world_;
  Supplied supplied_;
  std::vector<std::string> problems_;
};

template <class Body>
Result<Config> parsed(Body body) {
  Config config;
  ConfigSchema schema;
  describe(schema, config);
  STRATA_RETURN_IF_ERROR(body(schema));
  return config;
}

}  // namespace

Result<Config> load_config(const std::string& path, const std::vector<std::string>& overrides) {
  return parsed([&](ConfigSchema& schema) { return schema.parse_file(path, overrides); });
}

Result<Config> parse_config(const std::string& yaml, const std::string& name, const std::vector<std::string>& overrides) {
  return parsed([&](ConfigSchema& schema) { return schema.parse_text(yaml, name, overrides); });
}

Result<Config> resolve(const Config& config, WorldSize world, Supplied supplied) {
  return Resolver(config, world, supplied).run();
}

ModelConfig model_config(const Config& config) {
  const Config::Model& m = config.model;
  STRATA_CHECK(m.hf.empty() && m.qkv_bias && m.qk_norm && m.tie_embeddings, "needs a resolved config with a shape of its own");
  ModelConfig out;
  out.architecture = m.type == Config::Model::Type::gpt2 ? Architecture::gpt2 : Architecture::llama;
  out.vocab_size = m.vocab_size;
  out.hidden_size = m.hidden_size;
  out.num_layers = m.num_layers;
  out.num_heads = m.num_heads;
  out.num_kv_heads = m.num_kv_heads;
  out.head_dim = m.head_dim;
  out.ffn_size = m.ffn_size;
  out.max_positions = m.max_positions;
  out.norm_eps = m.norm_eps;
  if (out.architecture == Architecture::llama) out.rope_theta = m.rope_theta;
  if (m.rope_scaling.type == Config::Model::RopeScaling::Type::llama3) {
    out.rope_scaling = {m.rope_scaling.factor, m.rope_scaling.low_freq_factor, m.rope_scaling.high_freq_factor,
                        m.rope_scaling.original_max_positions};
  }
  out.tie_embeddings = *m.tie_embeddings;
  out.qkv_bias = *m.qkv_bias;
  out.qk_norm = *m.qk_norm;
  out.init_std = m.init_std;
  out.long_rows = wants_long_rows(config.optimizer);
  return out;
}

Status validate(const Config& config, WorldSize world) { return resolve(config, world).status(); }

std::string dump(const Config& config) {
  Config copy = config;
  ConfigSchema schema;
  describe(schema, copy);
  return schema.dump();
}

std::vector<std::string> config_keys() {
  Config config;
  ConfigSchema schema;
  describe(schema, config);
  return schema.keys();
}

std::string config_reference() {
  Config config;
  ConfigSchema schema;
  describe(schema, config);
  return "# Configuration keys\n\n"
         "Written by `strata config keys`; do not edit. A file may inherit from another, relative to itself, with `base: "
         "other.yaml`.\n"
         "Arguments `section.key=value` after the file override it. Unknown keys are errors. Integers may be written `16Mi` or "
         "`1_000`,\n"
         "sizes in bytes `4GiB` or `512MB`. \"Also\" lists spellings known from elsewhere that mean the same key.\n\n" +
         schema.reference();
}

}  // namespace strata
