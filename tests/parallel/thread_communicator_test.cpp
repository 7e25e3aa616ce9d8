// The contract on threads: ThreadGroup, and the shared-memory path of ProcessCommunicator with every rank in one process.
#include "parallel/thread_communicator.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <thread>
#include <tuple>

#include "communicator_contract.h"
#include "parallel/node_channel.h"
#include "parallel/process_communicator.h"

namespace strata {
namespace {

using MakeRanks = std::function<std::vector<std::unique_ptr<Communicator>>(int world, std::chrono::milliseconds timeout)>;

std::vector<std::unique_ptr<Communicator>> thread_ranks(int world, std::chrono::milliseconds timeout) {
  ThreadGroup group({world}, {.timeout = timeout});
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int r = 0; r < world; ++r) ranks.push_back(group.communicator({r}));
  return ranks;
}

std::vector<std::unique_ptr<Communicator>> shared_memory_ranks(int world, std::chrono::milliseconds timeout,
                                                               std::size_t chunk_bytes) {
  const NodeChannel::Shape shape{.ranks = world, .slot_bytes = chunk_bytes, .slots = ProcessCommunicator::kRoundsInFlight};
  auto memory = NodeChannel::create(shape);
  ProcessCommunicator::Group group;
  for (int r = 0; r < world; ++r) group.members.push_back({"here", 0, r});
  group.timeout = timeout;
  group.gather_chunk = chunk_bytes;
  group.reduce_chunk = ProcessCommunicator::reduce_chunk_for(chunk_bytes, world);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int r = 0; r < world; ++r) {
    group.self = {r};
    ranks.push_back(std::make_unique<ProcessCommunicator>(group, std::make_shared<NodeChannel>(*memory, shape, r)));
  }
  return ranks;
}

struct Kind {
  const char* name;
  MakeRanks make;
};
void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }
const Kind kKinds[] = {
    {"Threads", thread_ranks},
    {"SharedMemory4KiB", [](int world, auto timeout) { return shared_memory_ranks(world, timeout, 4096); }},
    {"SharedMemory64KiB", [](int world, auto timeout) { return shared_memory_ranks(world, timeout, 65536); }},
};

void run(std::vector<std::unique_ptr<Communicator>> ranks, void (*body)(Communicator&)) {
  std::vector<std::thread> threads;
  for (auto& rank : ranks) threads.emplace_back([body, comm = std::move(rank)] { body(*comm); });
  for (std::thread& thread : threads) thread.join();
}

class CommunicatorContract : public ::testing::TestWithParam<std::tuple<Kind, int, contract::Case>> {};

TEST_P(CommunicatorContract, Holds) {
  const auto& [kind, world, test] = GetParam();
  run(kind.make(world, std::chrono::seconds(60)), test.run);
}

class CommunicatorFaults : public CommunicatorContract {};

TEST_P(CommunicatorFaults, AreReported) {
  const auto& [kind, world, test] = GetParam();
  run(kind.make(world, contract::kFaultTimeout), test.run);
}

std::string name_of(const ::testing::TestParamInfo<CommunicatorContract::ParamType>& info) {
  return std::string(std::get<0>(info.param).name) + "World" + std::to_string(std::get<1>(info.param)) +
         std::get<2>(info.param).name;
}

INSTANTIATE_TEST_SUITE_P(All, CommunicatorContract,
                         ::testing::Combine(::testing::ValuesIn(kKinds), ::testing::Values(1, 2, 3, 4),
                                            ::testing::ValuesIn(contract::kCases)),
                         name_of);
INSTANTIATE_TEST_SUITE_P(All, CommunicatorFaults,
                         ::testing::Combine(::testing::ValuesIn(kKinds), ::testing::Values(2, 3),
                                            ::testing::ValuesIn(contract::kFaultCases)),
                         name_of);

// Large gathers are copied another way: every misalignment of both ends.
TEST(AllGather, CopiesLargeUnalignedSlices) {
  for (const std::int64_t first : {0, 1, 31, 63, 64}) {
    const std::int64_t n = (std::int64_t{8} << 20) + 77;
    const std::vector<Slice> slices = {{first, n - first}};
    std::vector<std::uint8_t> shard, full(static_cast<std::size_t>(n) + 1, 9);
    for (std::int64_t i = first; i < n; ++i) shard.push_back(static_cast<std::uint8_t>(i * 7 % 251));
    const auto comm = make_single_rank_communicator();
    contract::Lane lane;
    comm->all_gather({.shard = shard.data(), .full = full.data(), .element_size = 1, .slices = slices}, lane.stream);
    ASSERT_TRUE(lane.stream.ref().synchronize().ok());
    EXPECT_TRUE(std::equal(shard.begin(), shard.end(), full.begin() + first));
    EXPECT_EQ(full.back(), 9);
    EXPECT_EQ(std::count(full.begin(), full.begin() + first, 9), first);
  }
}

