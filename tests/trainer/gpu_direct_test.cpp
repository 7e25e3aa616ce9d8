// States that pass between drives and the GPU (nvme.gpu_direct): no bit changes, the plan is the run, and what goes wrong is
// one error. On the emulator over a library that stands in for cuFile; on a GPU over cuFile, where it is. Mutations that must
// fail: a window of the size of the payload alone; an update that does not wait for the read into its window; a checksum that
// is not compared.
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "runtime/gpu/cuda.h"
#include "runtime/gpu/cufile.h"
#include "tests/emulator/emulated_driver.h"
#include "tests/machines/machines.h"
#include "tests/trainer/placement.h"

namespace strata {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

bool on_emulator() { return testing::gpu_machines()[0].name == "emulated"; }

// Why nvme.gpu_direct cannot be on here; empty: it can.
std::string missing() {
  const testing::GpuMachine& machine = testing::gpu_machines()[0];
  if (machine.gpus == 0) return "no GPU";
  return CuFile::open(machine.make_driver()->file_library()).status().message();
}

long transfers_of_the_stand_in(const char* counter) {
  void* const library = dlopen(gpu_emulated::make_emulated_driver()->file_library().c_str(), RTLD_NOW);
  const auto count = reinterpret_cast<long (*)()>(dlsym(library, counter));
  return count == nullptr ? -1 : count();
}

struct Case {
  int world;
  double gpu_fraction;
  double speculation;
  double clip;
  DType compute = DType::bf16;
  Tier params = Tier::gpu;
  int folders = 1;
};

std::string name_of(const Case& c) {
  return "world" + std::to_string(c.world) + (c.gpu_fraction < 1.0 ? "_half" : "_all") +
         (c.speculation > 0.0 ? "_speculating" : "") + (c.clip > 0.0 ? "_clipping" : "") + "_" + to_string(c.compute) +
         (c.params != Tier::gpu ? std::string("_params_") + to_string(c.params) : "") + (c.folders > 1 ? "_two_drives" : "");
}

Config config_of(const Case& c, const std::string& folder, bool direct, bool on_gpu) {
  Config config = config_of({.stage = c.params == Tier::gpu ? 2 : 3,
                             .home = Tier::nvme,
                             .record_size = 4096,
                             .recompute = false,
                             .gpu_fraction = c.gpu_fraction,
                             .params = c.params,
                             .speculation = c.speculation},
                            folder, c.compute);
  config.training.clip_grad = c.clip;
  for (int i = 0; i < c.folders; ++i) config.nvme.path.push_back(folder + "/drive" + std::to_string(i));
  config.nvme.weights.assign(static_cast<std::size_t>(c.folders), 1.0);
  config.nvme.gpu_direct = direct;
  if (on_gpu) {
    config.training.steps = 3;  // for the emulator's sake
    config.training.global_batch_size = 4;
    config.scheduler.warmup_steps = 1;
  } else {  // the gpu tier is a memory of its own on the host too
    config.device.emulate.h2d = config.device.emulate.d2h = std::uint64_t{1} << 40;
  }
  return config;
}

class GpuDirect : public ::testing::TestWithParam<std::tuple<testing::Processor, Case>> {
 protected:
  ~GpuDirect() override { unsetenv("STRATA_FAKE_CUFILE"); }
};

TEST_P(GpuDirect, DigestIsThatWithoutItAndThePlanIsTheRun) {
  const auto& [processor, c] = GetParam();
  const bool on_gpu = processor.gpu != nullptr;
  if (on_gpu && processor.gpu->gpus < c.world) GTEST_SKIP() << c.world << " ranks want as many GPUs";
  if (const std::string why = on_gpu ? missing() : ""; !why.empty()) GTEST_SKIP() << why;
  const auto data = std::make_shared<FormulaSource>(61);
  RunResult runs[2];
  for (const bool direct : {false, true}) {
    const TemporaryFolder folder;
    runs[direct] = run_training(config_of(c, folder.path(), direct, on_gpu), c.world, data, nullptr, processor.gpu);
    const RunResult& run = runs[direct];
    ASSERT_TRUE(run.status.ok()) << run.status.message();
    EXPECT_EQ(run.measured_gpu, run.planned_gpu) << "the plan is the run";
    EXPECT_EQ(run.measured_cpu, run.planned_cpu);
    const UpdateSchedule& schedule = run.plan->update.schedule;
    int direct_records = 0, copies = 0;
    for (std::size_t r = 0; r < schedule.shape.records.size(); ++r) direct_records += route_of(schedule.shape, r).direct;
    for (const Instruction& i : schedule.instructions) copies += i.action == Action::state_up || i.action == Action::state_down;
    EXPECT_EQ(direct_records > 0, direct);
    const std::string said = std::to_string(direct_records) + " of them pass between drives and GPU directly";
    EXPECT_EQ(format_plan(*run.plan, {}).find(said) != std::string::npos, direct) << format_plan(*run.plan, {});
    EXPECT_EQ(copies > 0, !direct) << "of states";
    if (c.gpu_fraction == 1.0) {
      EXPECT_EQ(schedule.windows.cpu, direct ? 0 : 3);
    }
    for (int i = 0; i < c.folders; ++i) EXPECT_TRUE(fs::is_empty(folder.path() + "/drive" + std::to_string(i)));
  }
  EXPECT_FALSE(runs[0].digest.empty());
  EXPECT_EQ(runs[1].digest, runs[0].digest);
  EXPECT_EQ(runs[1].losses, runs[0].losses);
  if (on_gpu && on_emulator()) {
    EXPECT_GT(transfers_of_the_stand_in("strata_fake_cufile_writes"), 0);
  }
  int clipped = 0;
  for (const double clip : runs[0].clips) clipped += clip < 1.0;
  EXPECT_EQ(clipped > 0, c.clip > 0.0);
}

std::vector<Case> cases() {
  if (testing::kSanitized) return {{2, 0.5, 1.0, 1.0}};
  return {{1, 1.0, 0.0, 1.0},
          {1, 0.5, 1.0, 1.0},
          {1, 1.0, 1.0, 0.0},
          {2, 1.0, 1.0, 1.0},
          {2, 0.5, 0.0, 1.0},
          {2, 0.5, 1.0, 0.0},
          {1, 1.0, 0.0, 1.0, DType::f32},
          {1, 0.5, 1.0, 1.0, DType::f32, Tier::cpu},
          {2, 1.0, 1.0, 1.0, DType::bf16, Tier::nvme, 2}};
}

INSTANTIATE_TEST_SUITE_P(Processors, GpuDirect,
                         ::testing::Combine(::testing::ValuesIn(testing::processors()), ::testing::ValuesIn(cases())),
                         [](const auto& test) {
                           return std::get<0>(test.param).name + "_" + name_of(std::get<1>(test.param));
                         });

// With the emulator only: what goes wrong.
class GpuDirectFaults : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!on_emulator()) GTEST_SKIP() << "only the library that stands in for cuFile fails when it is told to";
  }
  ~GpuDirectFaults() override { unsetenv("STRATA_FAKE_CUFILE"); }
  RunResult run(const char* wish, const std::string& folder, const testing::GpuMachine* machine = nullptr) {
    setenv("STRATA_FAKE_CUFILE", wish, 1);
    return run_training(config_of({1, 1.0, 0.0, 1.0}, folder, true, true), 1, std::make_shared<FormulaSource>(61), nullptr,
                        machine == nullptr ? &testing::gpu_machines()[0] : machine);
  }
};

