// The stores against a plain calculation: sums in rank order, gathered parameters, and failures that come back as a Status.
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "offload/grad_store.h"
#include "offload/optimizer_store.h"
#include "offload/param_store.h"
#include "parallel/thread_communicator.h"

namespace strata {
namespace {

constexpr std::int64_t kN = 3 * 4096 + 70;

StateLayout layout_of(int world) {
  StateLayout layout;
  layout.world = WorldSize{world};
  layout.units.push_back(layout_unit("first", {{"a", kN, true}}, layout.world));
  layout.units.push_back(layout_unit("second", {{"b", 100, false}, {"c", 5000, true}}, layout.world));
  return layout;
}

const std::vector<std::vector<Shape>> kShapes = {{{kN}}, {{100}, {5000}}};

void on_ranks(int world, const std::function<void(Communicator&)>& body) {
  ThreadGroup group(WorldSize{world});
  std::vector<std::thread> threads;
  for (int r = 0; r < world; ++r)
    threads.emplace_back([&, r] {
      const auto comm = group.communicator(Rank{r});
      body(*comm);
    });
  for (std::thread& t : threads) t.join();
}

float gradient(int rank, int micro_batch, std::int64_t i) {
  return static_cast<float>(i % 97 + 1) * (rank == 0 ? 1e-4f : 1e3f) + static_cast<float>(micro_batch) * 1e-3f;
}

class GradStoreTest : public ::testing::TestWithParam<std::tuple<int, int>> {};

TEST_P(GradStoreTest, SumsMicroBatchesInOrderAndRanksInOrder) {
  const auto [stage, world] = GetParam();
  on_ranks(world, [stage = stage, world = world](Communicator& comm) {
    const StateLayout layout = layout_of(world);
    Device device(Backend::host, 1);
    TierArena arena(Tier::gpu, std::size_t{16} << 20);
    Stream compute(device, "compute"), communication(device, "communication");
    constexpr int kMicroBatches = 3;
    GradStore grads(layout, kShapes, {.zero_stage = stage, .micro_batches = kMicroBatches}, comm, arena, compute,
                    communication);
    for (int m = 0; m < kMicroBatches; ++m) {
      const TensorRef g = grads.acquire(0)[0];
      compute.ref().enqueue("gradient", [&, g, m] {
        for (std::int64_t i = 0; i < kN; ++i) g.as<float>()[i] += gradient(comm.rank().v, m, i);
        return Status();
      });
      grads.reduce(0, m);
    }
    ASSERT_TRUE(grads.summed(0).wait().ok());
    const GradStore::UpdateView view = grads.for_update(0);
    const Slice mine = layout.units[0].slices[static_cast<std::size_t>(comm.rank().v)];
    const Slice seen = stage == 0 ? Slice{0, kN} : Slice{mine.first, std::min(mine.end(), kN) - mine.first};
    double squares = 0.0;
    for (std::int64_t i = seen.first; i < seen.end(); ++i) {
      float sum = 0.0f;
      for (int m = 0; m < kMicroBatches; ++m)
        for (int r = 0; r < world; ++r) sum = m == 0 && r == 0 ? gradient(0, 0, i) : sum + gradient(r, m, i);
      ASSERT_EQ(view.values[i - view.first], sum) << "element " << i;
      if (i >= mine.first && i < mine.end()) squares += static_cast<double>(sum) * static_cast<double>(sum);
    }
    double partials = 0.0;
    for (const double p : grads.partials(0)) partials += p;
    EXPECT_NEAR(partials, squares, 1e-9 * squares);
  });
}

INSTANTIATE_TEST_SUITE_P(StagesAndWorlds, GradStoreTest,
                         ::testing::Combine(::testing::Values(0, 1, 2, 3), ::testing::Values(1, 2, 3)));

TEST(ParamStore, StageThreeGathersWhatOwnersPublished) {
  on_ranks(3, [](Communicator& comm) {
    const StateLayout layout = layout_of(3);
    Device device(Backend::host, 1);
    TierArena arena(Tier::gpu, std::size_t{16} << 20);
    Stream compute(device, "compute"), communication(device, "communication");
    ParamStore params(layout, kShapes, {.zero_stage = 3}, comm, arena, compute, communication);
    ASSERT_TRUE(compute.ref().synchronize().ok());
    for (int round = 1; round <= 2; ++round) {
      for (int u = 0; u < 2; ++u) {
        float* stored = reinterpret_cast<float*>(params.stored(u).data);
        for (std::int64_t i = 0; i < params.stored_slice(u).count; ++i)
          stored[i] = static_cast<float>(round * 100000 + params.stored_slice(u).first + i);
        params.publish(u, Event());
      }
      params.prefetch(0);
      for (int u = 0; u < 2; ++u) {
        const ParamLease lease = params.acquire(u);
        ASSERT_TRUE(compute.ref().synchronize().ok());
        for (std::size_t p = 0; p < lease.params().size(); ++p)
          for (std::int64_t i = 0; i < lease.params()[p].numel(); ++i)
            ASSERT_EQ(lease.params()[p].as<float>()[i],
                      static_cast<float>(round * 100000 + layout.units[static_cast<std::size_t>(u)].params[p].offset + i));
      }
    }
  });
}

TEST(ParamStore, AGatheredUnitReturnsItsMemory) {
  on_ranks(2, [](Communicator& comm) {
    const StateLayout layout = layout_of(2);
    Device device(Backend::host, 1);
    TierArena arena(Tier::gpu, std::size_t{16} << 20);
    Stream compute(device, "compute"), communication(device, "communication");
    ParamStore params(layout, kShapes, {.zero_stage = 3}, comm, arena, compute, communication);
    const std::size_t stored = arena.report().in_use;
    for (int i = 0; i < 5; ++i) {
      const ParamLease lease = params.acquire(0);
      EXPECT_GT(arena.report().in_use, stored);
    }
    EXPECT_EQ(arena.report().in_use, stored);
    ASSERT_TRUE(compute.ref().synchronize().ok());
  });
}

// One rank's optimizer over both homes.
struct OneRank {
  explicit OneRank(Tier home, const std::string& file) : layout(layout_of(1)), comm(make_single_rank_communicator()) {
    OptimizerStoreOptions options;
    options.home = home;
    options.record_size = 4096;
    options.nvme_file = file;
    auto made = OptimizerStore::create(layout, Rank{0}, options, cpu, params, grads, {update, nvme_read, nvme_write}, nullptr);
    created = made.status();
    if (made.ok()) store = std::move(made).value();
  }
  StateLayout layout;
  std::unique_ptr<Communicator> comm;
  Device device{Backend::host, 1};
  TierArena gpu{Tier::gpu, std::size_t{16} << 20}, cpu{Tier::cpu, std::size_t{16} << 20};
  Stream compute{device, "compute"}, communication{device, "communication"}, update{device, "update"},
      nvme_read{device, "read"}, nvme_write{device, "write"};
  ParamStore params{layout, kShapes, {}, *comm, gpu, compute, communication};
  GradStore grads{layout, kShapes, {}, *comm, gpu, compute, communication};
  std::unique_ptr<OptimizerStore> store;
  Status created;
};

TEST(OptimizerStore, BothHomesGiveWhatWasStored) {
  const std::string file = (std::filesystem::temp_directory_path() / ("strata_store_" + std::to_string(getpid()))).string();
  for (const Tier home : {Tier::cpu, Tier::nvme}) {
    OneRank one(home, file);
    ASSERT_TRUE(one.created.ok()) << one.created.message();
    EXPECT_EQ(one.store->records().size(), 4u + 2u);
    for (int round = 0; round < 3; ++round) {
      ASSERT_TRUE(one.store
                      ->fill([&](const OptimizerRecord& r, RecordState s) {
                        for (std::int64_t i = 0; i < r.range.count; ++i) {
                          s.p[i] = static_cast<float>(r.range.first + i);
                          s.m[i] = static_cast<float>(round);
                          s.v[i] = -s.p[i];
                        }
                        return Status();
                      })
                      .ok());
      std::int64_t seen = 0;
      ASSERT_TRUE(one.store
                      ->visit([&](const OptimizerRecord& r, RecordState s) {
                        for (std::int64_t i = 0; i < r.range.count; ++i) {
                          EXPECT_EQ(s.p[i], static_cast<float>(r.range.first + i));
                          EXPECT_EQ(s.m[i], static_cast<float>(round));
                          EXPECT_EQ(s.v[i], -s.p[i]);
                        }
                        seen += r.range.count;
                        return Status();
                      })
                      .ok());
      EXPECT_EQ(seen, one.layout.numel());
    }
  }
  EXPECT_FALSE(std::filesystem::exists(file)) << "the state file is removed with its store";
}

TEST(OptimizerStore, AFileThatCannotBeMadeIsAnErrorThatNamesIt) {
  OneRank one(Tier::nvme, "/nonexistent/folder/state");
  EXPECT_FALSE(one.created.ok());
  EXPECT_NE(one.created.message().find("/nonexistent/folder/state"), std::string::npos) << one.created.message();
}

TEST(OptimizerStore, ADamagedRecordStopsTheUpdateWithItsName) {
  const std::string file = (std::filesystem::temp_directory_path() / ("strata_damaged_" + std::to_string(getpid()))).string();
  OneRank one(Tier::nvme, file);
  ASSERT_TRUE(one.created.ok()) << one.created.message();
  const auto zero = [](const OptimizerRecord& r, RecordState s) {
    for (float* values : {s.p, s.m, s.v}) std::fill(values, values + r.range.count, 0.0f);
    return Status();
  };
  ASSERT_TRUE(one.store->fill(zero).ok());
  // Overwrite the middle of the file: both slots of some record.
  {
    std::FILE* raw = std::fopen(file.c_str(), "r+b");
    ASSERT_NE(raw, nullptr);
    std::fseek(raw, 0, SEEK_END);
    const long size = std::ftell(raw);
    const std::vector<char> junk(static_cast<std::size_t>(size), 'x');
    std::fseek(raw, 0, SEEK_SET);
    ASSERT_EQ(std::fwrite(junk.data(), 1, junk.size(), raw), junk.size());
    std::fclose(raw);
  }
  const Status visited = one.store->visit([](const OptimizerRecord&, RecordState) { return Status(); });
  EXPECT_EQ(visited.code(), Code::corrupt) << visited.message();
  EXPECT_NE(visited.message().find(file), std::string::npos) << visited.message();
}

}  // namespace
}  // namespace strata
