// The training configuration: what a YAML file says, typed. Every key, its aliases, its default and its meaning are listed
// in docs/config.md, which is generated from the schema in config.cpp.
//
// A Config is a value. load_config gives what the user wrote; resolve fills in what follows from it (batch sizes, head size,
// folders) and reports every contradiction. Code below the launcher takes resolved configs only.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "nvme/io_engine.h"
#include "optim/schedule.h"
#include "parallel/communicator.h"
#include "runtime/arena.h"
#include "runtime/dtype.h"
#include "runtime/status.h"

namespace strata {

struct ModelConfig;

enum class AutoOnOff { automatic, on, off };

struct Config {
  struct Run {
    std::string name = "run";
    std::string folder;  // empty: runs/<name>
    std::uint64_t seed = 1234;
  } run;

  // Either `hf` or the shape, not both. Zero or absent: derived by resolve; with `hf` it stays so and the folder decides.
  struct Model {
    enum class Type { automatic, gpt2, llama } type = Type::automatic;  // automatic: what `hf` says; needed without it
    std::string hf;  // Hugging Face folder whose shape and weights training starts from
    std::int64_t vocab_size = 0;
    std::int64_t hidden_size = 0;
    std::int64_t num_layers = 0;
    std::int64_t num_heads = 0;
    std::int64_t num_kv_heads = 0;   // derived: num_heads
    std::int64_t head_dim = 0;       // derived: hidden_size / num_heads
    std::int64_t ffn_size = 0;       // derived: gpt2 4 * hidden_size; llama 8/3 * hidden_size rounded up to 64
    std::int64_t max_positions = 0;  // derived: training.seq_length
    double norm_eps = 0.0;           // derived: 1e-5
    double rope_theta = 0.0;         // derived: 10000; llama only
    struct RopeScaling {
      enum class Type { none, llama3 } type = Type::none;
      double factor = 8.0;
      double low_freq_factor = 1.0;
      double high_freq_factor = 4.0;
      std::int64_t original_max_positions = 8192;
    } rope_scaling;
    std::optional<bool> tie_embeddings;  // derived: gpt2 true, llama false
    std::optional<bool> qkv_bias;        // derived: false; llama only (true is Qwen2); gpt2 has biases anyway
    std::optional<bool> qk_norm;         // derived: false; llama only (true is Qwen3)
    double init_std = 0.0;               // derived: 0.02
  } model;

  struct Data {
    std::vector<std::string> train;
    std::vector<std::string> validation;
    enum class Format { automatic, megatron, llmc, bytes } format = Format::automatic;
  } data;

  // global_batch_size = micro_batch_size * gradient_accumulation_steps * data-parallel ranks, in sequences; any two of the
  // three give the third. Zero: derived.
  struct Training {
    std::int64_t steps = 0;
    std::int64_t seq_length = 0;
    std::int64_t micro_batch_size = 0;
    std::int64_t global_batch_size = 0;
    std::int64_t gradient_accumulation_steps = 0;
    double clip_grad = 1.0;          // 0: off
    std::int64_t eval_interval = 0;  // steps; 0: only after the last step, when there is validation data
    std::int64_t eval_iters = 10;    // micro-batches per rank and validation
    enum class Recompute { none, full, automatic } recompute = Recompute::none;
  } training;

  struct Precision {
    DType compute = DType::f32;    // f32 or bf16
    DType gradients = DType::f32;  // of the sums that the optimizer reads: f32 or bf16
  } precision;

