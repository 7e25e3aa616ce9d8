#include "offload/activation_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "nvme/faulty_engine.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::int64_t kRows = 3000;  // of the input; a saved tensor has half of them

// One rank's store, whose units each keep an input of f32, a saved tensor of bf16 and an empty one.
struct Kept {
  Kept(std::vector<ActivationPlacement> placements, int micro_batches, int prefetch = 1, bool faulty = false)
      : units(static_cast<int>(placements.size())), count(micro_batches) {
    ActivationStoreOptions options{
        .units = std::move(placements), .micro_batches = micro_batches, .prefetch = prefetch, .nvme_files = {file()}};
    for (int u = 0; u < units; ++u) options.bytes.push_back(make(u, 0).bytes());
    options.nvme.io.kind = IoEngineOptions::Kind::threads;
    if (faulty) {
      options.nvme.make_engine = [this](const IoEngineOptions& io, std::string* why) -> Result<std::unique_ptr<IoEngine>> {
        STRATA_ASSIGN_OR_RETURN(auto inner, make_io_engine(io, why));
        auto engine = std::make_unique<FaultyEngine>(std::move(inner), io);
        (read == nullptr ? read : write) = engine.get();
        return std::unique_ptr<IoEngine>(std::move(engine));
      };
    }
    auto made = ActivationStore::create(options, gpu, cpu, {compute, down, up, nvme_read, nvme_write}, nullptr);
    if (!made.ok()) throw std::runtime_error(made.status().message());
    store = std::move(made).value();
  }
  static std::string file() { return ::testing::TempDir() + "/strata_activations_" + std::to_string(::getpid()); }
  static float value(int u, int index, std::int64_t i) { return static_cast<float>((i * 7 + u * 31 + index * 101) % 251); }

  KeptActivations make(int u, int index) {
    KeptActivations kept;
    kept.input = Tensor(gpu, Category::activations, DType::f32, {kRows, 4}, "input");
    kept.saved.emplace_back(gpu, Category::activations, DType::bf16, Shape{kRows / 2}, "saved");
    kept.saved.emplace_back();
    const TensorRef input = kept.input, saved = kept.saved.front();
    compute.ref().enqueue("forward", [input, saved, u, index] {
      for (std::int64_t i = 0; i < input.numel(); ++i) input.as<float>()[i] = value(u, index, i);
      for (std::int64_t i = 0; i < saved.numel(); ++i)
        saved.as<bf16>()[i] = {static_cast<std::uint16_t>(value(u, index, i + 5))};
      return Status();
    });
    return kept;
  }

  // Forwards and backwards of a step, as an engine has them.
  Status step(int first) {
    for (int u = 0; u < units; ++u)
      for (int m = 0; m < count; ++m) {
        store->make_room(u);
        store->keep(u, m, make(u, first + m));
      }
    std::vector<std::pair<int, int>> order;
    for (int u = units; u-- > 0;)
      for (int m = 0; m < count; ++m) order.emplace_back(u, m);
    store->begin_backward(order);
    store->prefetch();
    for (const auto& [u, m] : order) {
      KeptActivations kept = store->take(u, m);
      store->prefetch();
      const TensorRef input = kept.input, saved = kept.saved.at(0);
      EXPECT_FALSE(kept.saved.at(1));
      compute.ref().enqueue("backward", [this, input, saved, u = u, index = first + m] {
        for (std::int64_t i = 0; i < input.numel(); ++i) wrong += input.as<float>()[i] != value(u, index, i);
        for (std::int64_t i = 0; i < saved.numel(); ++i)
          wrong += saved.as<bf16>()[i].bits != static_cast<std::uint16_t>(value(u, index, i + 5));
        return Status();
      });
    }
    return compute.ref().synchronize();
  }

  int units, count;
  FaultyEngine* read = nullptr;
  FaultyEngine* write = nullptr;
  Device device{Backend::host, 1};
  TierArena gpu{Tier::gpu, 4 * kMiB}, cpu{Tier::cpu, 4 * kMiB};
  Stream compute{device, "compute"}, down{device, "down"}, up{device, "up"}, nvme_read{device, "read"},
      nvme_write{device, "write"};
  std::unique_ptr<ActivationStore> store;
  long wrong = 0;
};

std::vector<ActivationPlacement> at(std::vector<Tier> homes) {
  std::vector<ActivationPlacement> placements;
  for (const Tier home : homes) placements.push_back({home, false});
  return placements;
}

TEST(ActivationStore, GivesBackWhatWasKept) {
  constexpr Tier g = Tier::gpu, c = Tier::cpu, n = Tier::nvme;
  for (const std::vector<Tier>& homes :
       std::vector<std::vector<Tier>>{{g, g, g}, {c, c, c, c, c, g}, {n, n, n, n, n, n}, {n, c, g, n, c, g, c, n}})
    for (const int micro_batches : {1, 3})
      for (const int prefetch : {1, 3}) {
        Kept kept(at(homes), micro_batches, prefetch);
        for (int step = 0; step < 3; ++step) {
          const Status status = kept.step(10 * step);
          ASSERT_TRUE(status.ok()) << status.message();
        }
        EXPECT_EQ(kept.wrong, 0);
        EXPECT_EQ(kept.gpu.report().in_use, 0u);
        EXPECT_EQ(kept.cpu.report().in_use, 0u);
      }
}

// Two units' are in the gpu tier at one time, one of which leaves or comes back; and two windows lead to the file.
TEST(ActivationStore, OfWhatIsAwayTheGpuTierHoldsTwoUnits) {
  const std::size_t one = 48 * 1024 + 4096;  // both tensors, in whole pages
  Kept in_cpu(at(std::vector<Tier>(8, Tier::cpu)), 1);
  ASSERT_TRUE(in_cpu.step(0).ok());
  EXPECT_LE(in_cpu.gpu.report().high_water, 3 * one);
  EXPECT_GE(in_cpu.cpu.report().high_water, 8 * one);
  Kept on_nvme(at(std::vector<Tier>(8, Tier::nvme)), 1);
  ASSERT_TRUE(on_nvme.step(0).ok());
  EXPECT_LE(on_nvme.gpu.report().high_water, 3 * one);
  EXPECT_LE(on_nvme.cpu.report().high_water, 3 * (one + 2 * 4096));
}

TEST(ActivationStore, AFaultInAnyTransferOfTheFileEndsTheStep) {
  using Kind = Fault::Kind;
  for (const Kind kind : {Kind::fail, Kind::truncate, Kind::corrupt, Kind::lose})
    for (const bool writing : {false, true})
      for (std::uint64_t i = 0; i < 3; ++i) {          // a write: payload and header
        if (kind == Kind::lose && !writing) continue;  // its window may hold what was to be read
        const std::uint64_t operation = writing ? 2 * i : i;
        SCOPED_TRACE(::testing::Message() << "kind " << static_cast<int>(kind) << (writing ? ", write " : ", read ") << i);
        Kept kept(at({Tier::nvme, Tier::nvme, Tier::nvme, Tier::gpu}), 1, 1, true);
        ASSERT_TRUE(kept.step(0).ok());
        kept.read->reset();
        kept.write->reset();
        (writing ? kept.write : kept.read)->inject({.kind = kind, .first = operation});
        const Status status = kept.step(1);
        const std::string record = "record " + std::to_string(writing ? i : 2 - i) + ", version 2";
        EXPECT_THAT(status.message(), AllOf(HasSubstr(Kept::file()), HasSubstr(record), HasSubstr("offset ")));
      }
}

}  // namespace
}  // namespace strata
