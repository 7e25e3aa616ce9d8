// The NCCL communicator over emulated GPUs and an emulated NCCL, one rank a thread: the contract of every communicator, and
// what only NCCL can do wrong.
#include "parallel/nccl_communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <thread>
#include <tuple>

#include "../parallel/communicator_contract.h"
#include "parallel/gpu_kernels.h"
#include "parallel/thread_communicator.h"
#include "runtime/gpu/kernel_table.h"
#include "tests/emulator/emulated_driver.h"
#include "tests/emulator/nccl_emulated.h"

namespace strata {
namespace {

using gpu_emulated::EmulatedNccl;
using std::chrono::milliseconds;

std::unique_ptr<GpuDriver> make_gpu() {
  static constexpr GpuKernels kNone{};
  auto driver = std::make_unique<gpu_emulated::EmulatedDriver>(kNone);
  driver->add_table(gpu_emulated::parallel_kernel_table());
  return driver;
}

// What one rank has.
struct Gpu {
  Device device{make_gpu(), 1};
};

class DeviceBytes {
 public:
  DeviceBytes(Device& device, std::size_t bytes)
      : gpu_(device.gpu()), data_(*gpu_.allocate_device(std::max<std::size_t>(1, bytes))) {}
  ~DeviceBytes() { gpu_.free_device(data_); }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  std::byte* data() const { return data_; }
  float* floats() const { return reinterpret_cast<float*>(data_); }

 private:
  GpuDriver& gpu_;
  std::byte* data_;
};

constexpr std::size_t kScratch = 8192;

struct GpuStream {
  explicit GpuStream(Device& device) : scratch(device, kScratch), stream(device, "communication") {
    stream.set_scratch({scratch.data(), kScratch});
  }
  DeviceBytes scratch;
  Stream stream;
};

// Gives host code that uses a communicator one that goes through device memory.
class ThroughDevice final : public Communicator {
 public:
  ThroughDevice(std::unique_ptr<Communicator> nccl, Device& device) : nccl_(std::move(nccl)), device_(device), lane_(device) {}
  Rank rank() const override { return nccl_->rank(); }
  WorldSize size() const override { return nccl_->size(); }
  Result<std::unique_ptr<Communicator>> duplicate() override {
    STRATA_ASSIGN_OR_RETURN(auto copy, nccl_->duplicate());
    return std::unique_ptr<Communicator>(std::make_unique<ThroughDevice>(std::move(copy), device_));
  }
  Status barrier(const char* what) override { return nccl_->barrier(what); }
  Result<std::vector<std::vector<std::byte>>> gather_all(std::span<const std::byte> mine, const char* what) override {
    return nccl_->gather_all(mine, what);
  }
  Status broadcast(std::span<std::byte> bytes, Rank root, const char* what) override {
    return nccl_->broadcast(bytes, root, what);
  }
  void abort(const std::string& reason) override { nccl_->abort(reason); }

 protected:
  Status do_all_gather(const AllGatherArgs& args) override {
    const std::size_t bytes = extent(args.slices) * args.element_size;
    const Slice mine = args.slices[static_cast<std::size_t>(rank().v)];
    const std::size_t shard_bytes = static_cast<std::size_t>(mine.count) * args.element_size;
    DeviceBytes full(device_, bytes), shard(device_, shard_bytes);
    copy_async(args.full, full.data(), bytes, lane_.stream);
    if (args.shard != nullptr) copy_async(args.shard, shard.data(), shard_bytes, lane_.stream);
    AllGatherArgs on_device = args;
    on_device.full = full.data();
    if (args.shard != nullptr) on_device.shard = shard.data();
    nccl_->all_gather(on_device, lane_.stream);
    copy_async(full.data(), args.full, bytes, lane_.stream);
    return lane_.stream.ref().synchronize();
  }
  Status do_reduce_scatter_add(const ReduceScatterArgs& args) override {
    const std::size_t bytes = extent(args.slices) * sizeof(float);
    const auto acc_bytes = static_cast<std::size_t>(args.slices[static_cast<std::size_t>(rank().v)].count) * sizeof(float);
    DeviceBytes full(device_, bytes), acc(device_, acc_bytes);
    copy_async(args.full, full.data(), bytes, lane_.stream);
    copy_async(args.acc, acc.data(), acc_bytes, lane_.stream);
    ReduceScatterArgs on_device = args;
    on_device.full = full.floats();
    on_device.acc = acc.floats();
    nccl_->reduce_scatter_add(on_device, lane_.stream);
    copy_async(acc.data(), args.acc, acc_bytes, lane_.stream);
    return lane_.stream.ref().synchronize();
  }

