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
  arena.reset_peaks();
  EXPECT_EQ(arena.report().peak, 0u);
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

// Every round needs ranges longer than those the rounds before have freed; the address range has room for two rounds.
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
      ASSERT_EQ(buffer.ok(), in_use + reserved <= kBudget) << "only the budget may refuse";
      if (!buffer.ok()) continue;
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

TEST(FormatReport, HasARowForEachCategoryThatWasUsed) {
  TierArena arena(Tier::cpu, 8 * kPage);
  { const Buffer gone = take(arena, 2 * kPage, Category::io); }
  const Buffer kept = take(arena, kPage, Category::optimizer);
  const std::string text = format_report(Tier::cpu, arena.report());
  EXPECT_NE(text.find("optimizer"), std::string::npos) << text;
  EXPECT_NE(text.find("(peak 8.00 KiB)"), std::string::npos) << text;
  EXPECT_EQ(text.find("gradients"), std::string::npos) << text;
}

}  // namespace
}  // namespace strata
