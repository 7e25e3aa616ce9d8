// Ranks as forked processes over shared memory, without MPI: what happens when processes stop or die.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include "communicator_contract.h"
#include "parallel/process_communicator.h"
#include "parallel/process_stat.h"

namespace strata {
namespace {

constexpr std::size_t kChunkBytes = 4096;

std::unique_ptr<Communicator> join(const std::shared_ptr<SharedMemory>& memory, const NodeChannel::Shape& shape, int rank,
                                   std::chrono::milliseconds timeout) {
  ProcessCommunicator::Group group;
  group.self = {rank};
  for (int r = 0; r < shape.ranks; ++r) group.members.push_back({"here", 0, r});
  group.timeout = timeout;
  group.gather_chunk = kChunkBytes;
  group.reduce_chunk = ProcessCommunicator::reduce_chunk_for(kChunkBytes, shape.ranks);
  return std::make_unique<ProcessCommunicator>(std::move(group), std::make_shared<NodeChannel>(memory, shape, rank));
}

// Rank 0 is this process, the others are its children. They end with code 0 unless a check failed in them.
class Processes {
 public:
  Processes(int world, std::chrono::milliseconds timeout, const std::function<void(Communicator&)>& child_body) {
    const NodeChannel::Shape shape{.ranks = world, .slot_bytes = kChunkBytes, .slots = ProcessCommunicator::kRoundsInFlight};
    const std::shared_ptr<SharedMemory> memory = *NodeChannel::create(shape);
    for (int r = 1; r < world; ++r) {
      const pid_t pid = ::fork();
      if (pid == 0) {
        child_body(*join(memory, shape, r, timeout));
        ::_exit(::testing::Test::HasFailure() ? 1 : 0);
      }
      children_.push_back(pid);
    }
    comm_ = join(memory, shape, 0, timeout);
  }
  ~Processes() {
    for (const pid_t pid : children_) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
  }
  Communicator& comm() { return *comm_; }
  pid_t child(int rank) const { return children_[static_cast<std::size_t>(rank - 1)]; }
  void expect_children_to_succeed() {
    for (const pid_t pid : children_) {
      int status = 0;
      ASSERT_EQ(::waitpid(pid, &status, 0), pid);
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    children_.clear();
  }

 private:
  std::vector<pid_t> children_;
  std::unique_ptr<Communicator> comm_;
};

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// The time from which the kernel says that the process is dead, which on a busy machine is long after the signal.
std::chrono::steady_clock::time_point kill_and_wait_for_death(pid_t pid) {
  ::kill(pid, SIGKILL);
  siginfo_t info;
  EXPECT_EQ(::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
  return std::chrono::steady_clock::now();
}

class ForkedRanks : public ::testing::TestWithParam<contract::Case> {};

TEST_P(ForkedRanks, KeepTheContract) {
  Processes processes(3, std::chrono::seconds(60), GetParam().run);
  GetParam().run(processes.comm());
  processes.expect_children_to_succeed();
}

INSTANTIATE_TEST_SUITE_P(All, ForkedRanks, ::testing::ValuesIn(contract::kCases),
                         [](const auto& test) { return std::string(test.param.name); });

// Catches: a liveness check that takes a zombie for alive (the killed child is not reaped here).
TEST(ForkedRanks, KilledRankIsNamedWithinTwoSeconds) {
  Processes processes(3, std::chrono::seconds(60), [](Communicator& comm) {
    EXPECT_TRUE(comm.barrier("start").ok());
    if (comm.rank().v == 1) ::pause();
    contract::expect_lost(comm.barrier("step 7"), {"rank 1", "died during step 7"});
  });
  ASSERT_TRUE(processes.comm().barrier("start").ok());
  const auto death = kill_and_wait_for_death(processes.child(1));
  const Status status = processes.comm().barrier("step 7");
  contract::expect_lost(status, {"rank 1 (pid " + std::to_string(processes.child(1)) + " on host here) died during step 7"});
  EXPECT_LT(seconds_since(death), 2.0);
}

TEST(ForkedRanks, RankKilledInTheMiddleOfTransfersIsNamed) {
  for (int i = 0; i < 8; ++i) {
    const std::int64_t n = 200'000;
    const std::vector<Slice> slices = partition_blocks(n, {2}, 1);
    const auto gather_until_error = [&](Communicator& comm) {
      contract::Lane lane;
      std::vector<float> full(static_cast<std::size_t>(n));
      Status status;
      while (status.ok()) {
        comm.all_gather({.full = full.data(), .slices = slices, .what = "parameters"}, lane.stream);
        status = lane.stream.ref().synchronize();
      }
      return status;
    };
    Processes processes(2, std::chrono::seconds(60), [&](Communicator& comm) {
      if (comm.barrier("start").ok()) (void)gather_until_error(comm);
    });
    ASSERT_TRUE(processes.comm().barrier("start").ok());
    std::chrono::steady_clock::time_point death;
    std::thread killer([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(5 + 7 * i));
      death = kill_and_wait_for_death(processes.child(1));
    });
    const Status status = gather_until_error(processes.comm());
    killer.join();
    contract::expect_lost(status, {"rank 1", "died during parameters"});
    EXPECT_LT(seconds_since(death), 2.0);
  }
}

TEST(ForkedRanks, StoppedRankIsNamedAfterTheTimeout) {
  Processes processes(2, contract::kFaultTimeout, [](Communicator& comm) {
    EXPECT_TRUE(comm.barrier("start").ok());
    ::raise(SIGSTOP);
  });
  ASSERT_TRUE(processes.comm().barrier("start").ok());
  const auto begin = std::chrono::steady_clock::now();
  contract::expect_lost(processes.comm().barrier("step 7"), {"rank 1 (pid ", "did not arrive in step 7 within 0.5 s"});
  EXPECT_LT(seconds_since(begin), 3.0);
}

TEST(ForkedRanks, RankThatExitsIsNamed) {
  Processes processes(2, std::chrono::seconds(60), [](Communicator& comm) { EXPECT_TRUE(comm.barrier("start").ok()); });
  ASSERT_TRUE(processes.comm().barrier("start").ok());
  contract::expect_lost(processes.comm().barrier("step 7"), {"rank 1", "left the group", "step 7"});
}

// A sleeping rank costs nothing: the other cores' work is what the wait is for.
TEST(ForkedRanks, WaitingRankSleeps) {
  Processes processes(2, std::chrono::seconds(60), [](Communicator& comm) {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    EXPECT_TRUE(comm.barrier("barrier").ok());
  });
  const std::clock_t begin = std::clock();
  ASSERT_TRUE(processes.comm().barrier("barrier").ok());
  EXPECT_LT(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC, 0.1);
  processes.expect_children_to_succeed();
}

TEST(SharedMemory, IsFoundByAddressUntilHidden) {
  auto memory = SharedMemory::create(100);
  ASSERT_TRUE(memory.ok());
  (*memory)->bytes()[99] = std::byte{42};
  SharedMemory::Address address = (*memory)->address();
  auto other = SharedMemory::open(address);
  ASSERT_TRUE(other.ok()) << other.status().message();
  EXPECT_EQ((*other)->bytes()[99], std::byte{42});
  ++address.cookie;
  EXPECT_FALSE(SharedMemory::open(address).ok());
  --address.cookie;
  (*memory)->hide();
  EXPECT_FALSE(SharedMemory::open(address).ok());
}

TEST(ProcessStat, TellsTheDeadFromTheLiving) {
  const auto self = read_process(::getpid());
  ASSERT_TRUE(self.has_value());
  EXPECT_FALSE(process_is_dead(::getpid(), self->start_time));
  EXPECT_FALSE(process_is_dead(::getpid(), 0));
  EXPECT_TRUE(process_is_dead(::getpid(), self->start_time + 1)) << "another process with this number";
}

}  // namespace
}  // namespace strata