 private:
  static std::size_t extent(std::span<const Slice> slices) {
    std::int64_t end = 0;
    for (const Slice& slice : slices) end = std::max(end, slice.end());
    return static_cast<std::size_t>(end);
  }
  const std::unique_ptr<Communicator> nccl_;
  Device& device_;
  GpuStream lane_;
};

NcclOptions options(milliseconds timeout, milliseconds interval = milliseconds(10)) {
  return {.axis = "dp",
          .timeout = timeout,
          .interval = interval,
          .scratch_bytes = kScratch,
          .connect_bytes = timeout < std::chrono::seconds(1) ? 1024u : 65536u};
}

// Ranks that are threads, each with a GPU.
class World {
 public:
  World(int size, milliseconds timeout, milliseconds interval = milliseconds(10))
      : size_(size), options_(options(timeout, interval)), group_({size}, {.timeout = timeout}) {
    for (int r = 0; r < size; ++r) gpus_.push_back(std::make_unique<Gpu>());
  }

  Result<std::unique_ptr<Communicator>> make(int rank) {
    return make_nccl_communicator(group_.communicator({rank}), size_ > 1 ? nccl_ : nullptr, device(rank).gpu(), options_);
  }
  using Body = std::function<void(std::unique_ptr<Communicator>, Device&)>;
  void run(const Body& body) {
    run_ranks([&](int rank) {
      auto made = make(rank);
      ASSERT_TRUE(made.ok()) << made.status().message();
      body(std::move(*made), device(rank));
    });
  }
  void run_ranks(const std::function<void(int rank)>& body) const {
    std::vector<std::thread> threads;
    for (int r = 0; r < size_; ++r) threads.emplace_back([&, r] { body(r); });
    for (std::thread& thread : threads) thread.join();
  }
  Device& device(int rank) { return gpus_[static_cast<std::size_t>(rank)]->device; }
  EmulatedNccl& nccl() { return *nccl_; }
  ThreadGroup& group() { return group_; }

 private:
  const int size_;
  const NcclOptions options_;
  ThreadGroup group_;
  const std::shared_ptr<EmulatedNccl> nccl_ = std::make_shared<EmulatedNccl>();
  std::vector<std::unique_ptr<Gpu>> gpus_;
};

class NcclContract : public ::testing::TestWithParam<std::tuple<int, contract::Case>> {};

TEST_P(NcclContract, Holds) {
  const auto& [size, test] = GetParam();
  World(size, std::chrono::seconds(60)).run([run = test.run](std::unique_ptr<Communicator> comm, Device& device) {
    ThroughDevice on_device(std::move(comm), device);
    run(on_device);
  });
}

class NcclFaults : public NcclContract {};

TEST_P(NcclFaults, AreReported) {
  const auto& [size, test] = GetParam();
  World(size, contract::kFaultTimeout).run([run = test.run](std::unique_ptr<Communicator> comm, Device& device) {
    ThroughDevice on_device(std::move(comm), device);
    run(on_device);
  });
}

std::string name_of(const ::testing::TestParamInfo<NcclContract::ParamType>& info) {
  return "World" + std::to_string(std::get<0>(info.param)) + std::get<1>(info.param).name;
}
INSTANTIATE_TEST_SUITE_P(All, NcclContract,
                         ::testing::Combine(::testing::Values(1, 2, 3, 4), ::testing::ValuesIn(contract::kCases)), name_of);
INSTANTIATE_TEST_SUITE_P(All, NcclFaults,
                         ::testing::Combine(::testing::Values(2, 3), ::testing::ValuesIn(contract::kFaultCases)), name_of);

// One reduction of `n` elements on the GPU.
struct Reduction {
  Reduction(Communicator& comm, Device& device, std::int64_t n)
      : slices(partition_blocks(n, comm.size(), 1)),
        full(device, static_cast<std::size_t>(n) * sizeof(float)),
        acc(device, static_cast<std::size_t>(n) * sizeof(float)),
        lane(device) {
    lane.stream.ref().queue().zero(full.data(), static_cast<std::size_t>(n) * sizeof(float));
  }
  void enqueue(Communicator& comm, const char* what) {
    comm.reduce_scatter_add({.full = full.floats(), .acc = acc.floats(), .slices = slices, .overwrite = true, .what = what},
                            lane.stream);
  }
  Status finish() { return lane.stream.ref().synchronize(); }

