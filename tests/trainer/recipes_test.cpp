// The recipes of configs/recipes are configurations, and their optimizer states have the bytes of the papers' tables: GiB of
// f32 states without masters (FRUGAL, arXiv 2411.07837, Table 2; APOLLO by 8 bytes x rank x longer dim, GaLore by
// 4 x rank x shorter dim more), within 0.5 %.
// Mutations caught: a method that does not replace its base's, another density, a wrong width or number of layers, a file that
// no row here knows.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>

#include "model/transformer.h"
#include "optim/row_method.h"
#include "tests/trainer/turn_states_testing.h"
#include "trainer/engine.h"
#include "trainer/model_setup.h"

namespace strata {
namespace {

const std::string kFolder = STRATA_SOURCE_DIR "/configs/recipes";

struct Size {
  std::int64_t parameters;
  std::int64_t steps;
  std::map<std::string, double> gib;  // by what the file's name ends in
};
const std::map<std::string, Size> kSizes = {{"llama_60m",
                                             {58'073'600,
                                              10'000,
                                              {{"", 0.433},
                                               {"_frugal_25", 0.291},
                                               {"_frugal_0", 0.244},
                                               {"_apollo", 0.291},
                                               {"_apollo_mini", 0.245},
                                               {"_galore", 0.305}}}},
                                            {"llama_130m",
                                             {134'105'856,
                                              20'000,
                                              {{"", 0.999},
                                               {"_frugal_25", 0.525},
                                               {"_frugal_0", 0.366},
                                               {"_apollo", 0.525},
                                               {"_apollo_mini", 0.367},
                                               {"_galore", 0.639}}}},
                                            {"llama_350m",
                                             {367'969'280,
                                              60'000,
                                              {{"", 2.742},
                                               {"_frugal_25", 1.052},
                                               {"_frugal_0", 0.489},
                                               {"_apollo", 1.052},
                                               {"_apollo_mini", 0.491},
                                               {"_galore", 1.216}}}},
                                            {"llama_1b",
                                             {1'339'082'752,
                                              100'000,
                                              {{"", 9.977},
                                               {"_frugal_25", 3.227},
                                               {"_frugal_0", 0.977},
                                               {"_apollo", 3.227},
                                               {"_apollo_mini", 0.982},
                                               {"_galore", 3.883}}}}};

std::int64_t parameters_of(const StateLayout& layout) {
  std::int64_t sum = 0;
  for (const UnitLayout& unit : layout.units)
    for (const ParamExtent& param : unit.params) sum += param.numel;
  return sum;
}

double state_gib(const StateLayout& layout, const OptimizerStoreOptions& options) {
  const std::vector<OptimizerRecord> records =
      cut_optimizer_records(layout, Rank{0}, 3, options.record_size, *options.method, options.groups);
  std::int64_t states = turn_states(layout, records, *options.method, options.groups);
  for (const OptimizerRecord& record : records) states += record.states + record.row_states;
  std::int64_t values = states * std::ssize(options.method->states());
  const RowMethod* const rows = options.method->rows();
  for (const UnitLayout& unit : layout.units)
    for (const ParamExtent& param : unit.params)
      if (rows != nullptr && rows->keeps_projections())
        values += param.columns * rows->rank(shape_of(param), options.groups[param.group]) *
                  std::max<std::int64_t>(1, std::ssize(param.parts));
  return static_cast<double>(values) * static_cast<double>(sizeof(float)) / 0x1p30;
}

TEST(Recipes, HaveTheShapesAndTheBytesOfThePapers) {
  std::set<std::string> known = {"c4.yaml", "README.md"};
  for (const auto& [size_name, size] : kSizes) {
    for (const auto& [method, gib] : size.gib) {
      const std::string file = size_name + method + ".yaml";
      SCOPED_TRACE(file);
      known.insert(file);
      const Result<Config> loaded = load_config(kFolder + "/" + file);
      ASSERT_TRUE(loaded.ok()) << loaded.status().message();
      const Result<Config> config = resolve(*loaded, WorldSize{1});
      ASSERT_TRUE(config.ok()) << config.status().message();
      EXPECT_EQ(config->training.steps, size.steps);
      EXPECT_EQ(config->scheduler.warmup_steps * 10, size.steps);
      EXPECT_EQ(config->training.global_batch_size * config->training.seq_length, 512 * 256);
      EXPECT_DOUBLE_EQ(config->scheduler.min_lr * 10.0, config->optimizer.lr);
      EXPECT_EQ(config->training.clip_grad, 0.0);
      const EngineOptions options = engine_options(*config, Rank{0});
      EXPECT_EQ(std::string(options.optimizer.method->name()),
                method.empty() ? "adamw" : method.substr(1, method.find('_', 1) - 1));
      const std::unique_ptr<Model> model = make_model(model_config(*config)).value();
      const StateLayout layout = make_layout(*model, WorldSize{1}, options.optimizer.groups, *options.optimizer.method);
      EXPECT_EQ(parameters_of(layout), size.parameters);
      EXPECT_NEAR(state_gib(layout, options.optimizer) / gib, 1.0, 0.005);
    }
  }
  for (const auto& entry : std::filesystem::directory_iterator(kFolder))
    EXPECT_TRUE(known.contains(entry.path().filename().string())) << entry.path() << " has no row in this test";
}

}  // namespace
}  // namespace strata
