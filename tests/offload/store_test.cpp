// The stores against a plain calculation: sums in rank order, gathered parameters, and failures that come back as a Status.
#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "support.h"

namespace strata {
namespace {

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

struct StoreStreams {
  explicit StoreStreams(Device& device)
      : compute(device, "compute"),
        communication(device, "communication"),
        up(device, "up"),
        down(device, "down"),
        nvme_read(device, "read"),
        nvme_write(device, "write") {}
  ParamStoreStreams of_params() { return {compute, communication, up, nvme_read, nvme_write}; }
  GradStoreStreams of_grads() { return {compute, communication, down, up, nvme_read, nvme_write}; }
  Stream compute, communication, up, down, nvme_read, nvme_write;
};

class GradStoreTest : public ::testing::TestWithParam<std::tuple<int, int, Tier>> {};

TEST_P(GradStoreTest, SumsMicroBatchesInOrderAndRanksInOrder) {
  const auto [stage, world, home] = GetParam();
  on_ranks(world, [stage = stage, world = world, home = home](Communicator& comm) {
    const StateLayout layout = layout_of(world);
    Device device(Backend::host, 1);
    TierArena arena(Tier::gpu, std::size_t{16} << 20), cpu(Tier::cpu, std::size_t{16} << 20);
    StoreStreams streams(device);
    Stream& compute = streams.compute;
    constexpr int kMicroBatches = 3;
    const GradStoreOptions options{
        .zero_stage = stage, .micro_batches = kMicroBatches, .homes = std::vector<Tier>(kShapes.size(), home)};
    GradStore grads(layout, kShapes, options, comm, arena, cpu, streams.of_grads());
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
      ASSERT_EQ(*reinterpret_cast<const float*>(view.at(i, DType::f32)), sum) << "element " << i;
      if (i >= mine.first && i < mine.end()) squares += static_cast<double>(sum) * static_cast<double>(sum);
    }
    double partials = 0.0;
    for (const double p : grads.partials(0)) partials += p;
    EXPECT_NEAR(partials, squares, 1e-9 * squares);
  });
}

INSTANTIATE_TEST_SUITE_P(StagesAndWorlds, GradStoreTest,
                         ::testing::Combine(::testing::Values(0, 1, 2, 3), ::testing::Values(1, 2, 3),
                                            ::testing::Values(Tier::gpu, Tier::cpu)));

void enqueue_sleep(StreamRef stream) {
  stream.enqueue("sleep", [] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return Status();
  });
}

TEST(GradStore, WaitsForReductionsInFlightBeforeItEnds) {
  const StateLayout layout = layout_of(1);
  const auto comm = make_single_rank_communicator();
  Device device(Backend::host, 1);
  TierArena arena(Tier::gpu, std::size_t{16} << 20), cpu(Tier::cpu, std::size_t{16} << 20);
  StoreStreams streams(device);
  // Two micro-batches: the gradient is a buffer of its own.
  auto grads =
      std::make_unique<GradStore>(layout, kShapes, GradStoreOptions{.micro_batches = 2}, *comm, arena, cpu, streams.of_grads());
  enqueue_sleep(streams.communication);
  grads->acquire(0);
  grads->reduce(0, 0);
  const Event reduced = grads->summed(0);
  grads.reset();
  EXPECT_TRUE(reduced.is_complete());
  EXPECT_EQ(arena.report().in_use, 0u);
}

TEST(ParamStore, IsZeroWhenItIsMadeSoThatAnyStreamMayWrite) {
  const StateLayout layout = layout_of(1);
  const auto comm = make_single_rank_communicator();
  Device device(Backend::host, 1);
  TierArena arena(Tier::gpu, std::size_t{16} << 20), cpu(Tier::cpu, std::size_t{16} << 20);
  StoreStreams streams(device);
  enqueue_sleep(streams.compute);
  ParamStore params(layout, kShapes, {}, *comm, arena, cpu, streams.of_params());
  float* stored = params.stored(0).as<float>();
  for (std::int64_t i = 0; i < layout.units[0].numel; ++i) ASSERT_EQ(stored[i], 0.0f);
  stored[5] = 1.0f;
  ASSERT_TRUE(streams.compute.ref().synchronize().ok());
  EXPECT_EQ(stored[5], 1.0f);
}

TEST(ParamStore, CannotBeMadeOnAStreamThatFailed) {
  const StateLayout layout = layout_of(1);
  const auto comm = make_single_rank_communicator();
  Device device(Backend::host, 1);
  TierArena arena(Tier::gpu, std::size_t{16} << 20), cpu(Tier::cpu, std::size_t{16} << 20);
  StoreStreams streams(device);
  streams.compute.ref().enqueue("fail", [] { return Status(Code::io_error, "disk on fire"); });
  EXPECT_THROW(ParamStore(layout, kShapes, {}, *comm, arena, cpu, streams.of_params()), StatusError);
}

