#include "trainer/config_schema.h"

namespace strata {
namespace {

constexpr double kMaxSize = 1 << 30;  // of one dimension; products of three stay inside 64 bits with the limits below
constexpr double kMaxBatch = 1 << 20;
constexpr double kMaxSteps = 1e12;

const std::vector<std::pair<std::string, AutoOnOff>> kAutoOnOff = {{"auto", AutoOnOff::automatic},
                                                                   {"on", AutoOnOff::on},
                                                                   {"off", AutoOnOff::off},
                                                                   {"true", AutoOnOff::on},
                                                                   {"false", AutoOnOff::off}};

void describe_run(ConfigSchema& s, Config::Run& c) {
  s.section("run",
            "The run as a whole. A run folder holds `config.resolved.yaml`, `plan.json`, `metrics.jsonl`, `checkpoints/` and, "
            "when asked, `trace.json`.");
  s.add("run.name", c.name, "Name of the run; a plain file name.");
  s.add("run.folder", c.folder, "Where everything the run writes goes.").automatic("`runs/` and the name").alias("output_dir");
  s.add("run.seed", c.seed, "Seed of initialisation and of the order of the data.").alias("seed");
}

void describe_model(ConfigSchema& s, Config::Model& c) {
  using Type = Config::Model::Type;
  s.section("model", "Either `hf`, or `type` with a shape.");
  s.add_choice<Type>("model.type", c.type, {{"auto", Type::automatic}, {"gpt2", Type::gpt2}, {"llama", Type::llama}},
                     "Family: GPT-2 or Llama (which Qwen2 and Qwen3 belong to). `auto`: what `hf` says.")
      .alias("model_type");
  s.add("model.hf", c.hf, "Hugging Face folder (config.json, safetensors) whose shape and weights training starts from.")
      .automatic("none; start from random weights");
  s.add("model.vocab_size", c.vocab_size, "Rows of the embedding.")
      .at_least(1)
      .at_most(kMaxSize)
      .automatic("from `hf`; needed without it");
  s.add("model.hidden_size", c.hidden_size, "Width of the residual stream.")
      .at_least(1)
      .at_most(kMaxBatch)
      .automatic("from `hf`; needed without it");
  s.add("model.num_layers", c.num_layers, "Transformer blocks.")
      .at_least(1)
      .at_most(100000)
      .automatic("from `hf`; needed without it")
      .alias("num_layers")
      .alias("num_hidden_layers");
  s.add("model.num_heads", c.num_heads, "Query heads.")
      .at_least(1)
      .at_most(kMaxBatch)
      .automatic("from `hf`; needed without it")
      .alias("num_attention_heads");
  s.add("model.num_kv_heads", c.num_kv_heads, "Key and value heads; must divide num_heads.")
      .at_least(1)
      .at_most(kMaxBatch)
      .automatic("num_heads")
      .alias("num_key_value_heads")
      .alias("num_query_groups");
  s.add("model.head_dim", c.head_dim, "Size of one head.")
      .at_least(1)
      .at_most(kMaxBatch)
      .automatic("hidden_size / num_heads")
      .alias("kv_channels");
  s.add("model.ffn_size", c.ffn_size, "Inner width of the feed-forward part.")
      .at_least(1)
      .at_most(kMaxSize)
      .automatic("gpt2: 4 hidden_size; llama: 8/3 hidden_size, rounded up to a multiple of 64")
      .alias("intermediate_size")
      .alias("ffn_hidden_size");
  s.add("model.max_positions", c.max_positions, "Longest sequence the model is made for.")
      .at_least(1)
      .at_most(kMaxSize)
      .automatic("training.seq_length")
      .alias("max_position_embeddings");
  s.add("model.norm_eps", c.norm_eps, "Added to the variance in LayerNorm and RMSNorm.")
      .greater_than(0)
      .less_than(1)
      .automatic("1e-5")
      .alias("norm_epsilon")
      .alias("rms_norm_eps")
      .alias("layer_norm_epsilon");
  s.add("model.rope_theta", c.rope_theta, "Base of the rotary embedding's frequencies; llama only.")
      .greater_than(0)
      .automatic("10000")
      .alias("rotary_base");
  using Scaling = Config::Model::RopeScaling::Type;
  s.add_choice<Scaling>("model.rope_scaling.type", c.rope_scaling.type, {{"none", Scaling::none}, {"llama3", Scaling::llama3}},
                        "How rotary frequencies are stretched for longer sequences; llama only.")
      .alias("model.rope_scaling.rope_type");
  s.add("model.rope_scaling.factor", c.rope_scaling.factor, "llama3: low frequencies are divided by this.").at_least(1);
  s.add("model.rope_scaling.low_freq_factor", c.rope_scaling.low_freq_factor,
        "llama3: wavelengths above original_max_positions / this are stretched fully.")
      .greater_than(0);
  s.add("model.rope_scaling.high_freq_factor", c.rope_scaling.high_freq_factor,
        "llama3: wavelengths below original_max_positions / this are not stretched.")
      .greater_than(0);
  s.add("model.rope_scaling.original_max_positions", c.rope_scaling.original_max_positions,
        "llama3: sequence length before stretching.")
      .at_least(1)
      .alias("model.rope_scaling.original_max_position_embeddings");
  s.add("model.tie_embeddings", c.tie_embeddings, "The head uses the embedding's weights.")
      .automatic("gpt2 true, llama false")
      .alias("tie_word_embeddings")
      .alias("untie_embeddings_and_output_weights", {{"true", "false"}, {"false", "true"}});
  s.add("model.qkv_bias", c.qkv_bias,
        "Biases on the query, key and value projections; llama only (Qwen2); gpt2 has biases anyway.")
      .automatic("false")
      .alias("add_qkv_bias");
  s.add("model.qk_norm", c.qk_norm, "RMSNorm on each query and key head; llama only (Qwen3).")
      .automatic("false")
      .alias("qk_layernorm");
  s.add("model.init_std", c.init_std, "Standard deviation of random initial weights.")
      .greater_than(0)
      .automatic("0.02")
      .alias("init_method_std")
      .alias("initializer_range");
}

void describe_data(ConfigSchema& s, Config::Data& c) {
  using Format = Config::Data::Format;
  s.section("data",
            "Token files, as `strata data prepare` or other programs of the field write them. Paths are relative to the "
            "working folder.");
  s.add("data.train", c.train, "Training data: prefixes of .bin/.idx pairs, llm.c .bin files or raw files.")
      .alias("data_path")
      .alias("train_data_path");
  s.add("data.validation", c.validation, "Validation data; none: no validation.").alias("valid_data_path");
  s.add_choice<Format>(
      "data.format", c.format,
      {{"auto", Format::automatic}, {"megatron", Format::megatron}, {"llmc", Format::llmc}, {"bytes", Format::bytes}},
      "megatron: .bin/.idx pairs; llmc: llm.c .bin; bytes: any file, one token a byte; auto: by what the files are.");
}

void describe_training(ConfigSchema& s, Config::Training& c) {
  using Recompute = Config::Training::Recompute;
  s.section("training",
            "Length and size. global_batch_size = micro_batch_size x gradient_accumulation_steps x data-parallel ranks, in "
            "sequences: any two give the third.");
  s.add("training.steps", c.steps, "Updates to make.")
      .at_least(1)
      .at_most(kMaxSteps)
      .automatic("must be given")
      .alias("train_iters")
      .alias("max_steps");
  s.add("training.seq_length", c.seq_length, "Tokens of a sequence.")
      .at_least(1)
      .at_most(kMaxSize)
      .automatic("must be given")
      .alias("seq_length")
      .alias("seq_len");
  s.add("training.micro_batch_size", c.micro_batch_size, "Sequences a rank computes at once.")
      .at_least(1)
      .at_most(kMaxBatch)
      .automatic("from the other two")
      .alias("micro_batch_size")
      .alias("train_micro_batch_size_per_gpu")
      .alias("local_batch_size");
  s.add("training.global_batch_size", c.global_batch_size, "Sequences of one update.")
      .at_least(1)
      .at_most(kMaxSize)
      .automatic("from the other two")
      .alias("global_batch_size")
      .alias("train_batch_size");
  s.add("training.gradient_accumulation_steps", c.gradient_accumulation_steps, "Micro-batches of a rank in one update.")
      .at_least(1)
      .at_most(kMaxBatch)
      .automatic("from the other two; 1 when only one is given")
      .alias("gradient_accumulation_steps");
  s.add("training.clip_grad", c.clip_grad, "Largest global gradient norm; 0: no clipping.")
      .at_least(0)
      .alias("clip_grad")
      .alias("gradient_clipping")
      .alias("max_norm");
  s.add("training.eval_interval", c.eval_interval, "Steps between validations; 0: only after the last step.")
      .at_least(0)
      .alias("eval_interval");
  s.add("training.eval_iters", c.eval_iters, "Micro-batches per rank in one validation.").at_least(1).alias("eval_iters");
  s.add_choice<Recompute>("training.recompute", c.recompute,
                          {{"none", Recompute::none}, {"full", Recompute::full}, {"auto", Recompute::automatic}},
                          "full: backward runs each block's forward again instead of keeping more than its input. auto: that "
                          "of none, half or all of the blocks, whichever makes the forecast step shortest, by device.rates; "
                          "without them the first of these that memory.gpu allows.")
      .alias("recompute_granularity")
      .alias("activation_checkpoint.mode");
}

void describe_arithmetic(ConfigSchema& s, Config& c) {
  s.section("precision", "Number formats. Master weights and gradients' sums are always fp32; states: optimizer.state_dtype.");
  s.add_choice<DType>("precision.compute", c.precision.compute, {{"fp32", DType::f32}, {"bf16", DType::bf16}},
                      "Format of activations and of the weights computed with.")
      .alias("bf16", {{"true", "bf16"}, {"false", "fp32"}})
      .alias("bf16.enabled", {{"true", "bf16"}, {"false", "fp32"}});

  s.add_choice<DType>(
      "precision.gradients", c.precision.gradients, {{"fp32", DType::f32}, {"bf16", DType::bf16}},
      "Format in which the optimizer gets gradients. They are summed in fp32 over micro-batches and ranks in any "
      "case; bf16 rounds the sums once and takes half the memory for them (in steps of several micro-batches, only in vertical "
      "order).");

  s.section("optimizer", "How an update is computed.");
  s.add_choice<Config::Optimizer::Type>(
       "optimizer.type", c.optimizer.type,
       {{"adamw", Config::Optimizer::Type::adamw},
        {"lion", Config::Optimizer::Type::lion},
        {"sgd", Config::Optimizer::Type::sgd},
        {"frugal", Config::Optimizer::Type::frugal},
        {"apollo", Config::Optimizer::Type::apollo},
        {"galore", Config::Optimizer::Type::galore}},
       "adamw: Loshchilov and Hutter 2019, 8 bytes of state a parameter; lion: Chen et al. 2023, "
       "4 bytes; sgd: stochastic gradient descent, 4 bytes with momentum, else none; frugal: Zmushko et al. 2025, of the "
       "weights of "
       "linear layers only a part, chosen anew every update_gap steps, has states; apollo: Zhu et al. 2024, the weights of "
       "linear layers take the step of "
       "their gradient, as long as moments of a projection of it to `rank` columns say; galore: Zhao et al. 2024, they take "
       "Adam's step of a projection of it to its leading singular vectors. Master "
       "weights come on top. Norms and biases are not decayed.")
      .alias("optimizer.name");
  s.add("optimizer.lr", c.optimizer.lr, "Peak learning rate.")
      .at_least(0)
      .alias("lr")
      .alias("learning_rate")
      .alias("optimizer.params.lr");
  s.add("optimizer.beta1", c.optimizer.beta1, "Decay of the first moment; of lion, of the direction.")
      .at_least(0)
      .less_than(1)
      .automatic("0.9; sgd has none")
      .alias("adam_beta1");
  s.add("optimizer.beta2", c.optimizer.beta2, "Decay of the second moment; of lion, of the momentum.")
      .at_least(0)
      .less_than(1)
      .automatic("0.95; lion: 0.99; apollo, galore: 0.999; sgd has none")
      .alias("adam_beta2");
  s.add("optimizer.eps", c.optimizer.eps, "Added to the root of the second moment.")
      .greater_than(0)
      .automatic("1e-8; apollo, galore: 1e-6; lion and sgd have none")
      .alias("adam_eps")
      .alias("optimizer.params.eps");
  s.add("optimizer.momentum", c.optimizer.momentum, "Part of the last step's direction that is kept.")
      .at_least(0)
      .less_than(1)
      .automatic("0; only sgd has one; of frugal with sgd 0.9")
      .alias("optimizer.params.momentum");
  s.add("optimizer.nesterov", c.optimizer.nesterov, "The step looks one momentum ahead.")
      .automatic("false; only sgd with momentum has it")
      .alias("optimizer.params.nesterov");
  using StateDtype = Config::Optimizer::StateDtype;
  s.add_choice<StateDtype>("optimizer.state_dtype", c.optimizer.state_dtype,
                           {{"fp32", StateDtype::fp32}, {"bf16", StateDtype::bf16}, {"8bit", StateDtype::eight_bit}},
                           "Format of the states of adamw, lion and sgd; they are computed in fp32. bf16: half the bytes, "
                           "rounded stochastically with noise that differs from step to step; 8bit, of adamw alone: dynamic "
                           "codes and a largest magnitude for 256 of them, a quarter of the bytes.");
  using Stateful = Config::Optimizer::Stateful;
  s.add_choice<Stateful>(
       "optimizer.stateful", c.optimizer.stateful,
       {{"adamw", Stateful::adamw}, {"lion", Stateful::lion}, {"sgd", Stateful::sgd}},
       "frugal: what the elements with states are trained by, and all of embeddings, norms, biases and the head.")
      .automatic("adamw; only frugal has one");
  using Choice = Config::Optimizer::Choice;
  s.add_choice<Choice>(
       "optimizer.coord_choice", c.optimizer.coord_choice,
       {{"columns", Choice::columns}, {"rows", Choice::rows}, {"randk", Choice::entries}, {"blockwise", Choice::blocks}},
       "frugal: what is chosen: of every matrix (outputs x inputs) columns, rows or single entries (randk), or "
       "whole matrices of the model (blockwise).")
      .automatic("columns; only frugal without proj_type has one");
  using Order = Config::Optimizer::BlockOrder;
  s.add_choice<Order>(
       "optimizer.block_order", c.optimizer.block_order,
       {{"random", Order::random},
        {"ascending", Order::ascending},
        {"descending", Order::descending},
        {"mirror", Order::mirror}},
       "frugal with coord_choice: blockwise: which matrices are next: drawn; from the first or from the last one "
       "on, and round; or as many from both ends.")
      .automatic("descending; only frugal with coord_choice: blockwise has one");
  using Space = Config::Optimizer::Space;
  s.add_choice<Space>(
       "optimizer.proj_type", c.optimizer.proj_type, {{"none", Space::none}, {"svd", Space::svd}, {"random", Space::random}},
       "frugal: instead of elements, what of a gradient lies in the space of its leading singular vectors, or in "
       "a random one; of `density` times the shorter dim's directions.")
      .automatic("none; only frugal has one");
  s.add("optimizer.density", c.optimizer.density, "frugal: the part that has states.")
      .at_least(0)
      .at_most(1)
      .automatic("0.25; only frugal has one");
  s.add("optimizer.update_gap", c.optimizer.update_gap, "frugal: steps between two choices.")
      .at_least(1)
      .at_most(kMaxSteps)
      .automatic("200; only frugal has one");
  s.add("optimizer.reset_statistics", c.optimizer.reset_statistics,
        "frugal: states begin at zero with each choice; without it, which only proj_type can do, they stay and are taken for "
        "those of the new space.")
      .automatic("true; only frugal has one");
  using Inactive = Config::Optimizer::Inactive;
  s.add_choice<Inactive>("optimizer.inactive_update_rule", c.optimizer.inactive_update_rule,
                         {{"no", Inactive::none}, {"sgd", Inactive::sgd}, {"sign_sgd", Inactive::sign_sgd}},
                         "frugal: the step of elements without states: none, along the gradient, or along its sign.")
      .automatic("sign_sgd; only frugal has one");
  s.add("optimizer.inactive_lr_scale", c.optimizer.inactive_lr_scale,
        "frugal: learning rate of elements without states, times that of those with.")
      .at_least(0)
      .automatic("1; only frugal has one");
  s.add("optimizer.proj_params_lr_scale", c.optimizer.proj_params_lr_scale,
        "frugal: learning rate of the parameters of which a part has states, times that of the others; their decay keeps the "
        "plain one.")
      .at_least(0)
      .automatic("1; only frugal has one");
  using Scaling = Config::Optimizer::Scaling;
  s.add_choice<Scaling>("optimizer.scale_type", c.optimizer.scale_type,
                        {{"channel", Scaling::channel}, {"tensor", Scaling::tensor}},
                        "apollo: a factor for each row of a matrix (its longer dim), or one for the matrix (APOLLO-Mini).")
      .automatic("channel; only apollo has one");
  using Projection = Config::Optimizer::Projection;
  s.add_choice<Projection>("optimizer.proj", c.optimizer.proj, {{"random", Projection::random}, {"svd", Projection::svd}},
                           "apollo: projections at random, made anew in every step, or on leading singular vectors of the "
                           "gradient, kept for update_proj_gap steps.")
      .automatic("random; only apollo has one");
  s.add("optimizer.rank", c.optimizer.rank, "apollo, galore: columns of the projections; moments have as many values a row.")
      .at_least(1)
      .at_most(65536)
      .automatic("256; with scale_type tensor 1; galore: 128; others have none");
  s.add("optimizer.scale", c.optimizer.scale,
        "apollo: updates of projected matrices are multiplied by its root; galore: by it.")
      .greater_than(0)
      .automatic("1; with scale_type tensor 128; galore: 0.25; others have none");
  s.add("optimizer.update_proj_gap", c.optimizer.update_proj_gap, "apollo, galore: steps of a projection.")
      .at_least(1)
      .at_most(kMaxSteps)
      .automatic("200; only apollo and galore have one");
  s.add("optimizer.scale_front", c.optimizer.scale_front, "apollo: the limiter sees updates that `scale` has multiplied.")
      .automatic("false; only apollo has one");
  s.add("optimizer.disable_nl", c.optimizer.disable_nl,
        "apollo: without the limiter by which the norm of a matrix's update grows by 1 % a step at most.")
      .automatic("false; only apollo has one");
  s.add("optimizer.nl_floor", c.optimizer.nl_floor,
        "apollo: the limiter takes a smaller norm for this one, so that a gradient of zero does not hold a matrix back for "
        "thousands of steps. 0: as the authors' code.")
      .at_least(0)
      .automatic("1; only apollo has one");
  using Seeds = Config::Optimizer::Seeds;
  s.add_choice<Seeds>("optimizer.proj_seeds", c.optimizer.proj_seeds, {{"run", Seeds::run}, {"authors", Seeds::authors}},
                      "apollo: projections from run.seed and the names of parameters, or those of the authors' code on a CPU.")
      .automatic("run; only apollo with proj random has one");
  s.add("optimizer.weight_decay", c.optimizer.weight_decay, "Weight decay: decoupled, but that sgd adds it to the gradient.")
      .at_least(0)
      .alias("weight_decay")
      .alias("optimizer.params.weight_decay");
  s.add(
      "optimizer.groups", c.optimizer.groups,
      "Parameters with other settings: each text is a pattern of names (`*` any characters, `?` one) and what holds where it "
      "matches, such as `embed.* lr_scale=0.1 weight_decay=0`. lr_scale multiplies the learning rate; projected=true or false "
      "says "
      "whether frugal keeps states of a part and apollo projects (else only the weights of linear layers inside blocks). The "
      "first pattern that "
      "matches a "
      "name counts; one that is the first for none is an error.");
  using Policy = Config::Optimizer::Freeze::Policy;
  s.add_choice<Policy>(
      "optimizer.freeze.type", c.optimizer.freeze.type,
      {{"none", Policy::none}, {"lisa", Policy::lisa}, {"badam", Policy::badam}, {"slimfit", Policy::slimfit}},
      "Which units are trained when; the others take no part in the update. `lisa`: a few blocks, drawn anew from "
      "time to time, with embedding and head. `badam`: one block after another, and nothing else. `slimfit`: the "
      "blocks that their last updates changed most, with embedding and head. With adamw, "
      "lion and sgd.");
  using Freeze = Config::Optimizer::Freeze;
  s.add_choice<Freeze::States>(
       "optimizer.freeze.states", c.optimizer.freeze.states, {{"keep", Freeze::States::keep}, {"drop", Freeze::States::drop}},
       "What becomes of the optimizer's states when other units are trained: they stay with their units, "
       "or all begin at zero. badam drops and slimfit keeps them.")
      .automatic("keep for slimfit, else drop");
  s.add("optimizer.freeze.switch_block_every", c.optimizer.freeze.switch_block_every,
        "badam: steps of a block. slimfit: steps between two choices.")
      .at_least(1)
      .at_most(kMaxSteps)
      .automatic("50 for badam, 1 for slimfit; lisa does not have it");
  s.add_choice<Freeze::Mode>(
       "optimizer.freeze.switch_mode", c.optimizer.freeze.switch_mode,
       {{"random", Freeze::Mode::random}, {"ascending", Freeze::Mode::ascending}, {"descending", Freeze::Mode::descending}},
       "badam: the order of the blocks; random: each once, then all in another order.")
      .automatic("descending; only badam has it");
  s.add("optimizer.freeze.lisa_activated_layers", c.optimizer.freeze.lisa_activated_layers,
        "lisa: blocks that are trained at once.")
      .at_least(1)
      .at_most(kMaxBatch)
      .automatic("2; only lisa has it");
  s.add("optimizer.freeze.lisa_interval_steps", c.optimizer.freeze.lisa_interval_steps, "lisa: steps between two draws.")
      .at_least(1)
      .at_most(kMaxSteps)
      .automatic("20; only lisa has it");
  s.add("optimizer.freeze.freezing_rate", c.optimizer.freeze.freezing_rate,
        "slimfit: the part of the blocks that is frozen; its product with their number is rounded down.")
      .at_least(0)
      .less_than(1)
      .automatic("0.9; only slimfit has it");

  s.section(
      "scheduler",
      "Learning rate over the steps: linear warm-up from 0 to optimizer.lr, then the decay, which ends at training.steps.");
  s.add_choice<ScheduleKind>("scheduler.type", c.scheduler.type,
                             {{"constant", ScheduleKind::constant},
                              {"linear", ScheduleKind::linear},
                              {"cosine", ScheduleKind::cosine},
                              {"wsd", ScheduleKind::wsd},
                              {"WarmupLR", ScheduleKind::constant},
                              {"WarmupDecayLR", ScheduleKind::linear},
                              {"WarmupCosineLR", ScheduleKind::cosine}},
                             "Shape of the decay; wsd: constant, then linear over the last decay_steps.")
      .alias("lr_decay_style");
  s.add("scheduler.warmup_steps", c.scheduler.warmup_steps, "Steps of warm-up.")
      .at_least(0)
      .at_most(kMaxSteps)
      .alias("lr_warmup_iters")
      .alias("lr_scheduler.warmup_steps")
      .alias("scheduler.params.warmup_num_steps");
  s.add("scheduler.min_lr", c.scheduler.min_lr, "Where linear, cosine and wsd end.").at_least(0).alias("min_lr");
  s.add("scheduler.decay_steps", c.scheduler.decay_steps, "wsd: length of the decay.")
      .at_least(1)
      .at_most(kMaxSteps)
      .automatic("a tenth of training.steps")
      .alias("lr_wsd_decay_iters");
}

void describe_parallel(ConfigSchema& s, Config& c) {
  s.section("parallel",
            "Ranks and how they talk. The ranks are those that `mpirun` or `srun` started, or that meet at the path in "
            "STRATA_RENDEZVOUS.");
  s.add("parallel.data", c.parallel.data, "Data-parallel ranks.")
      .at_least(1)
      .at_most(1 << 20)
      .automatic("all ranks")
      .alias("data_parallel_size");
  s.add_duration("parallel.timeout", c.parallel.timeout, "How long a rank may be silent before the others stop with an error.")
      .greater_than(0)
      .at_most(1e9);
  s.add_choice<AutoOnOff>("parallel.shared_memory", c.parallel.shared_memory, kAutoOnOff,
                          "Exchange between ranks of one machine through shared memory.");

  s.section("zero", "Which states are partitioned over the data-parallel ranks. No stage changes a bit of the result.");
  s.add("zero.stage", c.zero.stage, "0: none; 1: optimizer states; 2: gradients too; 3: parameters too.")
      .at_least(0)
      .at_most(3)
      .alias("zero_stage")
      .alias("zero_optimization.stage");
  s.add("zero.prefetch_units", c.zero.prefetch_units,
        "Units whose parameters are fetched ahead of the one that computes: gathered in stage 3, copied up "
        "where they live elsewhere (offload.param.device).")
      .at_least(0)
      .at_most(1000);
}

void describe_tiers(ConfigSchema& s, Config& c) {
  s.section("offload", "Where states live.");
  const std::vector<std::pair<std::string, Tier>> homes = {{"none", Tier::gpu}, {"cpu", Tier::cpu}, {"nvme", Tier::nvme}};
  s.add_choice<Tier>("offload.optimizer.device", c.offload.optimizer.device, homes,
                     "Home of master weights and optimizer states; none: the gpu tier, where on cuda the GPU updates them.")
      .automatic("what fits into memory.gpu stays there (with a GPU), then into memory.cpu, the rest on NVMe")
      .alias("offload_optimizer.device")
      .alias("zero_optimization.offload_optimizer.device");
  s.add("offload.optimizer.record_size", c.offload.optimizer.record_size,
        "What is read, updated and written together; rounded up to a multiple of 4096.")
      .at_least(1)
      .at_most(kMaxSize)
      .unit("parameters")
      .alias("zero_optimization.sub_group_size");

  s.add("offload.optimizer.gpu_fraction", c.offload.optimizer.gpu_fraction,
        "Of the records that live away from the GPU, the part that the GPU updates; the CPU updates the others beside it.")
      .at_least(0)
      .at_most(1)
      .automatic("what makes the forecast step shortest, by device.rates; 0 where they are not known");
  s.add("offload.optimizer.stride", c.offload.optimizer.stride,
        "The GPU updates every stride-th of those records, as Deep Optimizer States does; 0: gpu_fraction.")
      .at_least(0);
  s.add("offload.optimizer.speculation", c.offload.optimizer.speculation,
        "Of the records that live away from the GPU with a master copy, the part that is updated while the backward runs, "
        "before the norm is known, as if the step did not clip. Old states are kept until then (in CPU memory that is a "
        "second copy): a guess that was wrong is dropped, and no bit depends on it. Of apollo none is: it measures first.")
      .at_least(0)
      .at_most(1)
      .automatic("what makes the forecast step shortest and fits into memory.cpu, by device.rates; 0 where they are not known");
  using When = Config::Offload::Optimizer::When;
  s.add_choice<When>("offload.optimizer.speculate", c.offload.optimizer.speculate,
                     {{"likely", When::likely}, {"always", When::always}},
                     "In which steps. likely: where the last 8 did not clip.");
  s.add("offload.optimizer.delayed_share", c.offload.optimizer.delayed_share,
        "Of the records, the last units' first, the part whose update may end while the next forward computes; each unit waits "
        "for its own. 0: the forward waits for all of them.")
      .at_least(0)
      .at_most(1);

  s.add_choice<Tier>("offload.param.device", c.offload.param.device, homes,
                     "Home of the parameters that are computed with; none: the gpu tier. Else a unit is copied up for every "
                     "use, zero.prefetch_units ahead; from nvme it is read one unit earlier.")
      .automatic("the gpu tier for as many units as memory.gpu holds, then CPU memory, then NVMe")
      .alias("offload_param.device")
      .alias("zero_optimization.offload_param.device");
  s.add_choice<Tier>(
       "offload.gradient.device", c.offload.gradient.device, homes,
       "Home of gradient sums; none: the gpu tier. Else a unit's leave as soon as its backward is done. nvme needs "
       "precision.gradients: bf16 and, with several micro-batches, offload.micro_batch_order: vertical.")
      .automatic("the gpu tier if memory.gpu holds them, else CPU memory, then NVMe where that may be");
  s.add_choice<Tier>("offload.activation.device", c.offload.activation.device, homes,
                     "Home of what blocks keep of a forward until their backward; none: the gpu tier. Else it leaves while the "
                     "next blocks compute and comes back zero.prefetch_units (at least 1) ahead; what the last block keeps "
                     "stays.")
      .automatic("the gpu tier for as many blocks as memory.gpu holds, then CPU memory, then NVMe")
      .alias("offload_activation.device");
  using Order = Config::Offload::Order;
  s.add_choice<Order>(
      "offload.micro_batch_order", c.offload.micro_batch_order,
      {{"horizontal", Order::horizontal}, {"vertical", Order::vertical}, {"auto", Order::automatic}},
      "horizontal: one micro-batch after another goes through the model. vertical: each unit computes all "
      "micro-batches of a step before the next one does: parameters and sums move once a step, and the inputs of "
      "units are kept for all micro-batches. Not with tied embeddings. auto: the one whose forecast step is shorter, by "
      "device.rates; without them horizontal, if it fits.");

  s.section("memory", "Budgets of one rank. A plan that does not fit is refused before training.");
  s.add_bytes("memory.gpu", c.memory.gpu, "Compute tier; on the host backend a budget within host memory.")
      .automatic("what the device has");
  s.add_bytes("memory.cpu", c.memory.cpu, "Host memory.").automatic("what is free, divided by the ranks on the machine");
  s.add_bytes("memory.nvme", c.memory.nvme, "Space under nvme.path.")
      .automatic("no budget of its own: the files are allocated before training, or refused");

  s.section("nvme",
            "The drive tier. For every step `metrics.jsonl` has, by file, how many requests of rank 0 went each way, and how "
            "long they took.");
  s.add("nvme.path", c.nvme.path,
        "Folder of the state files, or several on different drives: every record is then spread over all of them, in pieces of "
        "2 MiB. Which folders these are changes no bit of the result.")
      .automatic("`nvme` in the run folder")
      .alias("nvme_path")
      .alias("offload_optimizer.nvme_path")
      .alias("zero_optimization.offload_optimizer.nvme_path");
  s.add("nvme.weights", c.nvme.weights,
        "Of each folder, its share of the bytes. Only ratios matter; for a folder that reads r and writes w bytes a second, "
        "1 / (1/r + 1/w) keeps all equally long busy.")
      .greater_than(0)
      .automatic("measured when training starts, about a second a folder; one folder needs none");
  using Engine = IoEngineOptions::Kind;
  s.add_choice<Engine>("nvme.engine", c.nvme.engine,
                       {{"auto", Engine::automatic}, {"io_uring", Engine::io_uring}, {"threads", Engine::threads}},
                       "How the drive is driven; auto: io_uring where the kernel allows it.");
  s.add("nvme.queue_depth", c.nvme.queue_depth, "Requests in flight, of each folder and direction.")
      .at_least(1)
      .at_most(4096)
      .alias("aio.queue_depth");
  s.add_bytes("nvme.block_size", c.nvme.block_size, "Largest request.").at_least(4096).at_most(1 << 30).alias("aio.block_size");
  s.add_duration("nvme.timeout", c.nvme.timeout,
                 "How long a drive may answer no request at all before training stops with an error.")
      .at_least(0.001)
      .at_most(1e6);
  s.add_choice<AutoOnOff>(
      "nvme.exclusive", c.nvme.exclusive, kAutoOnOff,
      "on: of the ranks of a host, one at a time reads a folder, a whole record, and one writes it. auto: "
      "so for large records where the kernel says that the drive rotates. `strata bench nvme --ranks` compares the two.");
  s.add("nvme.gpu_direct", c.nvme.gpu_direct,
        "On cuda, states on NVMe that the GPU updates (offload.optimizer.gpu_fraction) pass between the drives and its memory "
        "without going through the host's, by cuFile (GPUDirect Storage). What is missing for it is an error at the start. It "
        "changes no bit.");
}

void describe_speeds(ConfigSchema& s, const std::string& section, Config::Device::Speeds& c, const std::string& unset) {
  s.add_byte_rate(section + ".h2d", c.h2d, "Copies from CPU to GPU memory.").automatic(unset);
  s.add_byte_rate(section + ".d2h", c.d2h, "Copies from GPU to CPU memory.").automatic(unset);
  s.add(section + ".cpu_update", c.cpu_update, "Optimizer on the CPU.")
      .at_least(0)
      .unit("parameters a second")
      .automatic(unset);
  s.add(section + ".gpu_update", c.gpu_update, "Optimizer on the GPU.")
      .at_least(0)
      .unit("parameters a second")
      .automatic(unset);
  s.add_byte_rate(section + ".nvme_read", c.nvme_read, "Reading state files.").automatic(unset);
  s.add_byte_rate(section + ".nvme_write", c.nvme_write, "Writing state files.").automatic(unset);
  s.add_duration(section + ".compute_unit", c.compute_unit,
                 "Forward of one unit (a block, the embedding) and micro-batch; a backward counts twice, the head three times.")
      .at_least(0)
      .automatic(unset);
}

void describe_rest(ConfigSchema& s, Config& c) {
  using Choice = Config::Device::Choice;
  s.section(
      "device",
      "What computes. `emulate`: a slower machine, to try a plan on: operations of the host backend take as long as at these "
      "rates, and the gpu tier is treated as a memory of its own. `rates`: what the machine's parts can do, for the plan, "
      "which decides by them who updates what and in which order; `hardware` names a file of them, or has them measured. None "
      "changes a bit of the "
      "result.");
  s.add_choice<Choice>("device.backend", c.device.backend,
                       {{"auto", Choice::automatic}, {"host", Choice::host}, {"cuda", Choice::cuda}},
                       "Where the model computes; auto: cuda where there is a GPU and the program was built for it.");
  s.add("device.tf32", c.device.tf32,
        "On cuda, products of fp32 run on tensor cores with operands rounded to 10 bits of mantissa: faster, other bits.");
  using Attention = Config::Device::Attention;
  s.add_choice<Attention>(
      "device.attention", c.device.attention,
      {{"auto", Attention::automatic}, {"strata", Attention::strata}, {"cudnn", Attention::cudnn}},
      "Whose attention runs on cuda; auto: Strata's. cudnn: NVIDIA's, for bf16, in the form whose bits do not "
      "depend on time; what it refuses is an error at the start.");
  s.add("device.threads", c.device.threads, "Compute threads of a rank; on cuda, those that update states in host memory.")
      .at_least(1)
      .at_most(4096)
      .automatic("the physical cores that the rank may use, divided by the ranks that may use the same");
  s.add(
      "device.bind", c.device.bind,
      "Threads of a rank stay on its part of the cores that its launcher leaves to it, and its host memory comes from the NUMA "
      "nodes beside them. false: wherever the system likes, for example beside other programs that compute.");

  describe_speeds(s, "device.emulate", c.device.emulate, "not limited");
  s.add_defaults_file(
       "device.hardware", "device.rates",
       "Its keys are those of device.rates, without the section: those that are `auto` there are taken from it. "
       "A relative path is relative to the configuration file that says it, as an argument to the working folder. "
       "`configs/hardware` has some, and `strata probe` writes one. probe (without quotes): this machine is measured at the "
       "start of a run or plan; a run's ranks then take the smallest rate of each.")
      .or_word("probe", c.device.probe)
      .automatic("none");
  describe_speeds(s, "device.rates", c.device.rates,
                  "that of device.hardware, else of device.emulate, else not known and taken as unlimited");
  s.add_bytes(
       "device.rates.nvme_endurance", c.device.nvme_endurance,
       "Not a rate: bytes that the drives are rated to have written, such as 1.2PB; of all drives together that the run's "
       "ranks write to. The plan then tells how many steps they last.")
      .greater_than(0)
      .automatic("that of device.hardware, else not known");

  s.section("checkpoint",
            "Checkpoints are written aside and committed by one rename; any layout of ranks and states loads them.");
  s.add("checkpoint.interval", c.checkpoint.interval, "Steps between checkpoints; 0: none but the final one.")
      .at_least(0)
      .alias("save_interval");
  s.add("checkpoint.keep_last", c.checkpoint.keep_last, "How many to keep; 0: all.")
      .at_least(0)
      .alias("most_recent_k")
      .alias("keep_latest_k");
  s.add("checkpoint.save_final", c.checkpoint.save_final, "Save after the last step.");
  s.add("checkpoint.resume", c.checkpoint.resume,
        "auto: from the newest checkpoint of the run folder, if there is one; never; or a checkpoint folder.");

  s.section("logging", "`metrics.jsonl` has every step; these keys are about what is printed.");
  s.add("logging.log_interval", c.logging.log_interval, "Steps between lines.")
      .at_least(1)
      .alias("log_interval")
      .alias("steps_per_print")
      .alias("log_freq");
  s.add_choice<AutoOnOff>("logging.progress", c.logging.progress, kAutoOnOff,
                          "A progress line that is redrawn; auto: on a terminal.");
  s.add("logging.trace", c.logging.trace, "Write `trace.json` (Chrome and Perfetto read it).");
  s.add("logging.trace_steps", c.logging.trace_steps, "Steps in the trace, from the second of the run on.").at_least(1);
}

void describe_rejected(ConfigSchema& s) {
  s.reject("fp16", "fp16 is not supported; leave it out and use precision.compute: bf16");
  s.reject("optimizer.params.betas", "write optimizer.beta1 and optimizer.beta2");
  s.reject("optimizer.params", "only lr, eps and weight_decay have a counterpart; see the optimizer section");
  s.reject("scheduler.params", "only warmup_num_steps has a counterpart; see the scheduler section");
  s.reject("lr_decay_iters", "the decay ends at training.steps");
  s.reject("distributed_timeout_minutes", "write parallel.timeout: 10min");
  s.reject("zero_optimization",
           "only stage, sub_group_size, offload_optimizer.device and offload_optimizer.nvme_path have a counterpart");
  s.reject("aio", "only queue_depth and block_size have a counterpart; see the nvme section");
  for (const char* key : {"tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size",
                          "expert_model_parallel_size", "tensor_parallel"}) {
    s.reject(key, "not supported; ranks are data-parallel, with zero.stage partitioning the states");
  }
}

}  // namespace

void describe(ConfigSchema& schema, Config& config) {
  describe_run(schema, config.run);
  describe_model(schema, config.model);
  describe_data(schema, config.data);
  describe_training(schema, config.training);
  describe_arithmetic(schema, config);
  describe_parallel(schema, config);
  describe_tiers(schema, config);
  describe_rest(schema, config);
  describe_rejected(schema);
}

}  // namespace strata
