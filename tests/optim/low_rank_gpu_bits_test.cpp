// The GPU's passes of APOLLO and GaLore (their source on the emulator, or a GPU) give the bits of the formulas, whatever the
// shape, alignment and room for R. tests/structure/ptx_test.py shows that nvcc keeps the operations. Mutations caught: a * b +
// c instead of fma, a tile's rest filled with +0 on both sides (a sum of -0 becomes 0), a row of another phase stored by 16
// bytes, a piece of rows that writes the first rows' results, lanes added in another order.
#include <memory>

#include "low_rank_testing.h"
#include "runtime/kernels/isa.h"
#include "tests/machines/machines.h"

namespace strata {
namespace {

using namespace low_rank_testing;  // NOLINT
using update_testing::kDecays;
using update_testing::kStep;

struct Size {
  std::int64_t rows, columns, rank;
};
constexpr Size kSizes[] = {{1, 1, 1},    {7, 3, 1},    {65, 17, 5},   {33, 40, 16},
                           {20, 64, 65}, {64, 16, 64}, {130, 70, 33}, {3, 2100, 2}};

class LowRankGpuBits : public ::testing::Test {
 protected:
  void SetUp() override {
    if (testing::kRacesOnly) GTEST_SKIP() << "one thread has no races";
  }
  // Room for so many rows of R.
  void give_room(std::int64_t rows, std::int64_t rank) {
    queue_->set_scratch({scratch_.data(), static_cast<std::size_t>(rows * rank) * sizeof(float)});
  }
  void finish() {
    const Status status = queue_->mark()->wait();
    ASSERT_TRUE(status.ok()) << status.message();
  }
  std::unique_ptr<GpuDriver> driver_ = testing::gpu_machines()[0].make_driver();
  std::unique_ptr<GpuQueue> queue_ = driver_->make_queue("update").value();
  std::pmr::vector<std::byte> scratch_{std::size_t{1} << 18, &testing::shared_memory()};
};

TEST_F(LowRankGpuBits, ApolloIsTheWrittenSequence) {
  for (const auto& [rows, columns, rank] : kSizes) {
    for (const auto& [scaling, half, elsewhere, offset, room] : {std::tuple(ApolloScaling::channel, false, false, 0, 1000),
                                                                 {ApolloScaling::channel, true, true, 3, 10},
                                                                 {ApolloScaling::tensor, false, true, 1, 100}}) {
      SCOPED_TRACE(::testing::Message() << rows << " x " << columns << ", rank " << rank << ", offset " << offset);
      const ApolloConfig config{.scaling = scaling, .scale = 3.0};
      Arrays want(rows, columns, rank), got(rows, columns, rank, static_cast<std::size_t>(offset));
      for (Arrays* a : {&want, &got}) a->fill(static_cast<std::uint64_t>(rank), true);
      reference_apollo(config, want.block(0, rows, half, elsewhere), want.results(0), want.weights(0, half, elsewhere), kStep,
                       kDecays);
      give_room(room, rank);
      const LowRankBlock block = got.block(0, rows, half, elsewhere);
      enqueue_apollo_project(config, block, kStep.grad_scale, got.results(0), *driver_, *queue_);
      ASSERT_NO_FATAL_FAILURE(finish());
      ApolloSums sums;
      add_rows(got.results(0), rows, sums);
      ApolloMatrix matrix;
      enqueue_apollo_apply(block, scaling == ApolloScaling::channel ? got.s.data() : nullptr, got.weights(0, half, elsewhere),
                           apollo_apply_scalars(config, apollo_scale(config, sums, matrix), kStep, kDecays), *driver_, *queue_);
      ASSERT_NO_FATAL_FAILURE(finish());
      ASSERT_TRUE(same(got, want));
    }
  }
}

TEST_F(LowRankGpuBits, GaloreIsTheWrittenSequence) {
  for (const auto& [rows, columns, rank] : kSizes) {
    for (const auto& [half, elsewhere, offset, room] :
         {std::tuple(false, false, 0, 1000), {true, true, 3, 10}, {false, true, 1, 100}}) {
      SCOPED_TRACE(::testing::Message() << rows << " x " << columns << ", rank " << rank << ", offset " << offset);
      Arrays want(rows, columns, rank), got(rows, columns, rank, static_cast<std::size_t>(offset));
      for (Arrays* a : {&want, &got}) a->fill(static_cast<std::uint64_t>(rank), true);
      reference_galore({}, want.block(0, rows, half, elsewhere), want.weights(0, half, elsewhere), kStep, kDecays);
      give_room(room, rank);
      enqueue_galore_update({}, got.block(0, rows, half, elsewhere), got.weights(0, half, elsewhere), kStep, kDecays, *driver_,
                            *queue_);
      ASSERT_NO_FATAL_FAILURE(finish());
      ASSERT_TRUE(same(got, want));
    }
  }
}

// A sum whose only product is below the least denormal is -0, whatever the tile has behind it. A weight of -0 tells.
TEST_F(LowRankGpuBits, ASumOfMinusZeroStaysMinusZero) {
  Arrays a(1, 1, 1);
  a.fill(1, false);
  *a.g.data() = 0.0f, *a.projection.data() = 0x1p-120f, *a.m.data() = -0x1p-60f, *a.v.data() = 0.0f, *a.p.data() = -0.0f;
  give_room(1, 1);
  enqueue_galore_update({}, a.block(0, 1, false, false), a.weights(0, false, false), kStep, {}, *driver_, *queue_);
  ASSERT_NO_FATAL_FAILURE(finish());
  EXPECT_EQ(bits(*a.p.data()), 0u);  // -0 minus a step of -0
}

TEST_F(LowRankGpuBits, AScratchThatHoldsNoRowFailsTheQueue) {
  Arrays a(2, 3, 4);
  a.fill(1, false);
  queue_->set_scratch({scratch_.data(), 15});
  enqueue_galore_update({}, a.block(0, 2, false, false), a.weights(0, false, false), kStep, kDecays, *driver_, *queue_);
  const Status status = queue_->mark()->wait();
  EXPECT_EQ(status.code(), Code::out_of_budget);
  EXPECT_NE(status.message().find("galore"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace strata
