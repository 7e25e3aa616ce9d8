#include "runtime/cores.h"

#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "runtime/arena.h"
#include "runtime/stream.h"

namespace strata {
namespace {

CoreMap two_sockets() { return CoreMap::synthetic("package:2 numa:1 core:4 pu:2").value(); }

TEST(CoreMap, CountsPhysicalCoresAndNodes) {
  const CoreMap map = two_sockets();
  EXPECT_EQ(map.cores(), 8);
  EXPECT_EQ(map.cores_of_machine(), 8);
  EXPECT_EQ(map.nodes(), 2);
}

TEST(CoreMap, CountsACoreOfWhichOneThreadMayBeUsed) {
  const CoreMap map = CoreMap::synthetic("package:2 numa:1 core:4 pu:2", "3-5").value();  // a half, and a whole core
  EXPECT_EQ(map.cores(), 2);
  EXPECT_EQ(map.cores_of_machine(), 8);
  EXPECT_EQ(map.nodes(), 1);
  EXPECT_EQ(map.share(0, 1).describe(), "hardware threads 3-5, NUMA node 0");
  EXPECT_TRUE(map.share(0, 1).is_a_part());  // the other node's memory is farther
}

TEST(CoreMap, SaysWhatItCannotRead) {
  EXPECT_FALSE(CoreMap::synthetic("core:nonsense").ok());
  EXPECT_EQ(CoreMap::synthetic("core:4 pu:1", "9").status().message(), "hwloc finds no core that may be used");
}

TEST(CoreShare, RanksGetNeighboursNodeByNode) {
  const CoreMap map = two_sockets();
  EXPECT_EQ(map.share(0, 2).describe(), "hardware threads 0-7, NUMA node 0");
  EXPECT_EQ(map.share(1, 2).describe(), "hardware threads 8-15, NUMA node 1");
  EXPECT_EQ(map.share(2, 4).describe(), "hardware threads 8-11, NUMA node 1");
  EXPECT_EQ(map.share(0, 1).describe(), "hardware threads 0-15, NUMA nodes 0-1");
  EXPECT_EQ(map.share(0, 1).nodes(), (std::vector<int>{0, 1}));
}

TEST(CoreShare, SharesAreDisjointAndLeaveNoCore) {
  const CoreMap map = two_sockets();
  for (int ranks = 1; ranks <= 8; ++ranks) {
    int cores = 0;
    std::set<std::string> different;
    for (int rank = 0; rank < ranks; ++rank) {
      const CoreShare share = map.share(rank, ranks);
      EXPECT_GE(share.cores(), 8 / ranks);
      cores += share.cores();
      different.insert(share.describe());
    }
    EXPECT_EQ(cores, 8) << ranks;
    EXPECT_EQ(different.size(), static_cast<std::size_t>(ranks));
  }
}

TEST(CoreShare, MoreRanksThanCoresHaveAllOfThem) {
  const CoreMap map = CoreMap::synthetic("core:2 pu:1").value();
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(map.share(rank, 3).cores(), 2);
    EXPECT_FALSE(map.share(rank, 3).is_a_part());
  }
  EXPECT_TRUE(map.share(0, 2).is_a_part());
}

TEST(CoreShare, FastMemoryBesideTheSameCoresIsNotForEverything) {
  const CoreMap map = CoreMap::synthetic("package:2 [numa] [numa] core:2 pu:1").value();
  EXPECT_EQ(map.nodes(), 2);
  EXPECT_EQ(map.share(0, 2).nodes().size(), 1u);
}

// A share of this machine that is not all of it.
class HalfOfThisMachine : public ::testing::Test {
 protected:
  void SetUp() override {
    const CoreMap map = CoreMap::of_this_machine().value();
    if (map.cores() < 2) GTEST_SKIP() << "this machine has one core";
    second_ = std::make_shared<const CoreShare>(map.share(1, 2));
    if (const Status tried = second_->try_out(); !tried.ok()) GTEST_SKIP() << tried.message();
  }
  static std::string this_thread() { return CoreMap::of_this_machine().value().share(0, 1).describe(); }

