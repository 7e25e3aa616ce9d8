// Whole runs, checkpoints and exports of models some of whose weights are stored transposed (ModelConfig::long_rows). Mutations
// that must fail: a checkpoint that does not say how a weight lies; states taken for those of the other orientation; an import
// read as it lies; a piece of a record that begins inside a row put at the row's begin.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "model/hf.h"
#include "model/init.h"
#include "model/text_file.h"
#include "model/transformer.h"
#include "tests/machines/tolerances.h"
#include "tests/trainer/placement.h"
#include "trainer/checkpoint/hf_checkpoint.h"
#include "trainer/inference.h"
#include "trainer/model_setup.h"

namespace strata {
namespace {

using ::testing::HasSubstr;
using Values = std::map<std::string, std::vector<float>>;

std::shared_ptr<FormulaSource> data() { return std::make_shared<FormulaSource>(61); }

ModelConfig shape(bool long_rows) {
  ModelConfig config = model_config(*resolve(small_config("anywhere"), WorldSize{1}, {.train = true}));
  config.long_rows = long_rows;
  return config;
}

RunResult run(const Config& config, bool long_rows, int world = 1, const testing::GpuMachine* machine = nullptr,
              int broken_off = 0) {
  return run_training(config, world, data(), nullptr, machine, broken_off, nullptr,
                      [long_rows] { return std::move(make_model(shape(long_rows))).value(); });
}

Config short_config(const std::string& folder, std::int64_t steps = 4) {
  Config c = small_config(folder);
  c.training.steps = steps;
  c.scheduler.warmup_steps = 0;
  c.optimizer.lr = 2e-3;
  return c;
}

TEST(LongRowsConfig, OnlyAMethodThatTreatsRowsNeedsThem) {
  using Type = Config::Optimizer::Type;
  using Space = Config::Optimizer::Space;
  struct Case {
    Type type;
    std::optional<Space> space;
    bool rows;
  };
  for (const Case& it :
       {Case{Type::adamw, {}, false}, Case{Type::lion, {}, false}, Case{Type::sgd, {}, false}, Case{Type::frugal, {}, false},
        Case{Type::frugal, Space::none, false}, Case{Type::frugal, Space::svd, true}, Case{Type::frugal, Space::random, true},
        Case{Type::apollo, {}, true}, Case{Type::galore, {}, true}}) {
    Config c = small_config("anywhere");
    c.optimizer.type = it.type;
    c.optimizer.proj_type = it.space;
    const Config resolved = *resolve(c, WorldSize{1}, {.train = true});
    EXPECT_EQ(wants_long_rows(resolved.optimizer), it.rows);
    EXPECT_EQ(model_config_of(resolved).value().long_rows, it.rows);
  }
}

// Micro-batches are accumulated, gradients clipped, and states lie on a drive.
class LongRowsTraining : public ::testing::TestWithParam<testing::Processor> {};

TEST_P(LongRowsTraining, LossesAreThoseOfTheOtherOrientation) {
  const bool on_gpu = GetParam().gpu != nullptr;
  if (on_gpu && testing::kSanitized) GTEST_SKIP() << "too long on the emulator under a sanitizer";
  const int world = on_gpu ? 1 : 2;
  const std::size_t steps = on_gpu ? 3 : 6;
  const auto losses = [&](bool long_rows) {
    const TemporaryFolder folder;
    Config c = config_of({3, Tier::nvme, 4096, true}, folder.path(), DType::f32);
    c.training.steps = static_cast<std::int64_t>(steps);
    c.training.global_batch_size = 4;
    c.scheduler.warmup_steps = 1;
    const RunResult result = run(c, long_rows, world, GetParam().gpu);
    EXPECT_TRUE(result.status.ok()) << result.status.message();
    EXPECT_EQ(result.measured_gpu, result.planned_gpu);
    return result.losses;
  };
  const std::vector<double> plain = losses(false), stored = losses(true);
  ASSERT_EQ(plain.size(), steps);
  ASSERT_EQ(stored.size(), steps);
  for (std::size_t i = 0; i < plain.size(); ++i)
    EXPECT_NEAR(stored[i], plain[i], testing::loss_tolerance(DType::f32)) << "step " << i + 1;
  EXPECT_LT(plain.back(), plain.front() - 0.01) << "the model must learn";
}

INSTANTIATE_TEST_SUITE_P(Processors, LongRowsTraining, ::testing::ValuesIn(testing::processors()),
                         [](const auto& test) { return test.param.name; });

TEST(LongRowsRuns, PlacementChangesNoBit) {
  std::string reference;
  for (const Placement& placement :
       {Placement{0, Tier::cpu, 8192, false}, Placement{3, Tier::nvme, 4096, true}, Placement{2, Tier::gpu, 4096, false}})
    for (const int world : {1, 3}) {
      const TemporaryFolder folder;
      Config c = config_of(placement, folder.path(), DType::bf16);
      c.training.steps = 4;
      const RunResult result = run(c, true, world);
      ASSERT_TRUE(result.status.ok()) << describe(placement) << ": " << result.status.message();
      if (reference.empty()) reference = result.digest;
      EXPECT_EQ(result.digest, reference) << describe(placement) << ", " << world << " ranks";
    }
}

TEST(LongRowsRuns, ACheckpointSaysHowItsWeightsLieAndIsGoneOnFrom) {
  const TemporaryFolder straight, broken;
  const RunResult whole = run(short_config(straight.path()), true);
  ASSERT_TRUE(run(short_config(broken.path()), true, 2, nullptr, 2).status.ok());
  const Manifest manifest = read_manifest(broken.path() + "/checkpoints/step_2").value();
  int transposed = 0;
  for (const CheckpointParam& param : manifest.params) {
    const bool down = param.name.ends_with(".mlp.down.weight");
    EXPECT_EQ(param.transposed, down) << param.name;
    if (down) {
      EXPECT_EQ(param.shape, (Shape{100, 40}));
    }
    transposed += down;
  }
  EXPECT_EQ(transposed, 3);
  const RunResult resumed = run(short_config(broken.path()), true);
  ASSERT_TRUE(resumed.status.ok()) << resumed.status.message();
  EXPECT_EQ(resumed.losses.size(), 2u);
  EXPECT_EQ(resumed.digest, whole.digest);
}

TEST(LongRowsRuns, StatesOfTheOtherOrientationAreRefused) {
  for (const bool long_rows : {false, true}) {
    const TemporaryFolder folder;
    ASSERT_TRUE(run(short_config(folder.path()), long_rows, 1, nullptr, 2).status.ok());
    const Status status = run(short_config(folder.path()), !long_rows).status;
    EXPECT_EQ(status.code(), Code::invalid_config);
    EXPECT_THAT(status.message(), HasSubstr("holds layers.0.mlp.down.weight and its states as " +
                                            std::string(long_rows ? "(in, out), this run's model as (out, in)"
                                                                  : "(out, in), this run's model as (in, out)")));
    EXPECT_THAT(status.message(), HasSubstr("strata model export"));
  }
}

// A Hugging Face folder of the model, freshly drawn.
void write_hf(const std::string& dir, std::uint64_t seed) {
  const std::unique_ptr<Model> model = std::move(make_model(shape(false))).value();
  const ParamSource draw = [&](int unit, int param, std::int64_t first, std::span<float> out) {
    init_parameter(model->unit(unit).params()[static_cast<std::size_t>(param)], seed, first, out);
    return Status();
  };
  throw_if_error(export_hf(dir, shape(false), draw, {.dtype = DType::f32, .tokenizer_from = {}, .fsync = false}));
}

// What a checkpoint holds, as the model of this orientation stores it.
Values read_all(const std::string& checkpoint, bool long_rows) {
  const CheckpointReader reader = CheckpointReader::open(find_checkpoint(checkpoint).value()).value();
  const std::unique_ptr<Model> model = std::move(make_model(shape(long_rows))).value();
  throw_if_error(same_parameters(reader, *model));
  Values all;
  for (int u = 0; u < model->unit_count(); ++u)
    for (const ParamSpec& spec : model->unit(u).params()) {
      std::vector<float>& values = all[spec.name];
      values.resize(static_cast<std::size_t>(spec.shape.numel()));
      throw_if_error(reader.read_parameter(spec, 0, values));
    }
  return all;
}

TEST(LongRowsRuns, AnImportIsTakenByEitherOrientation) {
  const TemporaryFolder folder;
  write_hf(folder.path() + "/hf", 3);
  const auto parent = [&](bool long_rows) { return folder.path() + (long_rows ? "/long" : "/plain"); };
  for (const bool long_rows : {false, true}) {
    ASSERT_TRUE(import_checkpoint(folder.path() + "/hf", parent(long_rows), 1, long_rows).ok());
    const Manifest manifest = read_manifest(parent(long_rows) + "/step_0").value();
    for (const CheckpointParam& param : manifest.params)
      EXPECT_EQ(param.transposed, long_rows && param.name.ends_with(".mlp.down.weight")) << param.name;
  }
  for (const bool long_rows : {false, true}) {
    EXPECT_EQ(read_all(parent(false), long_rows), read_all(parent(true), long_rows));
    std::string reference;
    for (const bool from : {false, true}) {
      Config c = short_config(folder.path() + "/run" + (long_rows ? "1" : "0") + (from ? "1" : "0"), 1);
      c.checkpoint.resume = parent(from);
      c.offload.optimizer.record_size = 4096;  // which begin and end inside rows
      const RunResult result = run(c, long_rows, 2);
      ASSERT_TRUE(result.status.ok()) << result.status.message();
      if (reference.empty()) reference = result.digest;
      EXPECT_EQ(result.digest, reference);
    }
  }
  // Any slice, where it is turned.
  const CheckpointReader reader = CheckpointReader::open(parent(false) + "/step_0").value();
  const std::vector<ParamSpec> specs = make_model(shape(true)).value()->unit(1).params();
  const auto down = std::find_if(specs.begin(), specs.end(), [](const ParamSpec& spec) { return spec.transposed; });
  ASSERT_NE(down, specs.end());
  const Values all = read_all(parent(true), true);
  const std::vector<float>& whole = all.at(down->name);
  for (std::int64_t first = 0; first < 130; first += 7)
    for (const std::int64_t count : {0, 1, 39, 40, 41, 120, 3000}) {
      std::vector<float> slice(static_cast<std::size_t>(count));
      ASSERT_TRUE(reader.read_parameter(*down, first, slice).ok());
      EXPECT_TRUE(std::equal(slice.begin(), slice.end(), whole.begin() + first)) << first << ", " << count;
    }
}

// As a run writes it whose configuration makes the model.
void set_model(const std::string& checkpoint, const ModelConfig& config) {
  Manifest manifest = read_manifest(checkpoint).value();
  manifest.model_json = to_json(config).dump();
  throw_if_error(write_text_file(checkpoint + "/manifest.json", manifest_to_json(manifest)));
}

TEST(LongRowsRuns, ExportAndInferenceOfATrainedCheckpoint) {
  const TemporaryFolder folder;
  ASSERT_TRUE(run(short_config(folder.path()), true).status.ok());
  const std::string trained = folder.path() + "/checkpoints/step_4";
  set_model(trained, shape(true));
  ASSERT_TRUE(export_checkpoint(trained, folder.path() + "/hf", "f32", "").ok());
  ASSERT_TRUE(import_checkpoint(folder.path() + "/hf", folder.path() + "/again", 1, false).ok());
  for (const bool long_rows : {false, true})
    EXPECT_EQ(read_all(trained, long_rows), read_all(folder.path() + "/again", long_rows));
  EXPECT_NE(read_all(trained, true), read_all(trained, false));
  const auto logits = [](const std::string& checkpoint) {
    const std::unique_ptr<InferenceModel> model = std::move(InferenceModel::load(checkpoint, 1)).value();
    const std::vector<std::int32_t> tokens = {3, 1, 4, 1, 5, 9, 2, 6};
    return model->logits(tokens, 8).value();
  };
  const std::vector<float> here = logits(trained), there = logits(folder.path() + "/again");
  ASSERT_EQ(here.size(), there.size());
  for (std::size_t i = 0; i < here.size(); ++i) ASSERT_NEAR(here[i], there[i], testing::kLogits) << i;
}

TEST(LongRowsRuns, ManifestsThatContradictThemselvesAreRefused) {
  const TemporaryFolder folder;
  ASSERT_TRUE(run(short_config(folder.path(), 1), true).status.ok());
  const std::string path = folder.path() + "/checkpoints/step_1";
  Manifest manifest = read_manifest(path).value();
  const auto status_with = [&](const std::function<void(CheckpointParam&)>& change, const std::string& name) {
    Manifest changed = manifest;
    changed.model_json = to_json(shape(true)).dump();
    for (CheckpointParam& param : changed.params)
      if (param.name == name) change(param);
    throw_if_error(write_text_file(path + "/manifest.json", manifest_to_json(changed)));
    const Status exported = export_checkpoint(path, folder.path() + "/hf", "f32", "");
    EXPECT_FALSE(exported.ok());
    EXPECT_FALSE(std::filesystem::exists(folder.path() + "/hf"));
    EXPECT_EQ(InferenceModel::load(path, 1).status().code(), exported.code());
    EXPECT_THAT(exported.message(), HasSubstr(name));
    return exported.code();
  };
  EXPECT_EQ(status_with([](CheckpointParam& p) { p.transposed = false; }, "layers.0.mlp.down.weight"), Code::invalid_config);
  EXPECT_EQ(status_with([](CheckpointParam& p) { p.transposed = true; }, "layers.0.mlp_norm.weight"), Code::corrupt);
}

}  // namespace
}  // namespace strata
