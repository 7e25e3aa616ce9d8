#include "trainer/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "model/config.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kMinimal =
    "model: {type: llama, vocab_size: 257, hidden_size: 96, num_layers: 2, num_heads: 6, num_kv_heads: 2}\n"
    "data: {train: [a.bin]}\n"
    "training: {steps: 100, seq_length: 64, micro_batch_size: 4}\n";

Config minimal(const std::vector<std::string>& overrides = {}) {
  Result<Config> config = parse_config(kMinimal, "t.yaml", overrides);
  EXPECT_TRUE(config.ok()) << config.status().message();
  return std::move(config).value();
}

Config resolved(const std::vector<std::string>& overrides, int world = 1) {
  Result<Config> config = resolve(minimal(overrides), WorldSize{world});
  EXPECT_TRUE(config.ok()) << config.status().message();
  return std::move(config).value();
}

std::string problem(const std::vector<std::string>& overrides, int world = 1) {
  const Status status = validate(minimal(overrides), WorldSize{world});
  EXPECT_EQ(status.code(), Code::invalid_config);
  EXPECT_EQ(exit_code(status), 2);
  return status.message();
}

std::string file_text(const std::string& path) {
  std::ifstream file(std::string(STRATA_SOURCE_DIR) + "/" + path);
  EXPECT_TRUE(file) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(TrainingConfig, CudnnsAttentionIsForBf16) {
  EXPECT_THAT(problem({"device.attention=cudnn", "precision.compute=fp32"}),
              AllOf(HasSubstr("device.attention"), HasSubstr("bf16")));
  EXPECT_EQ(resolved({"device.attention=cudnn", "precision.compute=bf16"}).device.attention, Config::Device::Attention::cudnn);
  EXPECT_EQ(resolved({}).device.attention, Config::Device::Attention::automatic);
}

TEST(TrainingConfig, DerivesWhatFollows) {
  const Config c = resolved({"run.name=first", "offload.optimizer.record_size=5000"}, 2);
  EXPECT_EQ(c.run.folder, "runs/first");
  EXPECT_EQ(c.nvme.path, std::vector<std::string>{"runs/first/nvme"});
  EXPECT_EQ(c.model.head_dim, 16);
  EXPECT_EQ(c.model.ffn_size, 256);
  EXPECT_EQ(c.model.max_positions, 64);
  EXPECT_EQ(c.model.tie_embeddings, false);
  EXPECT_EQ(c.training.gradient_accumulation_steps, 1);
  EXPECT_EQ(c.training.global_batch_size, 8);
  EXPECT_EQ(c.parallel.data, 2);
  EXPECT_EQ(c.offload.optimizer.record_size, 8192);
}

TEST(TrainingConfig, NvmePathsMayBeSeveralWithAWeightEach) {
  const Config c = resolved({"nvme.path=[/a, /b]", "nvme.weights=[1, 2.5]", "nvme.timeout=2min"});
  EXPECT_EQ(c.nvme.path, (std::vector<std::string>{"/a", "/b"}));
  EXPECT_EQ(c.nvme.weights, (std::vector<double>{1, 2.5}));
  EXPECT_EQ(c.nvme.timeout, 120.0);
  EXPECT_THAT(problem({"nvme.path=[/a, /b, /a]"}), HasSubstr("nvme.path: names /a twice"));
  EXPECT_THAT(problem({"nvme.path=[/a, \"\"]"}), HasSubstr("nvme.path: a folder must have a name"));
  EXPECT_THAT(problem({"nvme.path=[/a, /b]", "nvme.weights=[1]"}), HasSubstr("as many as the folders of nvme.path: 1 != 2"));
}

TEST(TrainingConfig, RecordSizeIsRoundedAtItsEdges) {
  EXPECT_EQ(resolved({"offload.optimizer.record_size=1"}).offload.optimizer.record_size, 4096);
  EXPECT_EQ(resolved({"offload.optimizer.record_size=4096"}).offload.optimizer.record_size, 4096);
  EXPECT_EQ(resolved({"offload.optimizer.record_size=4097"}).offload.optimizer.record_size, 8192);
}

TEST(TrainingConfig, AnyTwoBatchSizesGiveTheThird) {
  const auto triple = [](const std::vector<std::string>& overrides, int world) {
    const Config c = resolved(overrides, world);
    return std::vector<std::int64_t>{c.training.micro_batch_size, c.training.gradient_accumulation_steps,
                                     c.training.global_batch_size};
  };
  using Sizes = std::vector<std::int64_t>;
  EXPECT_EQ(triple({"training.global_batch_size=24"}, 3), (Sizes{4, 2, 24}));
  EXPECT_EQ(triple({"training.gradient_accumulation_steps=5"}, 2), (Sizes{4, 5, 40}));
  EXPECT_EQ(
      triple({"training.micro_batch_size=auto", "training.global_batch_size=12", "training.gradient_accumulation_steps=2"}, 2),
      (Sizes{3, 2, 12}));
  EXPECT_EQ(triple({"training.micro_batch_size=auto", "training.global_batch_size=12"}, 4), (Sizes{3, 1, 12}));
  EXPECT_EQ(triple({"training.global_batch_size=16", "training.gradient_accumulation_steps=2"}, 2), (Sizes{4, 2, 16}));
}

TEST(TrainingConfig, BatchSizesThatContradictPrintTheFailingEquation) {
  EXPECT_EQ(problem({"training.global_batch_size=32", "training.gradient_accumulation_steps=3"}, 2),
            "training: global_batch_size = micro_batch_size * gradient_accumulation_steps * data-parallel ranks fails: 32 != 4 "
            "* 3 * 2 = 24");
  EXPECT_EQ(problem({"training.global_batch_size=6"}),
            "training: gradient_accumulation_steps = global_batch_size / (micro_batch_size * data-parallel ranks) "
            "fails: 6 / (4 * 1) is 1.5, not a whole number");
  EXPECT_THAT(problem({"training.micro_batch_size=auto", "training.gradient_accumulation_steps=2"}),
              HasSubstr("must be given"));
  EXPECT_EQ(problem({"parallel.data=4"}, 2), "parallel.data: is 4, but the number of ranks is 2");
}

TEST(TrainingConfig, AllProblemsAreReportedAtOnce) {
  const Result<Config> empty = resolve(Config{}, WorldSize{1});
  EXPECT_THAT(empty.status().message(),
              AllOf(HasSubstr("training.steps"), HasSubstr("training.seq_length"), HasSubstr("data.train"),
                    HasSubstr("model.hf"), HasSubstr("model.vocab_size"), HasSubstr("micro_batch_size or global_batch_size")));
}

TEST(TrainingConfig, ModelShapesThatCannotBeAreRefused) {
  EXPECT_THAT(problem({"model.num_heads=7", "model.num_kv_heads=7"}),
              HasSubstr("head_dim = hidden_size / num_heads fails: 96 / 7"));
  EXPECT_THAT(problem({"model.num_kv_heads=4"}), HasSubstr("num_kv_heads = 4"));
  EXPECT_THAT(problem({"model.head_dim=15"}), HasSubstr("must be even"));
  EXPECT_THAT(problem({"model.type=gpt2"}), HasSubstr("gpt2"));
  EXPECT_THAT(problem({"model.type=gpt2", "model.num_kv_heads=auto", "model.rope_theta=5"}), HasSubstr("remove rope_theta"));
  EXPECT_THAT(problem({"model.max_positions=63"}), HasSubstr("63 < 64"));
  EXPECT_THAT(problem({"model.type=auto"}), HasSubstr("give model.hf, or model.type"));
  EXPECT_THAT(problem({"model.rope_scaling={type: llama3, low_freq_factor: 4, high_freq_factor: 4}"}),
              HasSubstr("low_freq_factor < high_freq_factor"));
}

TEST(TrainingConfig, FolderAndShapeExcludeEachOther) {
  EXPECT_THAT(problem({"model.hf=some/folder"}), HasSubstr("model.hf: the folder some/folder gives the shape"));
  const Result<Config> config =
      parse_config("model: {hf: x}\ndata: {train: a}\ntraining: {steps: 1, seq_length: 8, micro_batch_size: 1}\n", "t.yaml");
  EXPECT_TRUE(resolve(*config, WorldSize{1}).ok());
  EXPECT_FALSE(
      validate(
          *parse_config(
              "model: {hf: x, qkv_bias: false}\ndata: {train: a}\ntraining: {steps: 1, seq_length: 8, micro_batch_size: 1}\n",
              "t"),
          WorldSize{1})
          .ok());
}

TEST(TrainingConfig, WhatAProgramSuppliesNeedNotBeConfigured) {
  Config c;
  c.training = {.steps = 2, .seq_length = 8, .micro_batch_size = 1, .eval_interval = 1};
  EXPECT_TRUE(resolve(c, WorldSize{1}, {.model = true, .train = true, .validation = true}).ok());
  EXPECT_THAT(resolve(c, WorldSize{1}, {.model = true, .validation = true}).status().message(), HasSubstr("data.train"));
  EXPECT_THAT(resolve(c, WorldSize{1}, {.train = true, .validation = true}).status().message(), HasSubstr("model.type"));
  EXPECT_THAT(resolve(c, WorldSize{1}, {.model = true, .train = true}).status().message(), HasSubstr("data.validation"));
}

TEST(TrainingConfig, ScheduleMustFitTheRun) {
  EXPECT_EQ(resolved({"scheduler.type=wsd"}).scheduler.decay_steps, 10);
  EXPECT_EQ(resolved({"scheduler.warmup_steps=100"}).scheduler.warmup_steps, 100);
  EXPECT_THAT(problem({"scheduler.warmup_steps=101"}), HasSubstr("101 > 100"));
  EXPECT_THAT(problem({"scheduler.type=wsd", "scheduler.warmup_steps=60", "scheduler.decay_steps=41"}),
              HasSubstr("60 + 41 > 100"));
  EXPECT_THAT(problem({"scheduler.decay_steps=4"}), HasSubstr("only scheduler.type wsd"));
  EXPECT_THAT(problem({"scheduler.min_lr=1"}), HasSubstr("must be at most optimizer.lr"));
}

TEST(TrainingConfig, OtherCombinationsThatCannotWork) {
  EXPECT_THAT(problem({"training.eval_interval=10"}), HasSubstr("data.validation names no data"));
  EXPECT_THAT(problem({"run.name=a/b"}), HasSubstr("must be a plain file name"));
  EXPECT_THAT(problem({"run.name=\"\""}), HasSubstr("must be a plain file name"));
  EXPECT_THAT(problem({"checkpoint.resume=\"\""}), HasSubstr("checkpoint.resume"));
}

TEST(TrainingConfig, ResolveIsIdempotentAndDumpParsesBack) {
  const Config once = resolved({"memory.gpu=1GiB", "parallel.timeout=90s", "data.validation=[v 1, v2]", "bf16=true"}, 2);
  const std::string yaml = dump(once);
  const Result<Config> again = parse_config(yaml, "config.resolved.yaml");
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(dump(*again), yaml);
  EXPECT_EQ(dump(*resolve(*again, WorldSize{2})), yaml);
}

TEST(TrainingConfig, AnOptimizerHasItsOwnKeysAndNoOthers) {
  const auto adamw = resolved({}).optimizer, lion = resolved({"optimizer.type=lion"}).optimizer;
  const auto sgd = resolved({"optimizer.type=SGD", "optimizer.params.momentum=0.9"}).optimizer;
  EXPECT_EQ(adamw.beta2, 0.95);
  EXPECT_EQ(adamw.momentum, std::nullopt);
  EXPECT_EQ(lion.beta2, 0.99);
  EXPECT_EQ(lion.eps, std::nullopt);
  EXPECT_EQ(sgd.momentum, 0.9);
  EXPECT_EQ(sgd.nesterov, false);
  EXPECT_EQ(sgd.beta1, std::nullopt);
  EXPECT_THAT(problem({"optimizer.type=sgd", "optimizer.beta1=0.9"}), HasSubstr("optimizer.beta1: sgd has none; remove it"));
  EXPECT_THAT(problem({"optimizer.type=lion", "optimizer.eps=1e-6"}), HasSubstr("optimizer.eps: lion has none"));
  EXPECT_THAT(problem({"optimizer.momentum=0.9"}), HasSubstr("optimizer.momentum: adamw has none"));
  EXPECT_THAT(problem({"optimizer.density=0.5"}), HasSubstr("optimizer.density: adamw has none; remove it"));
  EXPECT_THAT(problem({"optimizer.update_gap=5"}), HasSubstr("optimizer.update_gap: adamw has none; remove it"));
  EXPECT_THAT(problem({"optimizer.type=frugal", "optimizer.stateful=lion", "optimizer.eps=1e-6"}),
              HasSubstr("optimizer.eps: lion has none"));
  const auto frugal = resolved({"optimizer.type=frugal"}).optimizer;
  EXPECT_EQ(frugal.density, 0.25);
  EXPECT_EQ(frugal.update_gap, 200);
  EXPECT_EQ(frugal.beta2, 0.95);
  const auto galore = resolved({"optimizer.type=galore"}).optimizer;
  EXPECT_EQ(galore.rank, 128);
  EXPECT_EQ(galore.scale, 0.25);
  EXPECT_EQ(galore.proj, std::nullopt);
  EXPECT_THAT(problem({"optimizer.type=galore", "optimizer.proj=svd"}), HasSubstr("optimizer.proj: galore has none"));
  EXPECT_THAT(problem({"optimizer.type=galore", "optimizer.proj_seeds=run"}),
              HasSubstr("optimizer.proj_seeds: galore has none"));
  EXPECT_THAT(problem({"optimizer.type=apollo", "optimizer.proj=svd", "optimizer.proj_seeds=run"}),
              HasSubstr("optimizer.proj_seeds: apollo with proj svd has none"));
  EXPECT_THAT(problem({"optimizer.proj_type=svd"}), HasSubstr("optimizer.proj_type: adamw has none"));
  EXPECT_THAT(problem({"optimizer.type=frugal", "optimizer.proj_type=svd", "optimizer.coord_choice=rows"}),
              HasSubstr("optimizer.coord_choice: frugal with proj_type has none"));
  EXPECT_THAT(problem({"optimizer.type=frugal", "optimizer.block_order=random"}),
              HasSubstr("optimizer.block_order: frugal without coord_choice: blockwise has none"));
  EXPECT_THAT(problem({"optimizer.type=lion", "optimizer.block_order=random"}),
              HasSubstr("optimizer.block_order: lion has none"));
  const auto blocks = resolved({"optimizer.type=frugal", "optimizer.coord_choice=blockwise"}).optimizer;
  EXPECT_EQ(blocks.block_order, Config::Optimizer::BlockOrder::descending);
  EXPECT_THAT(problem({"optimizer.type=frugal", "optimizer.coord_choice=blockwise", "optimizer.reset_statistics=false"}),
              HasSubstr("states of chosen elements cannot pass to others"));
  EXPECT_THAT(problem({"optimizer.type=frugal", "optimizer.reset_statistics=false"}),
              HasSubstr("states of chosen elements cannot pass to others; set proj_type"));
  EXPECT_EQ(resolved({"optimizer.type=frugal", "optimizer.proj_type=random", "optimizer.reset_statistics=false"})
                .optimizer.reset_statistics,
            false);
  EXPECT_THAT(problem({"optimizer.type=apollo", "optimizer.state_dtype=bf16"}),
              HasSubstr("optimizer.state_dtype: apollo keeps its states in fp32"));
  EXPECT_THAT(problem({"optimizer.type=frugal", "optimizer.state_dtype=8bit"}),
              HasSubstr("optimizer.state_dtype: frugal keeps its states in fp32"));
  EXPECT_THAT(problem({"optimizer.type=lion", "optimizer.state_dtype=8bit"}),
              HasSubstr("optimizer.state_dtype: lion has no 8-bit states; set bf16 or fp32"));
  EXPECT_THAT(problem({"optimizer.type=sgd", "optimizer.state_dtype=bf16"}), HasSubstr("sgd without momentum has no states"));
  EXPECT_THAT(problem({"optimizer.type=sgd", "optimizer.nesterov=true"}), HasSubstr("set optimizer.momentum"));
  EXPECT_THAT(problem({"optimizer.groups=[\"a.*\"]"}), HasSubstr("optimizer.groups: \"a.*\": says nothing"));
  EXPECT_EQ(resolved({"optimizer.groups=[\"a.* lr_scale=2\"]"}).optimizer.groups, std::vector<std::string>{"a.* lr_scale=2"});
}

TEST(TrainingConfig, NamesOfOtherProgramsAreAccepted) {
  const Result<Config> c = parse_config(
      "train_batch_size: 32\ntrain_micro_batch_size_per_gpu: 4\ngradient_clipping: 0.5\ntrain_iters: 9\nseq_length: "
      "16\nlr_warmup_iters: 3\n"
      "bf16: {enabled: true}\noptimizer: {type: AdamW, params: {lr: 0.01, weight_decay: 0}}\n"
      "zero_optimization: {stage: 3, offload_optimizer: {device: nvme, nvme_path: /x}}\naio: {queue_depth: 4}\n"
      "model: {model_type: llama, num_hidden_layers: 2, num_attention_heads: 8, num_key_value_heads: 4, intermediate_size: 48, "
      "untie_embeddings_and_output_weights: false, rope_scaling: {rope_type: llama3, original_max_position_embeddings: 64}}\n",
      "t.yaml");
  ASSERT_TRUE(c.ok()) << c.status().message();
  EXPECT_EQ(c->training.global_batch_size, 32);
  EXPECT_EQ(c->training.micro_batch_size, 4);
  EXPECT_EQ(c->training.clip_grad, 0.5);
  EXPECT_EQ(c->training.steps, 9);
  EXPECT_EQ(c->training.seq_length, 16);
  EXPECT_EQ(c->scheduler.warmup_steps, 3);
  EXPECT_EQ(c->precision.compute, DType::bf16);
  EXPECT_EQ(c->optimizer.lr, 0.01);
  EXPECT_EQ(c->zero.stage, 3);
  EXPECT_EQ(c->offload.optimizer.device, Tier::nvme);
  EXPECT_EQ(c->nvme.path, std::vector<std::string>{"/x"});
  EXPECT_EQ(c->nvme.queue_depth, 4);
  EXPECT_EQ(c->model.num_kv_heads, 4);
  EXPECT_EQ(c->model.tie_embeddings, true);
  EXPECT_EQ(c->model.rope_scaling.original_max_positions, 64);
}

TEST(TrainingConfig, ModelConfigCarriesEveryField) {
  const ModelConfig m = model_config(resolved({"model.rope_scaling={type: llama3, factor: 4, original_max_positions: 32}",
                                               "model.qk_norm=true", "model.norm_eps=1e-6", "model.rope_theta=5e5",
                                               "model.tie_embeddings=true", "model.init_std=0.01", "model.ffn_size=100"}));
  ModelConfig expected;
  expected.architecture = Architecture::llama;
  expected.vocab_size = 257;
  expected.hidden_size = 96;
  expected.num_layers = 2;
  expected.num_heads = 6;
  expected.num_kv_heads = 2;
  expected.head_dim = 16;
  expected.ffn_size = 100;
  expected.max_positions = 64;
  expected.norm_eps = 1e-6;
  expected.rope_theta = 5e5;
  expected.rope_scaling = {4.0, 1.0, 4.0, 32};
  expected.tie_embeddings = true;
  expected.qk_norm = true;
  expected.init_std = 0.01;
  EXPECT_EQ(m, expected);
}

TEST(TrainingConfig, HardwareFilesGiveTheRatesThatAreNotGiven) {
  const std::string folder = STRATA_SOURCE_DIR "/configs/hardware";
  int files = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    const Config c = resolved({"device.hardware=" + file.path().string(), "device.rates.nvme_read=1GB/s"});
    const Config::Device::Speeds& rates = c.device.rates;
    SCOPED_TRACE(file.path());
    EXPECT_GT(std::min({rates.h2d, rates.d2h, rates.nvme_write}), 0u);
    EXPECT_GT(rates.gpu_update, rates.cpu_update);
    EXPECT_GT(rates.cpu_update, 0);
    EXPECT_EQ(rates.nvme_read, 1000000000u);
    EXPECT_EQ(rates.compute_unit, 0.0);  // depends on the model
    EXPECT_GE(c.device.nvme_endurance, 1200000000000000u);
    const Result<Config> again = parse_config(dump(c), "elsewhere/config.resolved.yaml");
    ASSERT_TRUE(again.ok()) << again.status().message();
    EXPECT_EQ(dump(*again), dump(c));
    EXPECT_EQ(again->device.nvme_endurance, c.device.nvme_endurance);
    ++files;
  }
  EXPECT_GE(files, 4);
}

