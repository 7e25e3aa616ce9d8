// What every Communicator must do (parallel/communicator.h), written once and run on threads, on forked processes and on MPI.
// Each case is called by every rank of a fresh group with its communicator.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/partition.h"

namespace strata::contract {

inline std::uint32_t mixed(std::uint32_t a, std::uint32_t b) {
  std::uint64_t x = (static_cast<std::uint64_t>(a) << 32 | b) + 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return static_cast<std::uint32_t>(x >> 32);
}

// Magnitudes from 2^-12 to 2^12 and both signs: sums of three such numbers nearly always depend on their order.
inline float value(int rank, std::int64_t i) {
  const std::uint32_t bits = mixed(static_cast<std::uint32_t>(rank + 1), static_cast<std::uint32_t>(i));
  const float fraction = 1.0f + static_cast<float>(bits & 0xffffu) / 65536.0f;
  const int exponent = static_cast<int>((bits >> 16) % 25) - 12;
  return ((bits >> 31) != 0 ? -1.0f : 1.0f) * std::ldexp(fraction, exponent);
}

inline std::vector<float> contribution(int rank, std::int64_t n) {
  std::vector<float> x;
  for (std::int64_t i = 0; i < n; ++i) x.push_back(value(rank, i));
  return x;
}

// Ways to cut n elements over the ranks: even, uneven, in reverse order, all to one rank, with a gap between slices.
inline std::vector<std::vector<Slice>> partitions(std::int64_t n, int world) {
  std::vector<std::vector<Slice>> all = {partition_blocks(n, {world}, 1), partition_blocks(n, {world}, 1000)};
  std::vector<Slice> reversed(all[0].rbegin(), all[0].rend());
  all.push_back(reversed);
  std::vector<Slice> one(static_cast<std::size_t>(world));
  one.back() = {0, n};
  all.push_back(one);
  std::vector<Slice> gaps = all[0];
  for (Slice& slice : gaps)
    if (slice.count > 1) slice = {slice.first + 1, slice.count - 1};
  all.push_back(gaps);
  return all;
}

// Chunks are 4 KiB and more in these tests: the last ones take many rounds.
inline const std::vector<std::int64_t> kSizes = {0, 1, 2, 3, 7, 1009, 4096, 30011};

struct Lane {
  Device device{Backend::host, 1};
  Stream stream{device, "communication"};
};

template <class T>
void all_gathers(Communicator& comm, StreamRef stream, bool in_place) {
  const int self = comm.rank().v;
  for (const std::int64_t n : kSizes)
    for (const std::vector<Slice>& slices : partitions(n, comm.size().v)) {
      const Slice mine = slices[static_cast<std::size_t>(self)];
      const auto element = [](int rank, std::int64_t i) {
        return static_cast<T>(mixed(static_cast<std::uint32_t>(rank), static_cast<std::uint32_t>(i)));
      };
      std::vector<T> expected(static_cast<std::size_t>(n), T{7}), full(static_cast<std::size_t>(n), T{7}), shard;
      for (int r = 0; r < comm.size().v; ++r)
        for (std::int64_t i = slices[static_cast<std::size_t>(r)].first; i < slices[static_cast<std::size_t>(r)].end(); ++i)
          expected[static_cast<std::size_t>(i)] = element(r, i);
      for (std::int64_t i = mine.first; i < mine.end(); ++i) {
        shard.push_back(element(self, i));
        if (in_place) full[static_cast<std::size_t>(i)] = shard.back();
      }
      shard.push_back(T{});  // never an empty vector: null means in place
      comm.all_gather(
          {.shard = in_place ? nullptr : shard.data(), .full = full.data(), .element_size = sizeof(T), .slices = slices},
          stream);
      const Status status = stream.synchronize();
      ASSERT_TRUE(status.ok()) << status.message();
      ASSERT_EQ(full, expected) << n << " elements, in place " << in_place;
    }
}

inline void all_gather_collects_every_slice(Communicator& comm) {
  Lane lane;
  for (const bool in_place : {false, true}) {
    all_gathers<std::uint32_t>(comm, lane.stream, in_place);
    all_gathers<std::uint16_t>(comm, lane.stream, in_place);
  }
}

// The reference is the definition: one addition after the other, by rank.
inline std::vector<float> sum_by_rank(int world, Slice slice, float start, bool overwrite) {
  std::vector<float> sums;
  for (std::int64_t i = slice.first; i < slice.end(); ++i) {
    float sum = overwrite ? value(0, i) : start + value(0, i);
    for (int r = 1; r < world; ++r) sum += value(r, i);
    sums.push_back(sum);
  }
  return sums;
}

inline void reduce_scatter_adds_in_rank_order(Communicator& comm) {
  Lane lane;
  for (const std::int64_t n : kSizes) {
    const std::vector<float> full = contribution(comm.rank().v, n);
    for (const std::vector<Slice>& slices : partitions(n, comm.size().v))
      for (const bool overwrite : {false, true}) {
        const Slice mine = slices[static_cast<std::size_t>(comm.rank().v)];
        std::vector<float> acc(static_cast<std::size_t>(mine.count), overwrite ? NAN : 0.1f);
        comm.reduce_scatter_add({.full = full.data(), .acc = acc.data(), .slices = slices, .overwrite = overwrite},
                                lane.stream);
        const Status status = lane.stream.ref().synchronize();
        ASSERT_TRUE(status.ok()) << status.message();
        const std::vector<float> expected = sum_by_rank(comm.size().v, mine, 0.1f, overwrite);
        ASSERT_TRUE(acc.empty() || std::memcmp(acc.data(), expected.data(), acc.size() * sizeof(float)) == 0)
            << n << " elements, overwrite " << overwrite;
      }
  }
}

inline void gather_all_returns_bytes_by_rank(Communicator& comm) {
  for (const std::size_t unit : {std::size_t{0}, std::size_t{1}, std::size_t{10007}}) {
    const auto bytes_of = [unit](int r) {
      return std::vector<std::byte>(unit * static_cast<std::size_t>(r), static_cast<std::byte>(r + 1));
    };
    const auto gathered = comm.gather_all(bytes_of(comm.rank().v), "gather_all");
    ASSERT_TRUE(gathered.ok()) << gathered.status().message();
    ASSERT_EQ(gathered->size(), static_cast<std::size_t>(comm.size().v));
    for (int r = 0; r < comm.size().v; ++r) EXPECT_EQ((*gathered)[static_cast<std::size_t>(r)], bytes_of(r));
  }
}

inline void broadcast_gives_the_roots_bytes(Communicator& comm) {
  for (int root = 0; root < comm.size().v; ++root)
    for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{100003}}) {
      std::vector<std::byte> bytes(n, static_cast<std::byte>(comm.rank().v + 1));
      const Status status = comm.broadcast(bytes, {root}, "broadcast");
      ASSERT_TRUE(status.ok()) << status.message();
      EXPECT_EQ(bytes, std::vector<std::byte>(n, static_cast<std::byte>(root + 1)));
    }
}

