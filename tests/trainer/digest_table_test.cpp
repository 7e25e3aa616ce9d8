// Promise 1 over the whole product: home of the states x who updates x speculation x delayed share x record size x ring of
// parameters x order of micro-batches, in one, two and three ranks, on every processor: one digest of 20 steps (on a GPU of
// three, for the emulator's sake). A run of the tests takes a part of the 2880 rows, STRATA_WHOLE_TABLE=1 all of them.
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/machines/machines.h"
#include "tests/trainer/placement.h"

namespace strata {
namespace {

// Every so many rows. Coprime to every factor of the table, so that each value of each of them has its turn.
std::size_t stride_on(const testing::Processor& processor) {
  if (testing::kSanitized) return 421;
  return processor.name == "Gpu_emulated" ? 211 : 53;
}

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

Config simplest(const std::string& folder, bool on_gpu) {
  Config c = small_config(folder);
  c.model.tie_embeddings = false;  // vertical order needs that
  c.precision.compute = DType::bf16;
  if (!on_gpu) return c;
  c.training.steps = 3;
  c.training.global_batch_size = 6;
  c.scheduler.warmup_steps = 1;
  return c;
}

Config config_of(const Row& row, const std::string& folder, bool on_gpu) {
  Config c = simplest(folder, on_gpu);
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
  c.nvme.gpu_direct = row.record_size == 16384;
  // On the host the gpu tier is a memory of its own too; at these rates the plan divides the update.
  if (!on_gpu) c.device.emulate.h2d = c.device.emulate.d2h = std::uint64_t{1} << 40;
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

class DigestTable : public ::testing::TestWithParam<std::tuple<testing::Processor, int>> {
 protected:
  const testing::GpuMachine* gpu() const { return std::get<0>(GetParam()).gpu; }
  int world() const { return std::get<1>(GetParam()); }
  RunResult run(const Config& c) const { return run_training(c, world(), data_, nullptr, gpu()); }
  const std::shared_ptr<const DataSource> data_ = std::make_shared<FormulaSource>(61);
};

TEST_P(DigestTable, IsOneString) {
  const bool on_gpu = gpu() != nullptr;
  if (on_gpu && gpu()->gpus < world()) GTEST_SKIP() << world() << " ranks want as many GPUs, here are " << gpu()->gpus;
  if (on_gpu && testing::kSanitized) GTEST_SKIP() << "GpuEquivalence shows it under a sanitizer";
  const TemporaryFolder plain;
  const RunResult reference = run(simplest(plain.path(), on_gpu));
  ASSERT_TRUE(reference.status.ok()) << reference.status.message();
  ASSERT_FALSE(reference.digest.empty());
  const std::vector<Row> rows = table();
  const bool whole = std::getenv("STRATA_WHOLE_TABLE") != nullptr;
  const std::size_t first = whole ? 0 : static_cast<std::size_t>(world());
  const std::size_t stride = whole ? 1 : stride_on(std::get<0>(GetParam()));
  for (std::size_t i = first; i < rows.size(); i += stride) {
    const Row& row = rows[i];
    SCOPED_TRACE(describe(row));
    const TemporaryFolder folder;
    Config c = config_of(row, folder.path(), on_gpu);
    if (row.home == Home::automatic) {  // within budgets that leave room for some of the states in each tier
      const TemporaryFolder before;
      Config on_nvme = config_of(row, before.path(), on_gpu);
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
  }
  if (on_gpu) return;  // few steps
  int clipped = 0;
  for (const double clip : reference.clips) clipped += clip < 1.0;
  EXPECT_GT(clipped, 0) << "clipping must be active somewhere";
  EXPECT_LT(clipped, 20) << "and not everywhere";
  EXPECT_LT(reference.losses.back(), reference.losses.front() - 0.2) << "the model must learn";
}

INSTANTIATE_TEST_SUITE_P(Processors, DigestTable,
                         ::testing::Combine(::testing::ValuesIn(testing::processors()), ::testing::Values(1, 2, 3)),
                         [](const auto& test) {
                           return std::get<0>(test.param).name + "_world" + std::to_string(std::get<1>(test.param));
                         });

}  // namespace
}  // namespace strata
