// Promise 1 over the whole product: home of the states x who updates x speculation x delayed share x record size x ring of
// parameters x order of micro-batches, in one, two and three ranks: one digest of 20 steps. A run of the tests takes a part of
// the 2880 rows, STRATA_WHOLE_TABLE=1 all of them (docs/offload.md says when it was done last).
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/trainer/placement.h"

namespace strata {
namespace {

// Coprime to every factor of the table, so that each value of each of them has its turn.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kEvery = 241;
#else
constexpr std::size_t kEvery = 53;
#endif

enum class Home { gpu, cpu, nvme, two_drives, automatic };
enum class Update { cpu, second_on_gpu, planned, gpu };

struct Row {
  Home home;
  Update update;
  bool speculates;
  double delayed_share;
  std::int64_t record_size;
  bool ring;  // parameters in CPU memory, three units ahead; else in the gpu tier
  bool vertical;
};

std::vector<Row> table() {
  std::vector<Row> rows;
  for (const Home home : {Home::gpu, Home::cpu, Home::nvme, Home::two_drives, Home::automatic})
    for (const Update update : {Update::cpu, Update::second_on_gpu, Update::planned, Update::gpu})
      for (const bool speculates : {false, true})
        for (const double delayed_share : {0.0, 0.3})
          for (const std::int64_t record_size : {4096, 16384, 65536})
            for (const bool ring : {false, true})
              for (const bool vertical : {false, true})
                rows.push_back({home, update, speculates, delayed_share, record_size, ring, vertical});
  return rows;
}

std::string describe(const Row& row) {
  static constexpr const char* kHomes[] = {"gpu", "cpu", "nvme", "two drives", "auto"};
  static constexpr const char* kUpdates[] = {"cpu", "stride 2", "planned", "gpu"};
  return std::string("states ") + kHomes[static_cast<int>(row.home)] + ", update " + kUpdates[static_cast<int>(row.update)] +
         (row.speculates ? ", speculating" : "") + ", delayed " + std::to_string(row.delayed_share) + ", record " +
         std::to_string(row.record_size) + (row.ring ? ", parameters in cpu" : "") + (row.vertical ? ", vertical" : "");
}

Config simplest(const std::string& folder) {
  Config c = small_config(folder);
  c.model.tie_embeddings = false;  // vertical order needs that
  c.precision.compute = DType::bf16;
  return c;
}

Config config_of(const Row& row, const std::string& folder) {
  Config c = simplest(folder);
  c.zero.stage = row.ring ? 3 : 1;
  c.zero.prefetch_units = row.ring ? 3 : 1;
  auto& optimizer = c.offload.optimizer;
  optimizer.record_size = row.record_size;
  optimizer.delayed_share = row.delayed_share;
  optimizer.speculation = row.speculates ? 1.0 : 0.0;
  optimizer.speculate = Config::Offload::Optimizer::When::always;
  optimizer.device = row.home == Home::gpu ? Tier::gpu : row.home == Home::cpu ? Tier::cpu : Tier::nvme;
  if (row.home == Home::two_drives) {
    c.nvme.path = {folder + "/drive0", folder + "/drive1"};
    c.nvme.weights = {1, 2};
  }
  // The gpu tier as a memory of its own, at rates that the plan divides the update by.
  c.device.emulate.h2d = c.device.emulate.d2h = std::uint64_t{1} << 40;
  c.device.rates.h2d = c.device.rates.d2h = std::uint64_t{12} << 30;
  c.device.rates.cpu_update = c.device.rates.gpu_update = std::int64_t{1} << 30;
  if (row.update == Update::second_on_gpu) optimizer.stride = 2;
  if (row.update == Update::cpu) optimizer.gpu_fraction = 0.0;
  if (row.update == Update::gpu) optimizer.gpu_fraction = 1.0;
  c.offload.param.device = row.ring ? Tier::cpu : Tier::gpu;
  c.offload.gradient.device = row.ring ? Tier::cpu : Tier::gpu;
  c.offload.micro_batch_order = row.vertical ? Config::Offload::Order::vertical : Config::Offload::Order::horizontal;
  return c;
}

class DigestTable : public ::testing::TestWithParam<int> {
 protected:
  RunResult run(const Config& c) const { return run_training(c, GetParam(), data_); }
  const std::shared_ptr<const DataSource> data_ = std::make_shared<FormulaSource>(61);
};

TEST_P(DigestTable, IsOneString) {
  const TemporaryFolder plain;
  const RunResult reference = run(simplest(plain.path()));
  ASSERT_TRUE(reference.status.ok()) << reference.status.message();
  ASSERT_FALSE(reference.digest.empty());
  const std::vector<Row> rows = table();
  const bool whole = std::getenv("STRATA_WHOLE_TABLE") != nullptr;
  std::size_t ran = 0;
  for (std::size_t i = whole ? 0 : static_cast<std::size_t>(GetParam()); i < rows.size(); i += whole ? 1 : kEvery) {
    const Row& row = rows[i];
    SCOPED_TRACE(describe(row));
    const TemporaryFolder folder;
    Config c = config_of(row, folder.path());
    if (row.home == Home::automatic) {  // within budgets that leave room for some of the states in each tier
      const TemporaryFolder before;
      Config on_nvme = config_of(row, before.path());
      on_nvme.training.steps = 3;
      const RunResult least = run(on_nvme);
      ASSERT_TRUE(least.status.ok()) << least.status.message();
      c.offload.optimizer.device.reset();
      c.memory.gpu = least.largest_gpu + 120000;
      c.memory.cpu = least.largest_cpu + 120000;
    }
    const RunResult result = run(c);
    ASSERT_TRUE(result.status.ok()) << result.status.message();
    EXPECT_EQ(result.digest, reference.digest);
    EXPECT_EQ(result.losses, reference.losses);
    ++ran;
  }
  EXPECT_EQ(ran, whole ? rows.size() : (rows.size() - static_cast<std::size_t>(GetParam()) + kEvery - 1) / kEvery);
  int clipped = 0;
  for (const double clip : reference.clips) clipped += clip < 1.0;
  EXPECT_GT(clipped, 0) << "clipping must be active somewhere";
  EXPECT_LT(clipped, 20) << "and not everywhere";
  EXPECT_LT(reference.losses.back(), reference.losses.front() - 0.2) << "the model must learn";
}

INSTANTIATE_TEST_SUITE_P(WorldSizes, DigestTable, ::testing::Values(1, 2, 3),
                         [](const auto& test) { return "world" + std::to_string(test.param); });

}  // namespace
}  // namespace strata