// No rank leaves before the last has come. The monotonic clock is one for all processes of a machine.
inline void barrier_waits_for_the_last_rank(Communicator& comm) {
  const auto now = [] { return std::chrono::steady_clock::now().time_since_epoch().count(); };
  for (int late = 0; late < comm.size().v; ++late) {
    if (comm.rank().v == late) std::this_thread::sleep_for(std::chrono::milliseconds(30));
    const auto entered = now();
    ASSERT_TRUE(comm.barrier("barrier").ok());
    const auto left = now();
    const auto all_entered = comm.gather_all(std::as_bytes(std::span(&entered, 1)), "times");
    ASSERT_TRUE(all_entered.ok());
    for (const std::vector<std::byte>& bytes : *all_entered) {
      auto other = entered;
      std::memcpy(&other, bytes.data(), sizeof(other));
      EXPECT_GE(left, other);
    }
  }
}

// Two streams a rank, enqueued in an order that differs between ranks: independent channels must not wait for each other.
inline void duplicates_work_side_by_side(Communicator& comm) {
  auto copy = comm.duplicate();
  ASSERT_TRUE(copy.ok()) << copy.status().message();
  ASSERT_EQ((*copy)->rank(), comm.rank());
  ASSERT_EQ((*copy)->size(), comm.size());
  const std::int64_t n = 5003;
  const std::vector<Slice> slices = partition_blocks(n, comm.size(), 1);
  const Slice mine = slices[static_cast<std::size_t>(comm.rank().v)];
  const std::vector<float> full = contribution(comm.rank().v, n);
  struct User {
    Communicator* comm;
    Lane lane;
    std::vector<float> acc, gathered;
  };
  std::vector<std::unique_ptr<User>> users;
  for (Communicator* c : {&comm, copy->get()}) {
    users.push_back(std::make_unique<User>());
    users.back()->comm = c;
    users.back()->acc.resize(static_cast<std::size_t>(mine.count) + 1);
    users.back()->gathered.resize(static_cast<std::size_t>(n));
  }
  if (comm.rank().v % 2 == 1) std::swap(users[0], users[1]);
  for (auto& user : users)
    for (int repeat = 0; repeat < 20; ++repeat) {
      user->comm->reduce_scatter_add({.full = full.data(), .acc = user->acc.data(), .slices = slices, .overwrite = true},
                                     user->lane.stream);
      user->comm->all_gather({.shard = user->acc.data(), .full = user->gathered.data(), .slices = slices}, user->lane.stream);
    }
  const std::vector<float> expected = sum_by_rank(comm.size().v, {0, n}, 0.0f, true);
  for (auto& user : users) {
    const Status status = user->lane.stream.ref().synchronize();
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(user->gathered, expected);
  }
}

