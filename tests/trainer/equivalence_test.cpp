// Promise 1: placement is invisible. One digest for every ZeRO stage, home of the optimizer state, record size, recomputation
// and prefetch distance; and, because gradients are summed micro-batch by micro-batch in rank order, for every world size too.
// Mutations that must fail: reduce in another order; skip a record's write; update before the norm; drop a prefetch's wait.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/trainer/placement.h"

namespace strata {
namespace {

// Under a sanitizer, where a run takes ten times as long, every seventh: seven rows, with every stage and every home; and where
// stages are all that differs, the last one.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kEvery = 7;
constexpr int kFirstStage = 3;
#else
constexpr std::size_t kEvery = 1;
constexpr int kFirstStage = 0;
#endif

std::vector<Placement> table() {
  std::vector<Placement> all;
  for (int stage = 0; stage <= 3; ++stage)
    for (const Tier home : {Tier::gpu, Tier::cpu, Tier::nvme})
      for (const std::int64_t record : {4096, 16384})
        for (const bool recompute : {false, true}) all.push_back({stage, home, record, recompute});
  std::vector<Placement> chosen;
  for (std::size_t i = 0; i < all.size(); i += kEvery) chosen.push_back(all[i]);
  return chosen;
}

class Equivalence : public ::testing::TestWithParam<std::tuple<int, DType>> {};

TEST_P(Equivalence, DigestIsOneStringForEveryPlacement) {
  const auto [world, compute] = GetParam();
  const auto data = std::make_shared<FormulaSource>(61);
  std::string reference;
  for (const Placement& placement : table()) {
    const TemporaryFolder folder;
    const RunResult run = run_training(config_of(placement, folder.path(), compute), world, data);
    ASSERT_TRUE(run.status.ok()) << describe(placement) << ": " << run.status.message();
    ASSERT_FALSE(run.digest.empty());
    if (reference.empty()) {
      reference = run.digest;
      int clipped = 0;
      for (const double clip : run.clips) clipped += clip < 1.0;
      EXPECT_GT(clipped, 0) << "clipping must be active somewhere";
      EXPECT_LT(clipped, 20) << "and not everywhere";
      EXPECT_LT(run.losses.back(), run.losses.front() - 0.2) << "the model must learn";
    }
    EXPECT_EQ(run.digest, reference) << describe(placement);
    EXPECT_LE(run.measured_gpu, run.planned_gpu) << describe(placement);
    EXPECT_LE(run.measured_cpu, run.planned_cpu) << describe(placement);
  }
}

INSTANTIATE_TEST_SUITE_P(WorldSizes, Equivalence,
                         ::testing::Values(std::tuple(1, DType::f32), std::tuple(2, DType::f32), std::tuple(3, DType::f32),
                                           std::tuple(4, DType::f32), std::tuple(1, DType::bf16), std::tuple(3, DType::bf16)),
                         [](const auto& test) {
                           return "world" + std::to_string(std::get<0>(test.param)) + "_" + to_string(std::get<1>(test.param));
                         });

// Records are dealt over the folders in these proportions.
TEST(EquivalenceOfPaths, NumberAndWeightsOfFoldersChangeNoBit) {
  const auto data = std::make_shared<FormulaSource>(61);
  const auto digest_of = [&](int folders, const std::vector<double>& weights) {
    const TemporaryFolder folder;
    Config c = config_of({3, Tier::nvme, 4096, false}, folder.path(), DType::bf16);
    c.nvme.path.clear();
    for (int i = 0; i < folders; ++i) c.nvme.path.push_back(folder.path() + "/drive" + std::to_string(i));
    c.nvme.weights = weights;
    const RunResult run = run_training(c, 2, data);
    EXPECT_TRUE(run.status.ok()) << run.status.message();
    // Transfers of one step may end in the next, so only their sum is certain.
    std::map<std::string, std::uint64_t> read;
    for (const StepMetrics& m : run.metrics) {
      EXPECT_EQ(m.nvme.size(), static_cast<std::size_t>(folders));
      for (const PathTraffic& path : m.nvme) read[path.path] += path.read.bytes;
    }
    for (const auto& [path, bytes] : read) EXPECT_GT(bytes, 0u) << path;
    return run.digest;
  };
  const std::string reference = digest_of(1, {});
  ASSERT_FALSE(reference.empty());
  EXPECT_EQ(digest_of(2, {1, 1}), reference);
  EXPECT_EQ(digest_of(2, {}), reference) << "measured weights";
  EXPECT_EQ(digest_of(3, {1, 2, 4}), reference);
}

// The gpu tier as a memory of its own: states, gradients and parameters are copied, and either processor updates.
class EquivalenceOfProcessors : public ::testing::TestWithParam<std::tuple<int, DType>> {};

TEST_P(EquivalenceOfProcessors, DigestIsThatOfOneMemoryAndOneProcessor) {
  const auto [world, compute] = GetParam();
  const auto data = std::make_shared<FormulaSource>(61);
  const auto digest_of = [&, world = world](const Config& config, const Placement& placement) {
    const RunResult run = run_training(config, world, data);
    EXPECT_TRUE(run.status.ok()) << describe(placement) << ": " << run.status.message();
    EXPECT_EQ(run.measured_gpu, run.planned_gpu) << describe(placement);
    EXPECT_EQ(run.measured_cpu, run.planned_cpu) << describe(placement);
    return run.digest;
  };
  const TemporaryFolder plain_folder;
  const Placement plain = {0, Tier::cpu, 8192, false};
  const std::string reference = digest_of(config_of(plain, plain_folder.path(), compute), plain);
  ASSERT_FALSE(reference.empty());
  std::vector<Placement> placements;
  for (const Tier home : {Tier::cpu, Tier::nvme}) {
    for (const double fraction : {0.0, 0.4, 1.0})
      placements.push_back({home == Tier::cpu ? 2 : 3, home, 4096, false, fraction});
    placements.push_back({1, home, 8192, true, 0.0, 2});
  }
  placements.push_back({3, Tier::gpu, 4096, false});
  for (std::size_t i = 0; i<placements.size(); i += kEvery> 1 ? 3 : 1) {
    const TemporaryFolder folder;
    Config c = config_of(placements[i], folder.path(), compute);
    c.device.emulate.h2d = c.device.emulate.d2h = std::uint64_t{1} << 40;
    EXPECT_EQ(digest_of(c, placements[i]), reference) << describe(placements[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(WorldSizes, EquivalenceOfProcessors,
                         ::testing::Values(std::tuple(1, DType::f32), std::tuple(2, DType::bf16), std::tuple(3, DType::f32)),
                         [](const auto& test) {
                           return "world" + std::to_string(std::get<0>(test.param)) + "_" + to_string(std::get<1>(test.param));
                         });

// Parameters and gradient sums in CPU memory: with the tiers in one memory, and with the gpu tier as another one.
class EquivalenceOfUnitHomes : public ::testing::TestWithParam<std::tuple<int, DType>> {};

TEST_P(EquivalenceOfUnitHomes, DigestIsThatOfUnitsInTheGpuTier) {
  const auto [world, compute] = GetParam();
  const auto data = std::make_shared<FormulaSource>(61);
  const auto digest_of = [&, world = world, compute = compute](const Placement& placement, bool emulated) {
    const TemporaryFolder folder;
    Config c = config_of(placement, folder.path(), compute);
    if (emulated) c.device.emulate.h2d = c.device.emulate.d2h = std::uint64_t{1} << 40;
    const RunResult run = run_training(c, world, data);
    EXPECT_TRUE(run.status.ok()) << describe(placement) << ": " << run.status.message();
    EXPECT_EQ(run.measured_gpu, run.planned_gpu) << describe(placement);
    EXPECT_EQ(run.measured_cpu, run.planned_cpu) << describe(placement);
    return run.digest;
  };
  const std::string reference = digest_of({0, Tier::cpu, 8192, false}, false);
  ASSERT_FALSE(reference.empty());
  std::vector<Placement> placements;
  for (int stage = 0; stage <= 3; ++stage) {
    placements.push_back({stage, Tier::cpu, 4096, false, 0.0, 0, Tier::cpu, Tier::gpu});
    placements.push_back({stage, Tier::cpu, 4096, true, 0.4, 0, Tier::gpu, Tier::cpu});
    placements.push_back({stage, Tier::nvme, 8192, false, 0.4, 0, Tier::cpu, Tier::cpu});
    placements.push_back({stage, Tier::gpu, 4096, true, 0.0, 0, Tier::cpu, Tier::cpu});
    if (stage % 3 == 0) {
      placements.push_back({stage, Tier::nvme, 4096, stage == 0, 0.0, 0, Tier::nvme, Tier::cpu, DType::f32, 1.0});
    } else {
      placements.push_back({stage, stage == 1 ? Tier::cpu : Tier::gpu, 8192, false, 0.4, 0, Tier::nvme, Tier::gpu});
    }
  }
  for (std::size_t i = 0; i<placements.size(); i += kEvery> 1 ? 7 : 1) {
    EXPECT_EQ(digest_of(placements[i], true), reference) << describe(placements[i]) << ", emulated";
    if (placements[i].gpu_fraction > 0.0) continue;
    EXPECT_EQ(digest_of(placements[i], false), reference) << describe(placements[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(WorldSizes, EquivalenceOfUnitHomes,
                         ::testing::Values(std::tuple(1, DType::f32), std::tuple(1, DType::bf16), std::tuple(2, DType::bf16),
                                           std::tuple(3, DType::f32)),
                         [](const auto& test) {
                           return "world" + std::to_string(std::get<0>(test.param)) + "_" + to_string(std::get<1>(test.param));
                         });

// Gradients rounded to bf16 are another arithmetic, and one for every placement: sums are rounded where they are made.
TEST(EquivalenceOfRoundedGradients, DigestIsOneStringForEveryPlacement) {
  const auto data = std::make_shared<FormulaSource>(61);
  const auto run = [&](Placement placement, int world, bool emulated, int micro_batches) {
    const TemporaryFolder folder;
    Config c = config_of(placement, folder.path(), DType::bf16);
    c.training.micro_batch_size = 1;
    c.training.global_batch_size = micro_batches * world;
    c.training.steps = 8;
    if (emulated) c.device.emulate.h2d = std::uint64_t{1} << 40;
    const RunResult result = run_training(c, world, data);
    EXPECT_TRUE(result.status.ok()) << describe(placement) << ": " << result.status.message();
    EXPECT_EQ(result.measured_gpu, result.planned_gpu) << describe(placement);
    EXPECT_EQ(result.measured_cpu, result.planned_cpu) << describe(placement);
    return result;
  };
  const auto with_grads = [](int stage, Tier home, double fraction, Tier params, Tier grads) {
    return Placement{stage, home, 4096, false, fraction, 0, params, grads, DType::bf16};
  };
  for (const auto& [world, micro_batches] : {std::pair(1, 1), {1, 2}, {2, 1}, {3, 2}}) {
    SCOPED_TRACE(std::to_string(world) + " ranks, micro-batches " + std::to_string(micro_batches));
    const RunResult in_gpu = run(with_grads(0, Tier::cpu, 0.0, Tier::gpu, Tier::gpu), world, false, micro_batches);
    ASSERT_FALSE(in_gpu.digest.empty());
    EXPECT_NE(in_gpu.digest, run({0, Tier::cpu, 4096, false}, world, false, micro_batches).digest);
    for (int stage = kFirstStage; stage <= 3; ++stage) {
      const RunResult in_cpu = run(with_grads(stage, Tier::cpu, 0.0, Tier::cpu, Tier::cpu), world, false, micro_batches);
      EXPECT_EQ(in_cpu.digest, in_gpu.digest) << stage;
      EXPECT_EQ(run(with_grads(stage, Tier::nvme, 0.4, Tier::gpu, Tier::cpu), world, true, micro_batches).digest,
                in_gpu.digest);
      EXPECT_EQ(run(with_grads(stage, Tier::gpu, 0.0, Tier::gpu, Tier::gpu), world, true, micro_batches).digest, in_gpu.digest);
      if (micro_batches > 1) continue;
      const RunResult on_nvme = run(with_grads(stage, Tier::nvme, 0.0, Tier::nvme, Tier::nvme), world, false, 1);
      EXPECT_EQ(on_nvme.digest, in_gpu.digest) << stage;
      EXPECT_LT(on_nvme.measured_cpu, in_cpu.measured_cpu) << stage;
      EXPECT_EQ(run(with_grads(stage, Tier::cpu, 0.4, Tier::gpu, Tier::nvme), world, true, 1).digest, in_gpu.digest) << stage;
    }
  }
}

// Units that compute all micro-batches before the next one does.
TEST(EquivalenceOfMicroBatchOrders, DigestIsOneStringForBoth) {
  const auto data = std::make_shared<FormulaSource>(61);
  using Order = Config::Offload::Order;
  const auto run = [&](const Placement& placement, int world, bool emulated, Order order) {
    const TemporaryFolder folder;
    Config c = config_of(placement, folder.path(), DType::bf16);
    c.model.tie_embeddings = false;
    c.training.global_batch_size = 3 * world;
    c.training.steps = 8;
    c.offload.micro_batch_order = order;
    if (emulated) c.device.emulate.h2d = std::uint64_t{1} << 40;
    const RunResult result = run_training(c, world, data, data);
    EXPECT_TRUE(result.status.ok()) << describe(placement) << ": " << result.status.message();
    EXPECT_EQ(result.measured_gpu, result.planned_gpu) << describe(placement);
    EXPECT_EQ(result.measured_cpu, result.planned_cpu) << describe(placement);
    return result;
  };
  for (const DType grads : {DType::f32, DType::bf16}) {
    for (const int world : {1, 2}) {
      const auto placed = [grads](int stage, Tier home, bool recompute, Tier units) {
        return Placement{stage, home, 4096, recompute, 0.0, 0, units, units, grads};
      };
      const RunResult horizontal = run(placed(0, Tier::cpu, false, Tier::gpu), world, false, Order::horizontal);
      ASSERT_FALSE(horizontal.digest.empty());
      for (int stage = kFirstStage; stage <= 3; ++stage) {
        SCOPED_TRACE(std::to_string(world) + " ranks, stage " + std::to_string(stage) + ", gradients " + to_string(grads));
        const RunResult in_gpu = run(placed(stage, Tier::cpu, stage % 2 == 0, Tier::gpu), world, false, Order::vertical);
        EXPECT_EQ(in_gpu.digest, horizontal.digest);
        EXPECT_EQ(in_gpu.losses, horizontal.losses);
        const RunResult in_cpu = run(placed(stage, Tier::nvme, true, Tier::cpu), world, true, Order::vertical);
        EXPECT_EQ(in_cpu.digest, horizontal.digest);
        if (grads == DType::f32) continue;
        // Sums of 16 bit are all that is at home.
        const RunResult moved = run(placed(stage, Tier::nvme, true, Tier::cpu), world, true, Order::horizontal);
        EXPECT_EQ(moved.digest, horizontal.digest);
        EXPECT_LT(in_cpu.measured_cpu, moved.measured_cpu);
        const RunResult on_nvme = run(placed(stage, Tier::nvme, true, Tier::nvme), world, stage % 2 == 0, Order::vertical);
        EXPECT_EQ(on_nvme.digest, horizontal.digest);
      }
    }
  }
}

// Parameters that come up for every use: all of them twice a step, or twice for each of three micro-batches.
TEST(EquivalenceOfMicroBatchOrders, ThePlanTakesTheFasterOne) {
  const auto data = std::make_shared<FormulaSource>(61);
  using Order = Config::Offload::Order;
  const auto run = [&](Order order, bool tied) {
    const TemporaryFolder folder;
    Config c = config_of({2, Tier::cpu, 8192, false, 0.0, 0, Tier::cpu, Tier::cpu}, folder.path(), DType::f32);
    c.model.tie_embeddings = tied;
    c.training.global_batch_size = 3;
    c.training.steps = 2;
    c.scheduler.warmup_steps = 0;
    c.offload.micro_batch_order = order;
    c.device.emulate.h2d = c.device.emulate.d2h = 100000000;
    const RunResult result = run_training(c, 1, data);
    EXPECT_TRUE(result.status.ok()) << result.status.message();
    return result;
  };
  const RunResult chosen = run(Order::automatic, false), horizontal = run(Order::horizontal, false);
  EXPECT_TRUE(chosen.plan->options.vertical);
  EXPECT_LT(chosen.plan->update.forecast->step_seconds, horizontal.plan->update.forecast->step_seconds);
  EXPECT_EQ(chosen.digest, horizontal.digest);
  EXPECT_FALSE(run(Order::automatic, true).plan->options.vertical) << "units share a parameter";
}

TEST(EquivalenceOfMicroBatchOrders, VerticalIsRefusedWhereEmbeddingsAreTied) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.offload.micro_batch_order = Config::Offload::Order::vertical;
  const RunResult run = run_training(c, 1, std::make_shared<FormulaSource>(61));
  EXPECT_EQ(run.status.code(), Code::invalid_config);
  EXPECT_NE(run.status.message().find("offload.micro_batch_order"), std::string::npos) << run.status.message();
}

// What units keep for their backward, away from the gpu tier: with the tiers in one memory and in two, for every order of
// micro-batches, with what else moves beside it.
class EquivalenceOfActivationHomes : public ::testing::TestWithParam<std::tuple<int, DType>> {};

TEST_P(EquivalenceOfActivationHomes, DigestIsThatOfActivationsInTheGpuTier) {
  const auto [world, compute] = GetParam();
  const auto data = std::make_shared<FormulaSource>(61);
  using Order = Config::Offload::Order;
  const auto run = [&, world = world, compute = compute](Tier home, bool recompute, Tier rest, Order order, bool emulated,
                                                         std::int64_t prefetch) {
    const TemporaryFolder folder;
    const Placement placement = {rest == Tier::gpu ? 2 : 3,
                                 rest == Tier::gpu ? Tier::cpu : Tier::nvme,
                                 8192,
                                 recompute,
                                 0.0,
                                 0,
                                 rest,
                                 rest,
                                 DType::f32,
                                 rest == Tier::gpu ? 0.0 : 1.0,
                                 1.0,
                                 home};
    Config c = config_of(placement, folder.path(), compute);
    c.model.tie_embeddings = false;
    c.model.num_layers = 4;
    c.training.steps = 8;
    c.training.global_batch_size = 3 * world;
    c.offload.micro_batch_order = order;
    c.zero.prefetch_units = prefetch;
    if (emulated) c.device.emulate.h2d = std::uint64_t{1} << 40;
    RunResult result = run_training(c, world, data, data);
    EXPECT_TRUE(result.status.ok()) << describe(placement) << ": " << result.status.message();
    EXPECT_EQ(result.measured_gpu, result.planned_gpu) << describe(placement);
    EXPECT_EQ(result.measured_cpu, result.planned_cpu) << describe(placement);
    return result;
  };
  const RunResult reference = run(Tier::gpu, false, Tier::gpu, Order::horizontal, false, 1);
  ASSERT_FALSE(reference.digest.empty());
  std::size_t row = 0;
  for (const Tier home : {Tier::cpu, Tier::nvme})
    for (const bool recompute : {false, true})
      for (const Order order : {Order::horizontal, Order::vertical})
        for (const bool emulated : {false, true}) {
          if (row++ % kEvery != 0) continue;
          const Tier rest = emulated == recompute ? Tier::gpu : Tier::cpu;
          const std::int64_t prefetch = order == Order::vertical ? 2 : emulated ? 0 : 1;
          SCOPED_TRACE(std::string(to_string(home)) + (recompute ? ", recompute" : "") +
                       (order == Order::vertical ? ", vertical" : "") + (emulated ? ", emulated" : ""));
          const RunResult moved = run(home, recompute, rest, order, emulated, prefetch);
          EXPECT_EQ(moved.digest, reference.digest);
          EXPECT_EQ(moved.losses, reference.losses);
          if (rest == Tier::cpu || recompute || emulated) continue;
          EXPECT_LT(moved.measured_gpu, run(Tier::gpu, recompute, rest, order, emulated, prefetch).measured_gpu);
          std::uint64_t written = 0;
          for (const StepMetrics& m : moved.metrics)
            for (const PathTraffic& path : m.nvme) written += path.write.bytes;
          EXPECT_EQ(written > 0, home == Tier::nvme);
        }
}

INSTANTIATE_TEST_SUITE_P(WorldSizes, EquivalenceOfActivationHomes,
                         ::testing::Values(std::tuple(1, DType::f32), std::tuple(2, DType::bf16)), [](const auto& test) {
                           return "world" + std::to_string(std::get<0>(test.param)) + "_" + to_string(std::get<1>(test.param));
                         });

TEST(EquivalenceOfRoundedGradients, OnlyThoseThatAreCompleteGoToNvme) {
  const auto status = [](DType grads, int micro_batches, Config::Offload::Order order) {
    const TemporaryFolder folder;
    Config c = config_of({2, Tier::nvme, 8192, false, 0.0, 0, Tier::gpu, Tier::nvme, grads}, folder.path(), DType::bf16);
    c.model.tie_embeddings = false;
    c.training.steps = 1;
    c.scheduler.warmup_steps = 0;
    c.training.global_batch_size = micro_batches * c.training.micro_batch_size;
    c.offload.micro_batch_order = order;
    return run_training(c, 1, std::make_shared<FormulaSource>(61)).status;
  };
  using Order = Config::Offload::Order;
  for (const Status& refused : {status(DType::f32, 1, Order::horizontal), status(DType::bf16, 2, Order::horizontal)}) {
    EXPECT_EQ(refused.code(), Code::invalid_config);
    EXPECT_NE(refused.message().find("offload.gradient.device"), std::string::npos) << refused.message();
    EXPECT_NE(refused.message().find("precision.gradients: bf16"), std::string::npos) << refused.message();
  }
  EXPECT_TRUE(status(DType::bf16, 1, Order::horizontal).ok());
  EXPECT_TRUE(status(DType::bf16, 2, Order::vertical).ok());
  EXPECT_TRUE(status(DType::bf16, 2, Order::automatic).ok()) << "the plan takes the order that may be";
}

// Budgets that leave room for some records in each tier, and the same digest with states in all three.
TEST(EquivalenceOfHomes, StatesSplitOverTheTiersGiveTheSameDigest) {
  const auto data = std::make_shared<FormulaSource>(61);
  for (const DType compute : {DType::f32, DType::bf16}) {
    const TemporaryFolder nvme_folder, split_folder;
    const auto emulated = [&](const std::string& folder) {
      Config c = config_of({2, Tier::nvme, 4096, false}, folder, compute);
      c.offload.optimizer.gpu_fraction = 0.5;
      c.device.emulate.h2d = std::uint64_t{1} << 40;
      return c;
    };
    const RunResult on_nvme = run_training(emulated(nvme_folder.path()), 1, data);
    ASSERT_TRUE(on_nvme.status.ok()) << on_nvme.status.message();
    Config c = emulated(split_folder.path());
    c.offload.optimizer.device.reset();
    c.memory.gpu = on_nvme.planned_gpu + 120000;
    c.memory.cpu = on_nvme.planned_cpu + 120000;
    const RunResult split = run_training(c, 1, data);
    ASSERT_TRUE(split.status.ok()) << split.status.message();
    EXPECT_EQ(split.digest, on_nvme.digest);
    EXPECT_LE(split.measured_gpu, *c.memory.gpu);
    EXPECT_LE(split.measured_cpu, *c.memory.cpu);
    EXPECT_EQ(split.measured_gpu, split.planned_gpu);
    EXPECT_EQ(split.measured_cpu, split.planned_cpu);
    std::set<Tier> homes;
    for (const RecordPlacement& p : split.plan->update.schedule.shape.placements) homes.insert(p.home);
    EXPECT_EQ(homes, (std::set{Tier::gpu, Tier::cpu, Tier::nvme})) << to_string(compute);
  }
}

// Budgets that leave room for what some blocks keep, in the gpu tier and in CPU memory: the plan finds who keeps what where,
// and who runs a forward twice.
TEST(EquivalenceOfHomes, ActivationsSplitOverTheTiersGiveTheSameDigest) {
  if (kEvery > 1) GTEST_SKIP() << "planning is one thread's work, and what it chooses runs in EquivalenceOfActivationHomes";
  const auto data = std::make_shared<FormulaSource>(61);
  const auto config = [](const std::string& folder) {
    Config c = config_of({2, Tier::nvme, 8192, false}, folder, DType::bf16);
    c.model.num_layers = 10;
    c.training.steps = 6;
    c.device.emulate.h2d = std::uint64_t{1} << 40;
    return c;
  };
  const auto run = [&](const Config& c) {
    RunResult result = run_training(c, 1, data);
    EXPECT_TRUE(result.status.ok()) << result.status.message();
    EXPECT_LE(result.measured_gpu, result.planned_gpu);
    EXPECT_LE(result.measured_cpu, result.planned_cpu);
    return result;
  };
  const TemporaryFolder folder;
  Config c = config(folder.path());
  const RunResult in_gpu = run(c);
  c.offload.activation.device = Tier::nvme;
  const RunResult on_nvme = run(c);
  c.offload.activation.device = Tier::cpu;
  const RunResult in_cpu = run(c);
  ASSERT_LT(in_cpu.planned_gpu, in_gpu.planned_gpu);
  ASSERT_LT(on_nvme.planned_cpu, in_cpu.planned_cpu);
  c.offload.activation.device.reset();
  c.memory.gpu = in_gpu.planned_gpu;
  std::vector<ActivationPlacement> placed = run(c).plan->options.activations.of(11);
  EXPECT_EQ(placed, std::vector<ActivationPlacement>(11)) << "nothing leaves that need not";
  c.memory.gpu = in_cpu.planned_gpu + (in_gpu.planned_gpu - in_cpu.planned_gpu) / 8;
  c.memory.cpu = on_nvme.planned_cpu + (in_cpu.planned_cpu - on_nvme.planned_cpu) / 2;
  const RunResult split = run(c);
  EXPECT_EQ(split.digest, in_gpu.digest);
  placed = split.plan->options.activations.of(11);
  std::map<Tier, int> homes;
  for (const ActivationPlacement& p : placed) ++homes[p.home];
  EXPECT_EQ(homes.size(), 3u) << "each tier has some";
  EXPECT_EQ(placed.back().home, Tier::gpu) << "needed first";
  // Where nothing may leave, as many forwards as must run twice: here half of them will do.
  c.offload.activation.device = Tier::gpu;
  c.training.recompute = Config::Training::Recompute::automatic;
  c.memory.cpu.reset();
  c.memory.gpu = in_gpu.planned_gpu - (in_gpu.planned_gpu - in_cpu.planned_gpu) / 4;
  const RunResult twice = run(c);
  EXPECT_EQ(twice.digest, in_gpu.digest);
  int recomputing = 0;
  for (const ActivationPlacement& p : twice.plan->options.activations.of(11)) recomputing += p.recompute;
  EXPECT_EQ(recomputing, 5);
}

// Updates that begin before the norm is known, in steps that clip and in steps that do not.
class EquivalenceOfSpeculation : public ::testing::TestWithParam<std::tuple<int, DType>> {};

TEST_P(EquivalenceOfSpeculation, DigestIsThatOfWaitingForTheNorm) {
  const auto [world, compute] = GetParam();
  const auto data = std::make_shared<FormulaSource>(61);
  const auto run = [&, world = world, compute = compute](const Placement& placement, bool emulated) {
    const TemporaryFolder folder;
    Config c = config_of(placement, folder.path(), compute);
    if (emulated) c.device.emulate.h2d = c.device.emulate.d2h = std::uint64_t{1} << 40;
    RunResult result = run_training(c, world, data);
    EXPECT_TRUE(result.status.ok()) << describe(placement) << ": " << result.status.message();
    EXPECT_EQ(result.measured_gpu, result.planned_gpu) << describe(placement);
    EXPECT_EQ(result.measured_cpu, result.planned_cpu) << describe(placement);
    return result;
  };
  const std::string reference = run({0, Tier::cpu, 8192, false}, false).digest;
  ASSERT_FALSE(reference.empty());
  std::vector<Placement> placements;
  for (const Tier home : {Tier::cpu, Tier::nvme})
    for (const double delayed : {1.0, 0.3, 0.0}) {
      const int stage = delayed == 1.0 ? 2 : delayed == 0.0 ? 0 : 3;
      placements.push_back({stage, home, 4096, false, 0.0, 0, Tier::gpu, Tier::gpu, DType::f32, 1.0, delayed});
      placements.push_back({stage, home, 8192, true, 0.4, 0, Tier::gpu, Tier::cpu, DType::f32, 0.6, delayed});
      placements.push_back({1, home, 4096, false, 0.4, 0, Tier::cpu, Tier::cpu, DType::f32, 1.0, delayed});
    }
  for (std::size_t i = 0; i<placements.size(); i += kEvery> 1 ? 7 : 1) {
    for (const bool emulated : {true, false}) {
      if (!emulated && (placements[i].gpu_fraction > 0.0 || compute == DType::f32)) continue;
      SCOPED_TRACE(describe(placements[i]) + (emulated ? ", emulated" : ""));
      const RunResult result = run(placements[i], emulated);
      EXPECT_EQ(result.digest, reference);
      std::map<Guess, int> guesses;
      for (const StepMetrics& m : result.metrics) ++guesses[m.guess];
      EXPECT_GT(guesses[Guess::kept], 0);
      EXPECT_GT(guesses[Guess::dropped], 0);
      EXPECT_EQ(guesses[Guess::none], 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(WorldSizes, EquivalenceOfSpeculation,
                         ::testing::Values(std::tuple(1, DType::f32), std::tuple(2, DType::bf16), std::tuple(3, DType::bf16)),
                         [](const auto& test) {
                           return "world" + std::to_string(std::get<0>(test.param)) + "_" + to_string(std::get<1>(test.param));
                         });

TEST(Speculation, ByDefaultFollowsEightStepsWithoutClipping) {
  const auto data = std::make_shared<FormulaSource>(61);
  const auto guesses = [&](double clip) {
    const TemporaryFolder folder;
    Config c =
        config_of({2, Tier::nvme, 4096, false, 0.0, 0, Tier::gpu, Tier::gpu, DType::f32, 1.0}, folder.path(), DType::bf16);
    c.offload.optimizer.speculate = Config::Offload::Optimizer::When::likely;
    c.training.clip_grad = clip;
    c.training.steps = 12;
    std::vector<Guess> all;
    for (const StepMetrics& m : run_training(c, 2, data).metrics) all.push_back(m.guess);
    return all;
  };
  EXPECT_EQ(guesses(0.0), std::vector<Guess>(12, Guess::kept)) << "nothing to wait for";
  EXPECT_EQ(guesses(1e-3), std::vector<Guess>(12, Guess::none));
  std::vector<Guess> late(12, Guess::none);
  std::fill(late.begin() + 8, late.end(), Guess::kept);
  EXPECT_EQ(guesses(1e3), late);
}

TEST(EquivalenceOfPrefetching, DigestIsTheSameForEveryDistance) {
  const auto data = std::make_shared<FormulaSource>(61);
  std::set<std::string> digests;
  for (const std::int64_t units : {0, 1, 2, 3, 1000}) {
    const TemporaryFolder folder;
    Config c = config_of({3, Tier::nvme, 4096, true}, folder.path(), DType::f32);
    c.zero.prefetch_units = units;
    c.training.steps = 6;
    const RunResult run = run_training(c, 2, data, data);
    ASSERT_TRUE(run.status.ok()) << units << ": " << run.status.message();
    EXPECT_LE(run.measured_gpu, run.planned_gpu) << units;
    digests.insert(run.digest);
  }
  EXPECT_EQ(digests.size(), 1u);
}

TEST(EquivalenceOfWorldSizes, DigestIsTheSameForOneToFourRanks) {
  const auto data = std::make_shared<FormulaSource>(61);
  std::set<std::string> digests;
  for (const int world : {1, 2, 3, 4}) {
    const TemporaryFolder folder;
    const RunResult run = run_training(config_of({3, Tier::cpu, 8192, false}, folder.path(), DType::f32), world, data);
    ASSERT_TRUE(run.status.ok()) << run.status.message();
    digests.insert(run.digest);
  }
  EXPECT_EQ(digests.size(), 1u);
}

TEST(EquivalenceOfWorldSizes, AnotherSeedIsAnotherDigest) {
  const auto data = std::make_shared<FormulaSource>(61);
  std::set<std::string> digests;
  for (const std::uint64_t seed : {1u, 2u}) {
    const TemporaryFolder folder;
    Config c = small_config(folder.path());
    c.training.steps = 2;
    c.scheduler.warmup_steps = 0;
    c.run.seed = seed;
    digests.insert(run_training(c, 1, data).digest);
  }
  EXPECT_EQ(digests.size(), 2u);
}

}  // namespace
}  // namespace strata