TEST(TrainingConfig, HardwareFilesThatAreWrongSayWhere) {
  const auto found = [](const std::string& hardware) {
    const std::string path = ::testing::TempDir() + "/strata_hardware_" + std::to_string(getpid()) + ".yaml";
    std::ofstream(path) << hardware;
    const Result<Config> config = parse_config(kMinimal, "t.yaml", {"device.hardware=" + path});
    std::filesystem::remove(path);
    return config.status();
  };
  EXPECT_TRUE(found("h2d: 25GB/s\nnvme_endurance: 600TB\n").ok());
  EXPECT_EQ(found("h2d: fast\n").code(), Code::invalid_config);
  EXPECT_THAT(found("# rates\nh2d: 25GHz\n").message(),
              AllOf(HasSubstr(".yaml:2: device.rates.h2d: expected a rate"), HasSubstr("found \"25GHz\"")));
  EXPECT_THAT(found("hd2: 25GB/s\n").message(),
              HasSubstr(".yaml:1: unknown key device.rates.hd2; did you mean device.rates.h2d?"));
  EXPECT_THAT(found("nvme_endurance: 0\n").message(),
              HasSubstr(".yaml:1: device.rates.nvme_endurance: must be greater than 0"));
  EXPECT_THAT(parse_config(std::string(kMinimal) + "device: {hardware: none.yaml}\n", "some/t.yaml").status().message(),
              HasSubstr("some/t.yaml:4: device.hardware: some/none.yaml: cannot be opened"));
}

