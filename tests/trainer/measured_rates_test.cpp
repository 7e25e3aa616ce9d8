// What is measured cannot be told beforehand, but what it is used for can: every rank plans alike, files give back what was
// measured, what is not there is not measured and the reason is said, and no bit of a run changes. Mutations that must fail:
// take the largest rate, or each rank's own; write a file with other units or digits; measure copies on the host; leave the
// scratch file or its folder behind; let measured rates win over given ones.
#include "trainer/measured_rates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "model/text_file.h"
#include "model/transformer.h"
#include "tests/trainer/fixture.h"
#include "trainer/model_setup.h"

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Field;
using ::testing::HasSubstr;
using Speeds = Config::Device::Speeds;

constexpr std::size_t kMiB = std::size_t{1} << 20;

bool equal(const Speeds& a, const Speeds& b) {
  const auto all = [](const Speeds& s) {
    return std::tuple(s.h2d, s.d2h, s.nvme_read, s.nvme_write, s.cpu_update, s.gpu_update, s.compute_unit);
  };
  return all(a) == all(b);
}

TEST(SmallestRates, AreThoseOfTheSlowestRankThatKnowsThem) {
  ThreadGroup group(WorldSize{3});
  std::vector<Rates> agreed(3);
  std::vector<std::thread> ranks;
  for (int r = 0; r < 3; ++r)
    ranks.emplace_back([&, r] {
      Rates mine;
      mine[Resource::cpu_to_gpu] = 100.0 + r;
      mine[Resource::gpu_to_cpu] = 100.0 - r;
      mine[Resource::nvme_read] = r == 1 ? 7.0 : 0.0;
      const auto comm = group.communicator(Rank{r});
      agreed[static_cast<std::size_t>(r)] = smallest_rates(*comm, mine).value();
    });
  for (std::thread& rank : ranks) rank.join();
  for (const Rates& rates : agreed) {
    EXPECT_EQ(rates[Resource::cpu_to_gpu], 100.0);
    EXPECT_EQ(rates[Resource::gpu_to_cpu], 98.0);
    EXPECT_EQ(rates[Resource::nvme_read], 7.0);
    EXPECT_EQ(rates[Resource::nvme_write], 0.0);
  }
}

TEST(HardwareFile, GivesBackExactlyWhatWasWritten) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/hardware.yaml", config = folder.path() + "/config.yaml";
  ASSERT_TRUE(write_text_file(config, dump(small_config(folder.path()))).ok());
  std::mt19937_64 random(3);
  for (int i = 0; i < 200; ++i) {
    const auto magnitude = [&] { return std::pow(10.0, static_cast<double>(random() % 1200) / 100.0); };
    Speeds rates;
    rates.h2d = static_cast<std::uint64_t>(magnitude());
    rates.d2h = i % 2 == 0 ? 0 : static_cast<std::uint64_t>(magnitude()) / 1'000'000 * 1'000'000;
    rates.nvme_read = static_cast<std::uint64_t>(magnitude());
    rates.nvme_write = static_cast<std::uint64_t>(magnitude());
    rates.cpu_update = static_cast<std::int64_t>(magnitude());
    rates.gpu_update = static_cast<std::int64_t>(magnitude());
    rates.compute_unit = 1e-3 * magnitude() / 1e6;
    ASSERT_TRUE(write_text_file(path, hardware_file(rates, {"h2d: 1GB/s", "of a test"})).ok());
    const Result<Config> read = load_config(config, {"device.hardware=" + path});
    ASSERT_TRUE(read.ok()) << read.status().message();
    ASSERT_TRUE(equal(read->device.rates, rates)) << read_text_file(path).value();
    EXPECT_FALSE(read->device.probe);
  }
}