  struct Optimizer {
    enum class Type { adamw, lion, sgd, frugal, apollo, galore } type = Type::adamw;
    double lr = 3e-4;
    // Derived: as is usual for the type; absent where it has none.
    std::optional<double> beta1{}, beta2{}, eps{}, momentum{};
    std::optional<bool> nesterov{};
    enum class StateDtype { fp32, bf16, eight_bit } state_dtype = StateDtype::fp32;  // another only where the type has it
    // Of frugal alone; derived as those above.
    enum class Stateful { adamw, lion, sgd };
    std::optional<Stateful> stateful{};
    enum class Choice { columns, rows, entries, blocks };
    std::optional<Choice> coord_choice{};
    enum class BlockOrder { random, ascending, descending, mirror };
    std::optional<BlockOrder> block_order{};
    std::optional<double> density{};
    std::int64_t update_gap = 0;
    enum class Inactive { none, sgd, sign_sgd };
    std::optional<Inactive> inactive_update_rule{};
    std::optional<double> inactive_lr_scale{}, proj_params_lr_scale{};
    enum class Space { none, svd, random };
    std::optional<Space> proj_type{};
    std::optional<bool> reset_statistics{};
    // Of apollo, some of galore too; likewise.
    enum class Projection { random, svd };
    std::optional<Projection> proj{};
    enum class Scaling { channel, tensor };
    std::optional<Scaling> scale_type{};
    std::int64_t rank = 0;
    std::optional<double> scale{};
    std::int64_t update_proj_gap = 0;
    std::optional<bool> scale_front{}, disable_nl{};
    std::optional<double> nl_floor{};
    enum class Seeds { run, authors };
    std::optional<Seeds> proj_seeds{};
    double weight_decay = 0.1;
    std::vector<std::string> groups{};  // texts of parse_group_rule()
    // Which units are trained when (optim/freeze_policy.h).
    struct Freeze {
      enum class Policy { none, lisa, badam, slimfit } type = Policy::none;
      std::int64_t lisa_activated_layers = 0, lisa_interval_steps = 0;  // derived; of lisa alone
      std::int64_t switch_block_every = 0;                              // derived; of badam and slimfit
      enum class Mode { random, ascending, descending };
      std::optional<Mode> switch_mode{};  // derived; of badam alone
      enum class States { keep, drop };
      std::optional<States> states{};         // derived; of all
      std::optional<double> freezing_rate{};  // derived; of slimfit alone
    };
    Freeze freeze{};
  } optimizer;

  struct Scheduler {
    ScheduleKind type = ScheduleKind::cosine;
    std::int64_t warmup_steps = 0;
    double min_lr = 0.0;
    std::int64_t decay_steps = 0;  // wsd: length of the decay; derived: a tenth of training.steps
  } scheduler;

  struct Parallel {
    std::int64_t data = 0;   // data-parallel ranks; derived: all ranks
    double timeout = 600.0;  // seconds after which a silent rank is an error
    AutoOnOff shared_memory = AutoOnOff::automatic;
  } parallel;

  struct Zero {
    std::int64_t stage = 0;
    std::int64_t prefetch_units = 1;
  } zero;

  struct Offload {
    struct Optimizer {
      std::optional<Tier> device = Tier::cpu;             // absent: split over the tiers, as the budgets allow
      std::int64_t record_size = std::int64_t{16} << 20;  // parameters; resolve rounds it up to a multiple of 4096
      std::optional<double> gpu_fraction;  // of the records away from the GPU, those that it updates; absent: planned
      std::int64_t stride = 0;             // every stride-th of them; 0: gpu_fraction
      std::optional<double> speculation;   // of the records that can, those that are updated before the norm; absent: planned
      enum class When { likely, always } speculate = When::likely;  // in which steps
      double delayed_share = 1.0;  // of the records, those that may be late for the next forward
    } optimizer;
    struct Unit {
      std::optional<Tier> device = Tier::gpu;  // or cpu; absent: as memory.gpu allows
    };
    Unit param;     // the compute copy of the parameters
    Unit gradient;  // gradient sums
    struct Activation {
      std::optional<Tier> device = Tier::gpu;  // absent: planned
    } activation;                              // what units keep of a forward for their backward
    enum class Order { horizontal, vertical, automatic } micro_batch_order = Order::horizontal;
  } offload;