TEST(ParamStore, WaitsForGathersInFlightBeforeItEnds) {
  std::atomic<int> done{0};
  on_ranks(2, [&](Communicator& comm) {
    const StateLayout layout = layout_of(2);
    Device device(Backend::host, 1);
    TierArena arena(Tier::gpu, std::size_t{16} << 20), cpu(Tier::cpu, std::size_t{16} << 20);
    StoreStreams streams(device);
    {
      ParamStore params(layout, kShapes, {.zero_stage = 3}, comm, arena, cpu, streams.of_params());
      enqueue_sleep(streams.communication);
      params.prefetch(0);
      streams.communication.ref().enqueue("done", [&] {
        ++done;
        return Status();
      });
    }
    EXPECT_GE(done, 1);
    EXPECT_EQ(arena.report().in_use, 0u);
  });
}

TEST(ParamStore, StageThreeGathersWhatOwnersPublished) {
  on_ranks(3, [](Communicator& comm) {
    const StateLayout layout = layout_of(3);
    Device device(Backend::host, 1);
    TierArena arena(Tier::gpu, std::size_t{16} << 20), cpu(Tier::cpu, std::size_t{16} << 20);
    StoreStreams streams(device);
    ParamStore params(layout, kShapes, {.zero_stage = 3}, comm, arena, cpu, streams.of_params());
    for (int round = 1; round <= 2; ++round) {
      for (int u = 0; u < 2; ++u) {
        float* stored = reinterpret_cast<float*>(params.stored(u).data);
        for (std::int64_t i = 0; i < params.stored_slice(u).count; ++i)
          stored[i] = static_cast<float>(round * 100000 + params.stored_slice(u).first + i);
        params.publish(u, {});
      }
      params.prefetch(0);
      for (int u = 0; u < 2; ++u) {
        const ParamLease lease = params.acquire(u);
        ASSERT_TRUE(streams.compute.ref().synchronize().ok());
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
    TierArena arena(Tier::gpu, std::size_t{16} << 20), cpu(Tier::cpu, std::size_t{16} << 20);
    StoreStreams streams(device);
    ParamStore params(layout, kShapes, {.zero_stage = 3}, comm, arena, cpu, streams.of_params());
    const std::size_t stored = arena.report().in_use;
    for (int i = 0; i < 5; ++i) {
      const ParamLease lease = params.acquire(0);
      EXPECT_GT(arena.report().in_use, stored);
    }
    EXPECT_EQ(arena.report().in_use, stored);
    ASSERT_TRUE(streams.compute.ref().synchronize().ok());
  });
}

TEST(OptimizerStore, BothHomesGiveWhatWasStored) {
  const std::string file = (std::filesystem::temp_directory_path() / ("strata_store_" + std::to_string(getpid()))).string();
  for (const Tier home : {Tier::cpu, Tier::nvme}) {
    OneRank one({.home = home, .nvme_files = {file}});
    ASSERT_TRUE(one.created.ok()) << one.created.message();
    EXPECT_EQ(one.store->records().size(), 4u + 2u);
    for (int round = 0; round < 3; ++round) {
      ASSERT_TRUE(one.store
                      ->fill([&](const OptimizerRecord& r, RecordState s) {
                        for (std::int64_t i = 0; i < r.range.count; ++i) {
                          s.p[i] = static_cast<float>(r.range.first + i);
                          s.values(0)[i] = static_cast<float>(round);
                          s.values(1)[i] = -s.p[i];
                        }
                        return Status();
                      })
                      .ok());
      std::int64_t seen = 0;
      ASSERT_TRUE(one.store
                      ->visit([&](const OptimizerRecord& r, RecordState s) {
                        for (std::int64_t i = 0; i < r.range.count; ++i) {
                          EXPECT_EQ(s.p[i], static_cast<float>(r.range.first + i));
                          EXPECT_EQ(s.values(0)[i], static_cast<float>(round));
                          EXPECT_EQ(s.values(1)[i], -s.p[i]);
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

// States, then the compute copy.
std::vector<float> everything(OneRank& one) {
  Result<std::vector<float>> state = one.state();
  EXPECT_TRUE(state.ok()) << state.status().message();
  std::vector<float> all = state.ok() ? *state : std::vector<float>();
  for (int u = 0; u < 2; ++u) {
    const TensorRef params = one.params.stored(u);
    for (std::int64_t i = 0; i < params.numel(); ++i) all.push_back(to_float(params.as<bf16>()[i]));
  }
  return all;
}

// What steps that guess, or wait, leave behind.
std::vector<float> after_steps(OneRank& one, bool guesses, const std::vector<double>& clips) {
  EXPECT_TRUE(one.created.ok()) << one.created.message();
  EXPECT_TRUE(one.fill().ok());
  for (std::size_t i = 0; i < clips.size(); ++i) {
    const auto number = static_cast<std::int64_t>(i) + 1;
    const auto clipped = [&](double clip) { return UpdateStep{.number = number, .lr = 1e-2, .grad_scale = clip}; };
    one.gradients(static_cast<int>(i));
    if (guesses) one.store->complete_all(clipped(1.0));
    EXPECT_EQ(one.store->step(clipped(clips[i]), one.compute.ref().record()).value(), guesses && clips[i] == 1.0)
        << "step " << i;
  }
  return everything(one);
}

std::string speculation_file() {
  return (std::filesystem::temp_directory_path() / ("strata_guess_" + std::to_string(getpid()))).string();
}

TEST(OptimizerStore, AGuessThatIsWrongChangesNoBit) {
  for (const Tier home : {Tier::cpu, Tier::nvme}) {
    OneRank waits({.home = home, .compute = DType::bf16, .nvme_files = {speculation_file()}});
    const std::vector<double> clips = {1.0, 0.5, 1.0, 1.0, 0.25, 0.125, 1.0};
    const std::vector<float> wanted = after_steps(waits, false, clips);
    for (const double fraction : {0.5, 1.0}) {
      OneRank guesses({.home = home,
                       .share = {.speculation = fraction},
                       .compute = DType::bf16,
                       .nvme_files = {speculation_file() + "_too"}});
      EXPECT_EQ(guesses.store->plan().speculating, fraction == 1.0 ? 6 : 3);
      EXPECT_TRUE(after_steps(guesses, true, clips) == wanted) << to_string(home) << ", " << fraction;
      const std::size_t copies = guesses.cpu.report().in_use - waits.cpu.report().in_use;
      EXPECT_EQ(copies > 0, home == Tier::cpu);
    }
  }
}

TEST(OptimizerStore, ADroppedStepLeavesEverythingAsItWas) {
  for (const Tier home : {Tier::cpu, Tier::nvme}) {
    OptimizerStoreOptions options = {
        .home = home, .share = {.speculation = 1.0}, .compute = DType::bf16, .nvme_files = {speculation_file()}};
    OneRank one(options);
    options.nvme_files.front() += "_too";
    const std::vector<float> before = after_steps(one, true, {1.0, 1.0});
    one.gradients(7);
    one.store->complete_all(UpdateStep{.number = 3, .lr = 1.0});
    ASSERT_TRUE(one.update.ref().synchronize().ok());
    EXPECT_NE(to_float(one.params.stored(1).as<bf16>()[0]),
              before[before.size() - static_cast<std::size_t>(one.params.stored(1).numel())])
        << "the guess must have updated something";
    ASSERT_TRUE(one.store->drop_step().ok());
    EXPECT_TRUE(everything(one) == before) << to_string(home);
    // And the next step is the third one.
    one.gradients(2);
    one.store->complete_all(UpdateStep{.number = 3, .lr = 1e-2});
    EXPECT_TRUE(one.store->step(UpdateStep{.number = 3, .lr = 1e-2}, one.compute.ref().record()).value());
    const std::vector<float> third = everything(one);
    OneRank straight(options);
    EXPECT_TRUE(after_steps(straight, true, {1.0, 1.0, 1.0}) == third) << to_string(home);
  }
}

TEST(OptimizerStore, AFileThatCannotBeMadeIsAnErrorThatNamesIt) {
  OneRank one({.home = Tier::nvme, .nvme_files = {"/nonexistent/folder/state"}});
  EXPECT_FALSE(one.created.ok());
  EXPECT_NE(one.created.message().find("/nonexistent/folder/state"), std::string::npos) << one.created.message();
}

TEST(OptimizerStore, ADamagedFileStopsAVisitWithItsName) {
  const std::string file = (std::filesystem::temp_directory_path() / ("strata_damaged_" + std::to_string(getpid()))).string();
  OneRank one({.home = Tier::nvme, .nvme_files = {file}});
  ASSERT_TRUE(one.created.ok()) << one.created.message();
  const auto zeros = [](const OptimizerRecord& r, RecordState s) {
    zero(r, s);
    return Status();
  };
  ASSERT_TRUE(one.store->fill(zeros).ok());
  {  // Junk over the whole file: both slots of every record.
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