TEST_F(GpuDirectFaults, AreOneErrorThatSaysWhatAndWhereAndCodeOne) {
  struct Fault {
    const char* wish;
    std::vector<const char*> parts;
  };
  for (const Fault& fault : std::vector<Fault>{
           {"open", {"nvme.gpu_direct is on", "cuFileDriverOpen: CU_FILE_DRIVER_NOT_INITIALIZED (5001)"}},
           {"handle", {"nvme.gpu_direct is on", "state_rank_00000.bin: cuFileHandleRegister: CU_FILE_IO_NOT_SUPPORTED (5008)"}},
           {"read EIO:3", {"state_rank_00000.bin", "record ", "version ", "read of ", "at offset ", "Input/output error"}},
           {"write EIO:9", {"state_rank_00000.bin", "record ", "version ", "write of ", "at offset ", "Input/output error"}},
           {"read code:3", {"state_rank_00000.bin", "record ", "read of ", "cuFile: CU_FILE_IO_NOT_SUPPORTED (5008)"}}}) {
    SCOPED_TRACE(fault.wish);
    if (testing::kRacesOnly && std::string(fault.wish) != "read EIO:3") continue;
    const TemporaryFolder folder;
    const RunResult result = run(fault.wish, folder.path());
    ASSERT_FALSE(result.status.ok());
    EXPECT_EQ(exit_code(result.status), 1) << result.status.message();
    for (const char* part : fault.parts) EXPECT_THAT(result.status.message(), HasSubstr(part));
  }
}