  // Budgets per rank, in bytes; absent: what the machine has, divided by the ranks on it.
  struct Memory {
    std::optional<std::uint64_t> gpu;
    std::optional<std::uint64_t> cpu;
    std::optional<std::uint64_t> nvme;
  } memory;

  struct Nvme {
    std::vector<std::string> path;  // folders for the state files; derived: <run.folder>/nvme
    std::vector<double> weights;    // share of the bytes that each gets; empty: measured
    IoEngineOptions::Kind engine = IoEngineOptions::Kind::automatic;
    std::int64_t queue_depth = 16;
    std::uint64_t block_size = std::uint64_t{1} << 20;  // bytes per request
    double timeout = 60.0;                              // seconds without an answer, then a drive counts as hanging
    AutoOnOff exclusive = AutoOnOff::automatic;         // ranks take turns; automatic: for large records on drives that rotate
    bool gpu_direct = false;  // states that the GPU updates pass between drives and its memory, not through the host's
  } nvme;

  struct Device {
    enum class Choice { automatic, host, cuda } backend = Choice::automatic;
    std::int64_t threads = 0;  // compute threads of a rank; derived: the machine's cores divided by the ranks on it
    bool bind = true;          // threads and host memory stay with the rank's part of the machine
    bool tf32 = false;
    enum class Attention { automatic, strata, cudnn } attention = Attention::automatic;
    // 0: not limited (emulate), not known (rates).
    struct Speeds {
      std::uint64_t h2d = 0, d2h = 0, nvme_read = 0, nvme_write = 0;  // bytes a second
      std::int64_t cpu_update = 0, gpu_update = 0;                    // parameters a second
      double compute_unit = 0.0;                                      // seconds of one unit's forward for a micro-batch
      bool any() const { return h2d || d2h || nvme_read || nvme_write || cpu_update || gpu_update || compute_unit > 0.0; }
    };
    Speeds emulate;
    bool probe = false;  // device.hardware: the rates that are not given are measured (measured_rates.h)
    Speeds rates;
    std::optional<std::uint64_t> nvme_endurance;  // bytes that the drives together are rated to have written
  } device;

  struct Checkpoint {
    std::int64_t interval = 0;   // steps; 0: no periodic checkpoints
    std::int64_t keep_last = 2;  // 0: all
    bool save_final = true;
    std::string resume = "auto";  // auto: the newest in the run folder, if any; never; or a checkpoint folder
  } checkpoint;

  struct Logging {
    std::int64_t log_interval = 1;  // steps between printed lines
    AutoOnOff progress = AutoOnOff::automatic;
    bool trace = false;
    std::int64_t trace_steps = 3;  // how many steps, from the second on
  } logging;
};

// Reads `path` with the files it inherits from, then applies the overrides ("section.key=value"). Status invalid_config lists
// every problem at once, one per line, each with file:line or the override it came from.
Result<Config> load_config(const std::string& path, const std::vector<std::string>& overrides = {});
// The same from text; `name` stands for the file in messages.
Result<Config> parse_config(const std::string& yaml, const std::string& name, const std::vector<std::string>& overrides = {});

// What a program brings itself (TrainerExtras), so that the configuration need not say it.
struct Supplied {
  bool model = false;
  bool train = false;
  bool validation = false;
};
// Fills in all that is derived and checks what no single key can tell. Pure: touches no file. invalid_config lists every
// problem at once, with the equation that fails in numbers. Idempotent.
Result<Config> resolve(const Config& config, WorldSize world, Supplied supplied = {});
Status validate(const Config& config, WorldSize world);

// The model's shape, and how it is stored (wants_long_rows() of model_setup.h). config: resolved, with model.hf empty.
ModelConfig model_config(const Config& config);

// YAML of every key; parse_config of it gives an equal Config.
std::string dump(const Config& config);

// All canonical keys, in the order of the reference.
std::vector<std::string> config_keys();
// docs/config.md.
std::string config_reference();

}  // namespace strata