// Operations of all kinds and sizes one after the other: what one leaves behind must not reach the next.
inline void operations_follow_each_other(Communicator& comm) {
  Lane lane;
  for (std::uint32_t i = 0; i < 150; ++i) {
    const auto n = static_cast<std::int64_t>(mixed(i, 1) % 3000);
    const std::vector<Slice> slices = partition_blocks(n, comm.size(), 1);
    const Slice mine = slices[static_cast<std::size_t>(comm.rank().v)];
    std::vector<float> full = contribution(comm.rank().v, n);
    std::vector<float> acc(static_cast<std::size_t>(mine.count) + 1);
    comm.reduce_scatter_add({.full = full.data(), .acc = acc.data(), .slices = slices, .overwrite = true}, lane.stream);
    comm.all_gather({.shard = acc.data(), .full = full.data(), .slices = slices}, lane.stream);
    ASSERT_TRUE(lane.stream.ref().synchronize().ok());
    ASSERT_EQ(full, sum_by_rank(comm.size().v, {0, n}, 0.0f, true));
    const Status control = i % 3 == 0 ? comm.barrier("barrier") : comm.gather_all({}, "gather_all").status();
    ASSERT_TRUE(control.ok()) << control.message();
  }
}

struct Case {
  const char* name;
  void (*run)(Communicator&);
};
inline void PrintTo(const Case& test, std::ostream* out) { *out << test.name; }
inline const std::vector<Case> kCases = {
    {"AllGatherCollectsEverySlice", all_gather_collects_every_slice},
    {"ReduceScatterAddsInRankOrder", reduce_scatter_adds_in_rank_order},
    {"GatherAllReturnsBytesByRank", gather_all_returns_bytes_by_rank},
    {"BroadcastGivesTheRootsBytes", broadcast_gives_the_roots_bytes},
    {"BarrierWaitsForTheLastRank", barrier_waits_for_the_last_rank},
    {"DuplicatesWorkSideBySide", duplicates_work_side_by_side},
    {"OperationsFollowEachOther", operations_follow_each_other},
};

// ---- faults: groups of at least two ranks with a timeout of kFaultTimeout; unusable afterwards ----

