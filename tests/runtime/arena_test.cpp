#include "runtime/arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "runtime/tensor.h"

namespace strata {
namespace {

constexpr std::size_t kPage = TierArena::kAlignment;

Buffer take(TierArena& arena, std::size_t bytes, Category category = Category::workspace) {
  Result<Buffer> buffer = arena.allocate(bytes, category, "test");
  EXPECT_TRUE(buffer.ok()) << buffer.status().message();
  return std::move(buffer).value();
}

TEST(TierArena, AccountsRoundedBytesByCategoryAndPeak) {
  TierArena arena(Tier::cpu, 16 * kPage);
  {
    const Buffer a = take(arena, 1, Category::parameters);
    const Buffer b = take(arena, kPage + 1, Category::gradients);
    EXPECT_EQ(a.size(), 1u);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(b.data()) % kPage, 0u);
    const MemoryReport report = arena.report();
    EXPECT_EQ(report.in_use, 3 * kPage);
    EXPECT_EQ(report.in_use_by[static_cast<std::size_t>(Category::parameters)], kPage);
    EXPECT_EQ(report.in_use_by[static_cast<std::size_t>(Category::gradients)], 2 * kPage);
  }
  EXPECT_EQ(arena.report().in_use, 0u);
  EXPECT_EQ(arena.report().peak, 3 * kPage);
  EXPECT_EQ(arena.report().high_water, 3 * kPage);
  EXPECT_EQ(arena.report().budget, 16 * kPage);
}

TEST(TierArena, GivesExactlyItsBudgetAndRefusesOneMore) {
  TierArena arena(Tier::gpu, 2 * kPage);
  const Buffer all = take(arena, 2 * kPage, Category::activations);
  const Result<Buffer> more = arena.allocate(1, Category::workspace, "logits");
  ASSERT_FALSE(more.ok());
  EXPECT_EQ(more.status().code(), Code::out_of_budget);
  for (const char* part : {"gpu", "logits", "workspace", "4.00 KiB", "activations 8.00 KiB", "budget 8.00 KiB", "memory.gpu"})
    EXPECT_NE(more.status().message().find(part), std::string::npos) << more.status().message();
}

TEST(TierArena, ABudgetOfZeroRefusesEverythingButNothing) {
  TierArena arena(Tier::nvme, 0);
  EXPECT_FALSE(arena.allocate(1, Category::io, "x").ok());
  const Buffer nothing = take(arena, 0);
  EXPECT_FALSE(nothing);
}

TEST(TierArena, AnAbsurdSizeIsRefusedNotWrappedAround) {
  TierArena arena(Tier::cpu, 4 * kPage);
  const Buffer some = take(arena, kPage);
  for (const std::size_t bytes : {SIZE_MAX, SIZE_MAX - 1, SIZE_MAX - kPage, SIZE_MAX / 2}) {
    const Result<Buffer> buffer = arena.allocate(bytes, Category::other, "absurd");
    ASSERT_FALSE(buffer.ok()) << bytes;
    EXPECT_EQ(buffer.status().code(), Code::out_of_budget);
  }
  EXPECT_EQ(arena.report().in_use, kPage);
}

// Every round needs ranges longer than those the rounds before have freed.
TEST(TierArena, NeighboursThatAreFreedBecomeOneRange) {
  constexpr std::size_t kPages = 512;
  TierArena arena(Tier::cpu, kPages * kPage);
  std::mt19937 draw(3);
  for (const std::size_t pages : {1, 2, 4, 8, 64, 512}) {
    std::vector<Buffer> buffers;
    while (buffers.size() < kPages / pages) buffers.push_back(take(arena, pages * kPage));
    std::shuffle(buffers.begin(), buffers.end(), draw);
    while (!buffers.empty()) buffers.pop_back();
  }
  EXPECT_EQ(arena.report().in_use, 0u);
}

TEST(TierArena, BuffersDoNotOverlapAndKeepTheirBytes) {
  constexpr std::size_t kBudget = 256 * kPage;
  TierArena arena(Tier::cpu, kBudget);
  std::mt19937 draw(1);
  std::vector<std::pair<Buffer, unsigned char>> held;
  std::size_t in_use = 0;
  for (int step = 0; step < 3000; ++step) {
    if (draw() % 2 == 0 || held.empty()) {
      const std::size_t bytes = 1 + draw() % (20 * kPage);
      const std::size_t reserved = (bytes + kPage - 1) / kPage * kPage;
      Result<Buffer> buffer = arena.allocate(bytes, Category::other, "random");
      if (!buffer.ok()) {
        const bool fits = in_use + reserved <= kBudget;
        const char* reason = fits ? "fragmentation" : "too much";
        ASSERT_NE(buffer.status().message().find(reason), std::string::npos) << buffer.status().message();
        continue;
      }
      in_use += reserved;
      const auto mark = static_cast<unsigned char>(step);
      std::memset(buffer->data(), mark, bytes);
      held.emplace_back(std::move(buffer).value(), mark);
    } else {
      const std::size_t i = draw() % held.size();
      const auto& [buffer, mark] = held[i];
      for (const std::size_t at : {std::size_t{0}, buffer.size() / 2, buffer.size() - 1})
        ASSERT_EQ(static_cast<unsigned char>(buffer.data()[at]), mark);
      in_use -= (buffer.size() + kPage - 1) / kPage * kPage;
      std::swap(held[i], held.back());
      held.pop_back();
    }
    ASSERT_EQ(arena.report().in_use, in_use);
  }
}

// A sequence of allocations and frees that is the same every time.
class Sequence {
 public:
  explicit Sequence(TierArena& arena, unsigned seed) : arena_(arena), draw_(seed) {}
  // False when the arena refused.
  bool run(int steps) {
    for (int step = 0; step < steps; ++step) {
      if (draw_() % 9 < 5 || held_.empty()) {
        const std::size_t bytes = kPage * (1 + draw_() % 20);
        Result<Buffer> buffer = arena_.allocate(bytes, Category::activations, "x");
        if (!buffer.ok()) return refusal_ = buffer.status().message(), false;
        if (first_ == nullptr) first_ = buffer->data();
        offsets_.push_back(buffer->data() - first_);
        held_.push_back(std::move(buffer).value());
      } else {
        std::swap(held_[draw_() % held_.size()], held_.back());
        held_.pop_back();
      }
    }
    return true;
  }
  const std::vector<std::ptrdiff_t>& offsets() const { return offsets_; }
  const std::string& refusal() const { return refusal_; }