TEST_F(GpuDirectFaults, ShortTransfersChangeNoBit) {
  if (testing::kRacesOnly) GTEST_SKIP() << "the threads are those of the other tests";
  const TemporaryFolder one, two;
  const RunResult whole = run("", one.path()), shortened = run("short", two.path());
  ASSERT_TRUE(whole.status.ok()) << whole.status.message();
  ASSERT_TRUE(shortened.status.ok()) << shortened.status.message();
  EXPECT_EQ(shortened.digest, whole.digest);
}

TEST_F(GpuDirectFaults, ALibraryThatIsNotThereIsNamed) {
  gpu_emulated::EmulatedDriver::Options options;
  options.file_library = "libcufile-nobody-has.so.0";
  const testing::GpuMachine machine = {
      "without", 1, [&options](int) -> std::unique_ptr<GpuDriver> { return gpu_emulated::make_emulated_driver(options); }};
  const TemporaryFolder folder;
  const RunResult result = run("", folder.path(), &machine);
  EXPECT_EQ(exit_code(result.status), 1);
  EXPECT_THAT(result.status.message(), AllOf(HasSubstr("nvme.gpu_direct is on"), HasSubstr("libcufile-nobody-has.so.0"),
                                             HasSubstr("install GPUDirect Storage")));
}

// A bit of a state is flipped in its file between two steps.
TEST_F(GpuDirectFaults, ADamagedFileStopsTheRun) {
  setenv("STRATA_FAKE_CUFILE", "", 1);
  const TemporaryFolder folder;
  const Config c = config_of({1, 1.0, 0.0, 1.0}, folder.path(), true, true);
  ThreadGroup group(WorldSize{1});
  const std::unique_ptr<Communicator> comm = group.communicator(Rank{0});
  const std::unique_ptr<Environment> environment = Environment::from_communicator(*comm, 1);
  TrainerExtras extras;
  extras.train = std::make_shared<FormulaSource>(61);
  extras.make_gpu = [] { return Result<std::unique_ptr<GpuDriver>>(testing::gpu_machines()[0].make_driver()); };
  extras.make_gpu_communicator = testing::GpuCommunicators().maker();
  auto trainer = Trainer::create(c, *environment, std::move(extras));
  ASSERT_TRUE(trainer.ok()) << trainer.status().message();
  ASSERT_TRUE((*trainer)->step().ok());
  ASSERT_TRUE((*trainer)->save().ok()) << "nothing is in flight";
  {
    std::fstream file(folder.path() + "/drive0/state_rank_00000.bin", std::ios::in | std::ios::out | std::ios::binary);
    for (const std::streamoff slot : {std::streamoff{100}, std::streamoff{49152 + 4096 + 100}}) {
      file.seekg(slot);
      const char byte = static_cast<char>(file.get() ^ 1);
      file.seekp(slot);
      file.put(byte);
    }
    ASSERT_TRUE(file.flush());
  }
  Status status;
  for (int i = 0; i < 3 && status.ok(); ++i) status = (*trainer)->step().status();
  EXPECT_EQ(status.code(), Code::corrupt) << status.message();
  EXPECT_THAT(status.message(), AllOf(HasSubstr("state_rank_00000.bin: record 0, version "), HasSubstr("at offset "),
                                      HasSubstr("its payload has checksum 0x")));
}

TEST(GpuDirectOnTheHost, IsAnErrorOfTheConfiguration) {
  if (!testing::tests_the_host()) GTEST_SKIP() << "the host is not tested here";
  const TemporaryFolder folder;
  Config c = config_of({1, 1.0, 0.0, 1.0}, folder.path(), true, true);
  for (const auto choice : {Config::Device::Choice::host, Config::Device::Choice::automatic}) {
    const bool automatic = choice == Config::Device::Choice::automatic;
    if (automatic && cuda_device_count().ok()) continue;
    c.device.backend = choice;
    ThreadGroup alone(WorldSize{1});
    const std::unique_ptr<Communicator> comm = alone.communicator(Rank{0});
    const std::unique_ptr<Environment> environment = Environment::from_communicator(*comm, 1);
    TrainerExtras extras;
    extras.train = std::make_shared<FormulaSource>(61);
    const Status status = Trainer::create(c, *environment, std::move(extras)).status();
    EXPECT_EQ(exit_code(status), 2);
    EXPECT_THAT(status.message(), HasSubstr(automatic ? "nvme.gpu_direct: is on, but the host computes"
                                                      : "nvme.gpu_direct: is on, but device.backend is host"));
  }
}

}  // namespace
}  // namespace strata