inline constexpr std::chrono::milliseconds kFaultTimeout{500};

inline std::string name_of_last(Communicator& comm) { return "rank " + std::to_string(comm.size().v - 1); }
inline bool is_last(Communicator& comm) { return comm.rank().v == comm.size().v - 1; }

inline void expect_lost(const Status& status, const std::vector<std::string>& words) {
  EXPECT_EQ(status.code(), Code::peer_lost) << status.message();
  for (const std::string& word : words) EXPECT_THAT(status.message(), ::testing::HasSubstr(word));
}

inline void late_rank_is_named_with_its_operation(Communicator& comm) {
  ASSERT_TRUE(comm.barrier("start").ok());
  const auto begin = std::chrono::steady_clock::now();
  if (is_last(comm)) std::this_thread::sleep_for(3 * kFaultTimeout);
  Lane lane;
  const std::int64_t n = 100;
  const std::vector<Slice> slices = partition_blocks(n, comm.size(), 1);
  std::vector<float> full(static_cast<std::size_t>(n)), acc(static_cast<std::size_t>(n));
  comm.reduce_scatter_add(
      {.full = full.data(), .acc = acc.data(), .slices = slices, .overwrite = true, .what = "unit 3 gradients"}, lane.stream);
  const Status status = lane.stream.ref().synchronize();
  // What the others had sent before they gave up may still be enough for one operation.
  if (is_last(comm)) return expect_lost(status.ok() ? comm.barrier("afterwards") : status, {"gave up", "unit 3 gradients"});
  expect_lost(status, {name_of_last(comm), "unit 3 gradients"});
  EXPECT_GE(std::chrono::steady_clock::now() - begin, kFaultTimeout * 9 / 10);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 10 * kFaultTimeout);
  EXPECT_EQ(comm.barrier("afterwards").message(), status.message());
}

inline void abort_reaches_pending_operations_of_the_family(Communicator& comm) {
  auto copy = comm.duplicate();
  ASSERT_TRUE(copy.ok()) << copy.status().message();
  if (is_last(comm)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    comm.abort("disk full");
    expect_lost((*copy)->barrier("my own"), {"disk full"});
    std::this_thread::sleep_for(kFaultTimeout);  // the others hear the reason, not that this rank left
    return;
  }
  expect_lost((*copy)->barrier("pending"), {"pending", name_of_last(comm), "gave up", "disk full"});
  expect_lost(comm.barrier("later"), {"gave up", "disk full"});
}

inline void rank_that_leaves_is_named(Communicator& comm) {
  auto copy = comm.duplicate();
  ASSERT_TRUE(copy.ok());
  if (is_last(comm)) {
    copy->reset();
    std::this_thread::sleep_for(2 * kFaultTimeout);
    return;
  }
  expect_lost((*copy)->barrier("the end"), {name_of_last(comm), "the end"});
}

inline void different_operations_are_reported(Communicator& comm) {
  Lane lane;
  std::vector<float> full(1000);
  const std::vector<Slice> slices = partition_blocks(is_last(comm) ? 1000 : 500, comm.size(), 1);
  comm.all_gather({.full = full.data(), .slices = slices, .what = is_last(comm) ? "one thousand" : "five hundred"},
                  lane.stream);
  const Status status = lane.stream.ref().synchronize();
  // Whoever finds it first tells the others: they may hear of it as a rank that gave up.
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.message(),
              ::testing::AnyOf(::testing::HasSubstr("went apart"), ::testing::HasSubstr("different operations")));
}

inline const std::vector<Case> kFaultCases = {
    {"LateRankIsNamedWithItsOperation", late_rank_is_named_with_its_operation},
    {"AbortReachesPendingOperationsOfTheFamily", abort_reaches_pending_operations_of_the_family},
    {"RankThatLeavesIsNamed", rank_that_leaves_is_named},
    {"DifferentOperationsAreReported", different_operations_are_reported},
};

}  // namespace strata::contract