  std::vector<Slice> slices;
  DeviceBytes full, acc;
  GpuStream lane;  // waits before the memory goes
};

// Copies, sums and gathers follow each other in the queue, which alone orders them.
TEST(NcclCommunicator, IssuesAheadOfTheGpu) {
  constexpr std::int64_t n = 3001;
  World(3, std::chrono::seconds(60)).run([](std::unique_ptr<Communicator> comm, Device& device) {
    Reduction reduction(*comm, device, n);
    std::vector<std::vector<float>> inputs;
    for (int i = 0; i < 20; ++i) inputs.push_back(contract::contribution(comm->rank().v + i, n));
    std::vector<float> sums(n);
    DeviceBytes gathered(device, n * sizeof(float));
    for (const std::vector<float>& input : inputs) {
      copy_async(input.data(), reduction.full.data(), n * sizeof(float), reduction.lane.stream);
      comm->reduce_scatter_add({.full = reduction.full.floats(),
                                .acc = reduction.acc.floats(),
                                .slices = reduction.slices,
                                .overwrite = &input == inputs.data()},
                               reduction.lane.stream);
    }
    comm->all_gather({.shard = reduction.acc.data(), .full = gathered.data(), .slices = reduction.slices},
                     reduction.lane.stream);
    copy_async(gathered.data(), sums.data(), n * sizeof(float), reduction.lane.stream);
    const Status status = reduction.finish();
    ASSERT_TRUE(status.ok()) << status.message();
    for (std::int64_t k = 0; k < n; ++k) {
      float expected = 0.0f;
      for (int i = 0; i < 20; ++i)
        for (int r = 0; r < 3; ++r) expected = i == 0 && r == 0 ? contract::value(0, k) : expected + contract::value(r + i, k);
      ASSERT_EQ(sums[static_cast<std::size_t>(k)], expected) << k;
    }
  });
}

// One thread a rank: issuing the first operation of a duplicate must not wait for a rank that issues another's.
TEST(NcclCommunicator, IssuesOnDuplicatesInAnyOrder) {
  World(2, std::chrono::seconds(30)).run([](std::unique_ptr<Communicator> comm, Device& device) {
    const auto copy = comm->duplicate();
    ASSERT_TRUE(copy.ok()) << copy.status().message();
    Reduction first(*comm, device, 1000), second(**copy, device, 1000);
    if (comm->rank().v == 0) first.enqueue(*comm, "first");
    second.enqueue(**copy, "second");
    if (comm->rank().v == 1) first.enqueue(*comm, "first");
    const Status status = first.finish();
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(second.finish().ok());
  });
}

TEST(NcclCommunicator, LeavesHostStreamsToTheHostCommunicator) {
  World world(2, std::chrono::seconds(60));
  world.run([&](std::unique_ptr<Communicator> comm, Device& device) {
    ASSERT_TRUE(comm->barrier("start").ok());
    const int before = world.nccl().completed();
    Stream stream(device, "host", StreamKind::host);
    const std::vector<Slice> slices = {{0, 1}, {1, 1}};
    int values[2] = {-1, -1};
    values[comm->rank().v] = comm->rank().v;
    comm->all_gather({.full = values, .slices = slices}, stream);
    ASSERT_TRUE(stream.ref().synchronize().ok());
    EXPECT_EQ(values[0], 0);
    EXPECT_EQ(values[1], 1);
    EXPECT_EQ(world.nccl().completed(), before);
  });
}

class LostRank : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(World, LostRank, ::testing::Values(2, 3, 4));

// Its thread stands still; its communicator and its monitor live.
TEST_P(LostRank, IsNamedWithGroupAndOperationWithinTheTimeout) {
  const int size = GetParam();
  World world(size, contract::kFaultTimeout);
  std::atomic<int> ended{0};
  world.run([&](std::unique_ptr<Communicator> comm, Device& device) {
    if (contract::is_last(*comm)) {
      while (ended < size - 1) std::this_thread::sleep_for(milliseconds(1));
      return;
    }
    const auto begin = std::chrono::steady_clock::now();
    Reduction reduction(*comm, device, 1000);
    reduction.enqueue(*comm, "unit 3 gradients");
    reduction.enqueue(*comm, "unit 2 gradients");
    const Status status = reduction.finish();
    contract::expect_lost(status, {contract::name_of_last(*comm), "NCCL group dp", "unit 3 gradients"});
    EXPECT_GE(std::chrono::steady_clock::now() - begin, contract::kFaultTimeout * 9 / 10);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, 10 * contract::kFaultTimeout);
    EXPECT_EQ(comm->barrier("later").message(), status.message());
    Reduction later(*comm, device, 10);
    later.enqueue(*comm, "unit 1 gradients");
    EXPECT_EQ(later.finish().message(), status.message());
    ++ended;
  });
}

// Long before the timeout.
TEST_P(LostRank, ThatLeavesIsNamedAtOnce) {
  World world(GetParam(), std::chrono::seconds(600));
  world.run([&](std::unique_ptr<Communicator> comm, Device& device) {
    if (contract::is_last(*comm)) return;
    Reduction reduction(*comm, device, 1000);
    reduction.enqueue(*comm, "unit 3 gradients");
    contract::expect_lost(reduction.finish(), {contract::name_of_last(*comm), "NCCL group dp", "unit 3 gradients"});
  });
}

TEST_P(LostRank, ThatGivesUpTellsPendingOperationsWhy) {
  World world(GetParam(), std::chrono::seconds(600));
  world.run([&](std::unique_ptr<Communicator> comm, Device& device) {
    Reduction reduction(*comm, device, 1000);
    (void)comm->barrier("everybody is connected");  // which the abort of a faster rank may already end
    if (contract::is_last(*comm)) {
      comm->abort("disk full");
    } else {
      reduction.enqueue(*comm, "unit 3 gradients");
      contract::expect_lost(reduction.finish(), {contract::name_of_last(*comm), "gave up", "disk full"});
    }
    contract::expect_lost(comm->barrier("later"), {"gave up", "disk full"});
  });
}

// A GPU that computes for long is not a lost rank: the time counts from where the operation begins.
TEST(NcclCommunicator, DoesNotCountTheTimeBeforeAnOperationBegins) {
  World world(2, milliseconds(500));
  world.run([&](std::unique_ptr<Communicator> comm, Device& device) {
    const auto gate = *device.gpu().make_counter();
    Reduction reduction(*comm, device, 1000);
    reduction.lane.stream.ref().queue().wait(*gate, 1);
    reduction.enqueue(*comm, "unit 3 gradients");
    std::this_thread::sleep_for(milliseconds(comm->rank().v == 0 ? 800 : 1000));
    gate->set(1);
    const Status status = reduction.finish();
    EXPECT_TRUE(status.ok()) << status.message();
  });
}

TEST(NcclCommunicator, SaysThatAGpuIsStillBusy) {
  World world(2, milliseconds(300));
  std::atomic<bool> ended{false};
  world.run([&](std::unique_ptr<Communicator> comm, Device& device) {
    const auto gate = *device.gpu().make_counter();
    Reduction reduction(*comm, device, 1000);
    if (comm->rank().v == 1) reduction.lane.stream.ref().queue().wait(*gate, 1);
    reduction.enqueue(*comm, "unit 3 gradients");
    if (comm->rank().v == 0) {
      contract::expect_lost(reduction.finish(), {"rank 1", "its GPU is still busy", "unit 3 gradients"});
      ended = true;
      return;
    }
    while (!ended) std::this_thread::sleep_for(milliseconds(1));
    gate->set(1);
    contract::expect_lost(reduction.finish(), {"gave up", "unit 3 gradients"});
  });
}

TEST(NcclCommunicator, ReportsOtherSizes) {
  World world(2, std::chrono::seconds(600));
  world.run([&](std::unique_ptr<Communicator> comm, Device& device) {
    Reduction reduction(*comm, device, contract::is_last(*comm) ? 1000 : 500);
    reduction.enqueue(*comm, "unit 3 gradients");
    const Status status = reduction.finish();
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(status.message(), ::testing::HasSubstr("went apart"));
  });
}

// Sizes that NCCL cannot tell apart: nothing hangs, and still it is noticed.
TEST(NcclCommunicator, ReportsOtherOperationsThatEnd) {
  World world(2, std::chrono::seconds(600), milliseconds(300));  // they have ended when the ranks next compare
  world.run([&](std::unique_ptr<Communicator> comm, Device& device) {
    Reduction reduction(*comm, device, 1000);
    const std::vector<Slice> shifted = {{contract::is_last(*comm) ? 1 : 0, 10}, {500, 10}};
    comm->reduce_scatter_add(
        {.full = reduction.full.floats(), .acc = reduction.acc.floats(), .slices = shifted, .overwrite = true},
        reduction.lane.stream);
    Status status;
    for (int i = 0; i < 1000 && status.ok(); ++i) {
      std::this_thread::sleep_for(milliseconds(5));
      status = comm->barrier("later");
    }
    EXPECT_THAT(status.message(), ::testing::HasSubstr("went apart"));
  });
}

TEST(NcclCommunicator, PassesOnWhatNcclReports) {
  World world(2, std::chrono::seconds(600));
  world.run([&](std::unique_ptr<Communicator> comm, Device& device) {
    ASSERT_TRUE(comm->barrier("start").ok());
    Reduction reduction(*comm, device, 1000);
    if (comm->rank().v == 1) {
      world.nccl().break_connections({1}, {Code::internal, "the cable is cut"});
      while (comm->barrier("later").ok()) std::this_thread::sleep_for(milliseconds(1));
      return;
    }
    reduction.enqueue(*comm, "unit 3 gradients");
    const Status status = reduction.finish();
    EXPECT_THAT(status.message(), ::testing::HasSubstr("the cable is cut"));
  });
}

TEST(MakeNcclCommunicator, FailsOnEveryRankWhereOneCannotConnect) {
  World world(3, std::chrono::seconds(600));
  world.nccl().break_connections({1}, {Code::internal, "the cable is cut"});
  world.run_ranks([&](int rank) {
    const auto made = world.make(rank);
    ASSERT_FALSE(made.ok());
    EXPECT_THAT(made.status().message(), ::testing::HasSubstr("the cable is cut"));
  });
}

TEST(MakeNcclCommunicator, RefusesOptionsThatDiffer) {
  World world(2, std::chrono::seconds(60));
  world.run_ranks([&](int rank) {
    NcclOptions mine = options(std::chrono::seconds(60));
    mine.scratch_bytes += static_cast<std::size_t>(rank) * 4096;
    const auto made = make_nccl_communicator(world.group().communicator({rank}), std::make_shared<EmulatedNccl>(),
                                             world.device(rank).gpu(), mine);
    ASSERT_FALSE(made.ok());
    EXPECT_EQ(made.status().code(), Code::invalid_argument);
    EXPECT_THAT(made.status().message(), ::testing::HasSubstr("rank 1"));
  });
}

}  // namespace
}  // namespace strata