  std::shared_ptr<const CoreShare> second_;
};

TEST_F(HalfOfThisMachine, TryingItOutLeavesTheThreadAlone) {
  const std::string before = this_thread();
  ASSERT_TRUE(second_->try_out().ok());
  EXPECT_EQ(this_thread(), before);
}

TEST_F(HalfOfThisMachine, PoolAndStreamThreadsStayThere) {
  Device device(Backend::host, HostThreads(2, second_));
  Stream stream(device, "bound");
  const std::thread::id here = std::this_thread::get_id();
  const std::string caller = this_thread();
  std::atomic<int> together{0};
  std::vector<std::string> where(2);
  std::vector<std::thread::id> who(2);
  stream.ref().enqueue("look", [&] {
    device.pool().parallel_for(2, [&](std::int64_t i) {
      ++together;
      while (together < 2) std::this_thread::yield();  // so that both threads of the pool take one
      where[static_cast<std::size_t>(i)] = this_thread();
      who[static_cast<std::size_t>(i)] = std::this_thread::get_id();
    });
    return Status();
  });
  ASSERT_TRUE(stream.ref().synchronize().ok());
  EXPECT_NE(who[0], who[1]);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(where[i], second_->describe());
    EXPECT_NE(who[i], here);
  }
  EXPECT_EQ(this_thread(), caller);
}

int policy_at(const void* address) {
  int policy = -1;
  if (::syscall(SYS_get_mempolicy, &policy, nullptr, 0, address, MPOL_F_ADDR) != 0) return -1;
  return policy & ~MPOL_MODE_FLAGS;
}

TEST_F(HalfOfThisMachine, ArenasOfADeviceArePlacedBesideItsCores) {
  if (policy_at(nullptr) < 0 && errno == ENOSYS) GTEST_SKIP() << "this kernel knows no memory policies";
  const Device bound(Backend::host, HostThreads(1, second_));
  TierArena arena(Tier::cpu, 1 << 20, bound);
  const Buffer placed = arena.allocate(1 << 20, Category::other, "placed").value();
  EXPECT_NE(policy_at(placed.data()), MPOL_DEFAULT);
  const Device free(Backend::host, 1);
  TierArena other(Tier::cpu, 1 << 20, free);
  const Buffer anywhere = other.allocate(1 << 20, Category::other, "anywhere").value();
  EXPECT_EQ(policy_at(anywhere.data()), MPOL_DEFAULT);
}

int policy_of_this_thread() {
  int policy = -1;
  (void)::syscall(SYS_get_mempolicy, &policy, nullptr, 0, nullptr, 0);
  return policy & ~MPOL_MODE_FLAGS;
}

TEST_F(HalfOfThisMachine, WhatALibraryTouchesIsPlacedToo) {
  const int before = policy_of_this_thread();
  {
    const TouchBeside touch(second_.get());
    EXPECT_NE(policy_of_this_thread(), before);
  }
  EXPECT_EQ(policy_of_this_thread(), before);
  const TouchBeside nothing(nullptr);
  EXPECT_EQ(policy_of_this_thread(), before);
}

TEST(HostThreads, AreOneForEachCoreOfAPart) {
  const int cores = usable_cores();
  EXPECT_EQ(host_threads(0, 0, 1, true).count, cores);
  EXPECT_EQ(host_threads(0, 1, 2, true).count, std::max(1, cores / 2));
  EXPECT_EQ(host_threads(5, 0, 1, true).count, 5);
  EXPECT_EQ(host_threads(0, 0, 2, false).cores, nullptr);
  EXPECT_EQ(host_threads(0, 0, cores + 1, true).count, 1);
}

}  // namespace
}  // namespace strata