TEST(TrainingConfig, HardwareMayBeMeasuredInsteadOfRead) {
  const auto parsed = [](const std::string& yaml, const std::vector<std::string>& arguments) {
    return parse_config(std::string(kMinimal) + yaml, "t.yaml", arguments);
  };
  const std::string file = "device.hardware=" STRATA_SOURCE_DIR "/configs/hardware/node_h200_sxm.yaml";
  const Result<Config> probed = parsed("device: {hardware: probe}\n", {});
  ASSERT_TRUE(probed.ok()) << probed.status().message();
  EXPECT_TRUE(probed->device.probe);
  EXPECT_TRUE(parse_config(dump(*probed), "again.yaml")->device.probe);
  EXPECT_FALSE(parsed("device: {hardware: probe}\n", {file})->device.probe);
  EXPECT_FALSE(parsed("device: {hardware: probe}\n", {"device.hardware=auto"})->device.probe);
  const Result<Config> last = parsed("", {file, "device.hardware=probe"});
  EXPECT_TRUE(last->device.probe);
  EXPECT_FALSE(last->device.rates.any());
  EXPECT_THAT(parsed("device: {hardware: \"probe\"}\n", {}).status().message(),
              HasSubstr("device.hardware: probe: cannot be opened"));
  const Result<Config> both = parsed("device: {hardware: probe, emulate: {h2d: 1GB/s}}\n", {});
  EXPECT_THAT(resolve(*both, WorldSize{1}).status().message(),
              AllOf(HasSubstr("device.emulate: "), HasSubstr("device.hardware")));
}

// A key is added on purpose: with its line in this file.
TEST(TrainingConfig, KeysAreThoseOfTheGoldenList) {
  std::string keys;
  for (const std::string& key : config_keys()) keys += key + "\n";
  EXPECT_EQ(keys, file_text("tests/golden/config_keys.txt"));
}

TEST(TrainingConfig, ReferencePageIsCurrent) {
  EXPECT_EQ(config_reference(), file_text("docs/config.md")) << "run: strata config keys > docs/config.md";
}

}  // namespace
}  // namespace strata