 private:
  TierArena& arena_;
  std::mt19937 draw_;
  std::vector<Buffer> held_;
  std::byte* first_ = nullptr;
  std::vector<std::ptrdiff_t> offsets_;
  std::string refusal_;
};

// What makes a plan's dry run binding: its high water is a budget that suffices, and a page less is not.
TEST(TierArena, TheSameCallsSucceedAtTheSameAddressesInAnArenaOfTheirHighWater) {
  int fragmented = 0;
  for (unsigned seed = 1; seed <= 50; ++seed) {
    TierArena unlimited(Tier::gpu, std::size_t{1} << 60, TierArena::Backing::none);
    Sequence plan(unlimited, seed);
    ASSERT_TRUE(plan.run(400));
    const MemoryReport planned = unlimited.report();
    ASSERT_GE(planned.high_water, planned.peak);
    TierArena exact(Tier::gpu, planned.high_water);
    Sequence real(exact, seed);
    ASSERT_TRUE(real.run(400)) << real.refusal();
    EXPECT_EQ(real.offsets(), plan.offsets());
    EXPECT_EQ(exact.report().high_water, planned.high_water);
    TierArena less(Tier::gpu, planned.high_water - kPage);
    Sequence refused(less, seed);
    ASSERT_FALSE(refused.run(400));
    const bool is_fragmented = planned.peak <= planned.high_water - kPage;
    fragmented += static_cast<int>(is_fragmented);
    if (is_fragmented) {
      EXPECT_NE(refused.refusal().find("fragmentation"), std::string::npos) << refused.refusal();
    }
  }
  EXPECT_GT(fragmented, 10) << "the sequences do not show what they are for";
}

TEST(TierArena, HolesAreFilledBestFitBeforeTheEndGrows) {
  TierArena arena(Tier::gpu, 100 * kPage);
  const Buffer start = take(arena, kPage);
  Buffer four = take(arena, 4 * kPage);
  const Buffer wall = take(arena, kPage);
  Buffer two = take(arena, 2 * kPage);
  const Buffer end = take(arena, kPage);
  EXPECT_EQ(arena.report().high_water, 9 * kPage);
  std::byte* const four_at = four.data();
  std::byte* const two_at = two.data();
  four = Buffer();
  two = Buffer();
  const Buffer best = take(arena, 2 * kPage);
  EXPECT_EQ(best.data(), two_at) << "the smaller hole";
  const Buffer next = take(arena, 3 * kPage);
  EXPECT_EQ(next.data(), four_at);
  EXPECT_EQ(arena.report().high_water, 9 * kPage);
  const Buffer beyond = take(arena, 2 * kPage);
  EXPECT_EQ(beyond.data(), end.data() + kPage);
  EXPECT_EQ(arena.report().high_water, 11 * kPage);
}

// A step that begins with the same live buffers takes the same addresses, whatever came before it.
TEST(TierArena, WhatIsFreedAtTheEndIsNoHole) {
  TierArena arena(Tier::gpu, 100 * kPage);
  const Buffer kept = take(arena, kPage);
  std::byte* const behind = kept.data() + kPage;
  for (const std::size_t pages : {4, 2, 9, 3}) {
    Buffer first = take(arena, pages * kPage), second = take(arena, kPage);
    EXPECT_EQ(first.data(), behind);
    EXPECT_EQ(second.data(), behind + pages * kPage);
    first = Buffer();  // a hole until its neighbour goes too
    second = Buffer();
  }
  EXPECT_EQ(arena.report().high_water, 11 * kPage);
}

TEST(TierArena, ARefusalSaysWhetherTheBudgetOrTheHolesAreToBlame) {
  TierArena arena(Tier::gpu, 6 * kPage);
  Buffer hole = take(arena, 2 * kPage);
  const Buffer wall = take(arena, 2 * kPage);
  hole = Buffer();
  const std::string pieces = arena.allocate(3 * kPage, Category::workspace, "x").status().message();
  EXPECT_NE(pieces.find("in pieces that are too short (fragmentation); raise memory.gpu by 4.00 KiB"), std::string::npos)
      << pieces;
  const std::string more = arena.allocate(5 * kPage, Category::workspace, "x").status().message();
  EXPECT_NE(more.find("4.00 KiB too much; raise memory.gpu"), std::string::npos) << more;
  EXPECT_EQ(more.find("fragmentation"), std::string::npos) << more;
}

TEST(TierArena, OutlivedByItsBuffers) {
  Buffer buffer;
  {
    TierArena arena(Tier::cpu, kPage);
    buffer = take(arena, kPage);
  }
  std::memset(buffer.data(), 7, kPage);
}

TEST(TierArena, MovingABufferMovesTheReservation) {
  TierArena arena(Tier::cpu, 4 * kPage);
  Buffer a = take(arena, kPage);
  Buffer b = take(arena, kPage);
  std::byte* data = a.data();
  b = std::move(a);
  EXPECT_EQ(b.data(), data);
  EXPECT_EQ(arena.report().in_use, kPage) << "the overwritten buffer is given back";
}

TEST(TierArena, ThreadsMayAllocateAndFreeAtOnce) {
  TierArena arena(Tier::cpu, 64 * kPage);
  std::vector<std::thread> threads;
  for (unsigned char t = 0; t < 4; ++t)
    threads.emplace_back([&arena, t] {
      for (int i = 0; i < 300; ++i) {
        const Buffer buffer = take(arena, kPage * (1 + static_cast<std::size_t>(i) % 7));
        std::memset(buffer.data(), t, buffer.size());
        EXPECT_EQ(static_cast<unsigned char>(buffer.data()[buffer.size() - 1]), t);
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(arena.report().in_use, 0u);
}

TEST(TierArena, WithoutBackingAddressesAreDistinctAndAccounted) {
  TierArena arena(Tier::gpu, std::size_t{1} << 40, TierArena::Backing::none);
  const Buffer a = take(arena, std::size_t{1} << 38);
  const Buffer b = take(arena, std::size_t{1} << 38);
  EXPECT_NE(a.data(), b.data());
  EXPECT_EQ(arena.report().in_use, std::size_t{1} << 39);
}

TEST(Tensor, OwnsItsElementsAndFailsWithTheArenasMessage) {
  TierArena arena(Tier::cpu, 4 * kPage);
  Tensor x(arena, Category::activations, DType::bf16, {8, 16}, "x");
  EXPECT_EQ(x.ref().bytes(), 256u);
  EXPECT_EQ(x.ref().rows(2, 3).data, x.ref().data + 2 * 16 * 2);
  EXPECT_EQ(x.ref().rows(2, 3).shape, (Shape{3, 16}));
  EXPECT_EQ(x.ref().view({128}).shape, Shape{128});
  EXPECT_THROW((void)x.ref().view({127}), ContractViolation);
  EXPECT_THROW((void)x.ref().rows(6, 3), ContractViolation);
  EXPECT_THROW((void)x.ref().as<float>(), ContractViolation);
  EXPECT_THROW(Tensor(arena, Category::activations, DType::f32, {1 << 20}, "y"), StatusError);
  x.reset();
  EXPECT_EQ(arena.report().in_use, 0u);
}

TEST(FormatBytes, PicksTheUnit) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1536), "1.50 KiB");
  EXPECT_EQ(format_bytes(std::size_t{12} << 20), "12.0 MiB");
  EXPECT_EQ(format_bytes(std::size_t{3} << 29), "1.50 GiB");
}

}  // namespace
}  // namespace strata