// A page whose first touch takes `touch`. One at a time.
class SlowPage {
 public:
  enum State { untouched, being_touched, touched };

  explicit SlowPage(std::chrono::milliseconds touch) {
    base_ = static_cast<char*>(::mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    g_base = base_;
    g_touch = touch;
    g_state = untouched;
    struct sigaction action {};
    action.sa_handler = [](int) {
      if (g_state != untouched) ::_exit(3);  // another fault
      g_state = being_touched;
      const timespec time{g_touch.count() / 1000, g_touch.count() % 1000 * 1'000'000};
      ::nanosleep(&time, nullptr);
      g_state = touched;
      ::mprotect(g_base, kBytes, PROT_READ | PROT_WRITE);
    };
    ::sigaction(SIGSEGV, &action, &before_);
  }
  ~SlowPage() {
    ::sigaction(SIGSEGV, &before_, nullptr);
    ::munmap(base_, kBytes);
  }
  SlowPage(const SlowPage&) = delete;
  SlowPage& operator=(const SlowPage&) = delete;
  float* data() const { return reinterpret_cast<float*>(base_); }
  static State state() { return g_state; }

  static constexpr std::size_t kBytes = 4096;

 private:
  inline static char* g_base = nullptr;  // for the signal handler
  inline static std::chrono::milliseconds g_touch{0};
  inline static std::atomic<State> g_state{untouched};
  char* base_ = nullptr;
  struct sigaction before_ {};
};

// Rank 1 reads the others' buffers slowly, while rank 2 aborts or the timeout passes.
class SlowReader : public ::testing::TestWithParam<bool> {};

TEST_P(SlowReader, KeepsTheOthersFromLeavingWithTheirBuffers) {
  const bool aborts = GetParam();
  SlowPage acc(std::chrono::milliseconds(600));
  constexpr std::int64_t n = SlowPage::kBytes / sizeof(float);
  const std::vector<Slice> slices = {{0, 0}, {0, n}, {n, 0}};
  auto ranks = thread_ranks(3, aborts ? std::chrono::seconds(60) : std::chrono::milliseconds(200));
  std::vector<std::thread> threads;
  for (const auto& comm : ranks)
    threads.emplace_back([&, comm = comm.get()] {
      contract::Lane lane;
      const std::vector<float> full(n, static_cast<float>(comm->rank().v + 1));
      comm->reduce_scatter_add(
          {.full = full.data(), .acc = comm->rank().v == 1 ? acc.data() : nullptr, .slices = slices, .overwrite = true},
          lane.stream);
      const Status status = lane.stream.ref().synchronize();
      EXPECT_EQ(SlowPage::state(), SlowPage::touched) << "rank " << comm->rank().v << " left";
      EXPECT_TRUE(status.ok()) << status.message();
    });
  while (SlowPage::state() == SlowPage::untouched) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  if (aborts) ranks[2]->abort("disk full");
  for (std::thread& thread : threads) thread.join();
  for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(acc.data()[i], 6.0f);
  if (aborts) contract::expect_lost(ranks[0]->barrier("the next"), {"disk full"});
}

INSTANTIATE_TEST_SUITE_P(All, SlowReader, ::testing::Bool(), [](const auto& test) { return test.param ? "Abort" : "Timeout"; });

// The last to come must not be content with what the others showed before they gave up.
TEST(ThreadGroup, ARankThatComesAfterTheOthersGaveUpReadsNothingOfTheirs) {
  for (int repeat = 0; repeat < 3; ++repeat) {
    auto ranks = thread_ranks(2, std::chrono::milliseconds(20));
    contract::expect_lost(ranks[0]->barrier("step 7"), {"rank 1", "did not arrive in step 7"});
    contract::expect_lost(ranks[1]->barrier("step 7"), {"rank 0", "gave up"});
  }
}

TEST(SingleRankCommunicator, IsRankZeroOfOne) {
  const auto comm = make_single_rank_communicator();
  EXPECT_EQ(comm->rank().v, 0);
  EXPECT_EQ(comm->size().v, 1);
}

TEST(ThreadGroup, GivesARankOnce) {
  ThreadGroup group({2});
  const auto first = group.communicator({0});
  EXPECT_THROW(group.communicator({0}), ContractViolation);
  EXPECT_THROW(group.communicator({2}), ContractViolation);
}

}  // namespace
}  // namespace strata