TEST(WithRates, KeepsWhatIsGiven) {
  Config c = small_config("anywhere");
  c.device.probe = true;
  c.device.rates.h2d = 5;
  c.device.rates.compute_unit = 0.5;
  const Config filled = with_rates(c, {.h2d = 7, .d2h = 8, .cpu_update = 9, .compute_unit = 0.25});
  EXPECT_FALSE(filled.device.probe);
  EXPECT_TRUE(equal(filled.device.rates, {.h2d = 5, .d2h = 8, .cpu_update = 9, .compute_unit = 0.5}));
}

// Of one rank, in an instant.
Result<MeasuredRates> measured_in(const Config& written, Device& device, bool unused = false) {
  const Config c = resolve(written, WorldSize{1}, {.train = true}).value();
  const std::unique_ptr<Model> model = make_model(model_config_of(c).value()).value();
  return measure_rates(c, *model, device, *make_single_rank_communicator(), available_host_memory(),
                       {.unused = unused, .seconds = 0.02, .alone_seconds = 0.01, .nvme_bytes = 8 * kMiB});
}

TEST(MeasureRates, OfTheHostAreEverythingButAGpus) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.offload.optimizer.device = Tier::nvme;
  c.nvme.path = {folder.path() + "/a/b", folder.path() + "/c"};
  c.nvme.weights = {1.0, 1.0};
  Device device(Backend::host, 2);
  const Result<MeasuredRates> measured = measured_in(c, device);
  ASSERT_TRUE(measured.ok()) << measured.status().message();
  for (const Speeds& rates : {measured->together, measured->alone}) {
    EXPECT_GT(rates.cpu_update, 0);
    EXPECT_GT(rates.nvme_read, 0u);
    EXPECT_GT(rates.nvme_write, 0u);
    EXPECT_GT(rates.compute_unit, 0.0);
    EXPECT_TRUE(equal(rates, {.nvme_read = rates.nvme_read,
                              .nvme_write = rates.nvme_write,
                              .cpu_update = rates.cpu_update,
                              .compute_unit = rates.compute_unit}));
  }
  EXPECT_THAT(measured->left_out, Contains(Field(&LeftOut::what, "h2d, d2h, gpu_update")));
  EXPECT_THAT(measured->line(), AllOf(HasSubstr("cpu_update"), HasSubstr("not measured: h2d, d2h, gpu_update (")));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path())) << "the folders of nvme.path were not there before";
}

TEST(MeasureRates, DrivesThatStateCannotGoToAreMeasuredOnDemand) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.offload.optimizer.device = Tier::cpu;
  Device device(Backend::host, 1);
  const Result<MeasuredRates> run = measured_in(c, device), everything = measured_in(c, device, true);
  ASSERT_TRUE(run.ok() && everything.ok());
  EXPECT_EQ(run->together.nvme_read, 0u);
  EXPECT_THAT(run->left_out, Contains(Field(&LeftOut::why, HasSubstr("offload.*.device"))));
  EXPECT_GT(everything->together.nvme_read, 0u);
  c.memory.nvme = kMiB;
  const Result<MeasuredRates> off = measured_in(c, device, true);
  ASSERT_TRUE(off.ok());
  EXPECT_EQ(off->together.nvme_read, 0u);
  EXPECT_THAT(off->left_out, Contains(Field(&LeftOut::why, HasSubstr("memory.nvme"))));
}

TEST(MeasureRates, WhatTheBudgetsDoNotHoldIsLeftOutAndSaid) {
  const TemporaryFolder folder;
  Config c = small_config(folder.path());
  c.memory.cpu = 6 * kMiB;
  c.memory.gpu = 64 * 1024;
  Device device(Backend::host, 1);
  const Result<MeasuredRates> measured = measured_in(c, device);
  ASSERT_TRUE(measured.ok()) << measured.status().message();
  EXPECT_EQ(measured->together.cpu_update, 0);
  EXPECT_EQ(measured->together.compute_unit, 0.0);
  EXPECT_THAT(measured->left_out,
              Contains(AllOf(Field(&LeftOut::what, "cpu_update"), Field(&LeftOut::why, HasSubstr("of memory.cpu;")))));
  EXPECT_THAT(measured->left_out,
              Contains(AllOf(Field(&LeftOut::what, "compute_unit"), Field(&LeftOut::why, HasSubstr("of memory.gpu;")))));
}

TEST(MeasureRates, AFolderThatCannotBeMadeIsTheConfigurationsFault) {
  const TemporaryFolder folder;
  ASSERT_TRUE(write_text_file(folder.path() + "/file", "x").ok());
  Config c = small_config(folder.path());
  c.offload.optimizer.device = Tier::nvme;
  c.nvme.path = {folder.path() + "/file/nvme"};
  Device device(Backend::host, 1);
  const Result<MeasuredRates> measured = measured_in(c, device);
  EXPECT_EQ(measured.status().code(), Code::invalid_config);
  EXPECT_THAT(measured.status().message(), AllOf(HasSubstr("nvme.path"), HasSubstr(folder.path() + "/file/nvme")));
}

TEST(ProbedRun, HasTheBitsOfOneThatIsNot) {
  const TemporaryFolder plain, probed;
  const auto data = std::make_shared<FormulaSource>(61);
  Config c = small_config(plain.path());
  c.training.steps = 3;
  c.scheduler.warmup_steps = 1;
  c.offload.optimizer.device = std::nullopt;
  c.memory.nvme = 64 * kMiB;
  const RunResult reference = run_training(c, 2, data);
  ASSERT_TRUE(reference.status.ok()) << reference.status.message();
  c.run.folder = probed.path();
  c.device.probe = true;
  c.device.rates.nvme_write = 12345;
  const RunResult run = run_training(c, 2, data);
  ASSERT_TRUE(run.status.ok()) << run.status.message();
  EXPECT_EQ(run.digest, reference.digest);
  ASSERT_FALSE(run.digest.empty());
  // The plan had what was measured, and the run's description says it.
  const Rates& rates = run.plan->options.optimizer.rates;
  EXPECT_GT(rates[Resource::compute], 0.0);
  EXPECT_GT(rates[Resource::nvme_read], 0.0);
  EXPECT_EQ(rates[Resource::nvme_write], 12345.0);
  const Result<Config> resolved = load_config(probed.path() + "/config.resolved.yaml");
  ASSERT_TRUE(resolved.ok()) << resolved.status().message();
  EXPECT_FALSE(resolved->device.probe);
  EXPECT_EQ(static_cast<double>(resolved->device.rates.nvme_read), rates[Resource::nvme_read]);
}

TEST(GpuProbedRun, MeasuresCopiesAndUpdatesOfTheGpuAndChangesNoBit) {
  if (testing::kSanitized) GTEST_SKIP() << "ProbedRun measures on the host, GpuEquivalence trains on the emulator";
  const testing::GpuMachine& machine = testing::gpu_machines()[0];
  const TemporaryFolder plain, probed;
  const auto data = std::make_shared<FormulaSource>(61);
  Config c = small_config(plain.path());
  c.training.steps = 2;
  c.training.global_batch_size = 2;
  c.scheduler.warmup_steps = 1;
  c.precision.compute = DType::bf16;
  c.memory.gpu = 208 * kMiB;  // scratch of kernels 64 MiB, copies 128 MiB: a short update, for the emulator is slow
  const RunResult reference = run_training(c, 1, data, nullptr, &machine);
  ASSERT_TRUE(reference.status.ok()) << reference.status.message();
  c.run.folder = probed.path();
  c.device.probe = true;
  const RunResult run = run_training(c, 1, data, nullptr, &machine);
  ASSERT_TRUE(run.status.ok()) << run.status.message();
  EXPECT_EQ(run.digest, reference.digest);
  const Rates& rates = run.plan->options.optimizer.rates;
  for (const Resource resource :
       {Resource::compute, Resource::cpu_to_gpu, Resource::gpu_to_cpu, Resource::gpu_update, Resource::cpu_update})
    EXPECT_GT(rates[resource], 0.0) << to_string(resource);
}

}  // namespace
}  // namespace strata
