// Projections drawn on the host and on GPUs. Mutations caught: a projection's number or the parameter's name that does not
// count, a deviation of 1.
#include "optim/projection.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory_resource>
#include <vector>

#include "runtime/status.h"
#include "tests/machines/machines.h"

namespace strata {
namespace {

TEST(PhiloxProjectionsTest, AreFunctionsOfSeedNameAndNumber) {
  const ProjectedMatrix matrix{.name = "layers.0.mlp.up_proj.weight", .columns = 64, .rank = 16};
  const auto fill = [](std::uint64_t seed, const ProjectedMatrix& of, std::int64_t number) {
    std::vector<float> projection(static_cast<std::size_t>(of.columns * of.rank));
    PhiloxProjections(seed).fill(of, number, projection);
    return projection;
  };
  const std::vector<float> first = fill(1, matrix, 0);
  EXPECT_EQ(first, fill(1, matrix, 0));
  EXPECT_NE(first, fill(2, matrix, 0));
  EXPECT_NE(first, fill(1, matrix, 1));
  ProjectedMatrix other = matrix;
  other.name += "2";
  EXPECT_NE(first, fill(1, other, 0));
  // The number before the name: "1" of "1x" is not "11" of "x".
  EXPECT_NE(fill(1, {.name = "1x", .columns = 4, .rank = 4}, 1), fill(1, {.name = "x", .columns = 4, .rank = 4}, 11));
  double sum = 0.0, squared = 0.0;
  for (const float x : first) sum += x, squared += static_cast<double>(x) * static_cast<double>(x);
  EXPECT_NEAR(sum / static_cast<double>(first.size()), 0.0, 4.0 * 0.25 / 32.0);
  EXPECT_NEAR(squared / 64.0, 1.0, 0.2);  // |P x| is |x| on average
}

// Golden: what a checkpoint stands for must not change with the program.
TEST(PhiloxProjectionsTest, DoNotChange) {
  std::vector<float> projection(8);
  PhiloxProjections(1234).fill({.name = "w", .columns = 4, .rank = 2}, 3, projection);
  const std::vector<float> want = {-0.287905574f,  -0.693116307f, -1.21315682f,  0.507311225f,
                                   -0.0608625785f, -0.414800137f, -0.417212784f, -0.437690139f};
  for (std::size_t i = 0; i < want.size(); ++i) EXPECT_FLOAT_EQ(projection[i], want[i]) << i;
}

// On the emulator or a GPU: the host's bits, and nothing behind them.
TEST(GpuProjections, AreThoseOfTheHost) {
  if (testing::kRacesOnly) GTEST_SKIP() << "one thread has no races";
  const std::unique_ptr<GpuDriver> driver = testing::gpu_machines()[0].make_driver();
  const std::unique_ptr<GpuQueue> queue = driver->make_queue("update").value();
  const PhiloxProjections source(77);
  ASSERT_TRUE(source.draws_on_gpu());
  EXPECT_FALSE(TorchProjections().draws_on_gpu());
  struct Size {
    std::int64_t columns, rank;
  };
  for (const Size& size : {Size{1, 1}, {33, 1}, {4, 32}, {129, 1}, {64, 16}, {100, 37}, {4096, 3}}) {
    const ProjectedMatrix matrix{.name = "w", .columns = size.columns, .rank = size.rank};
    const auto n = static_cast<std::size_t>(size.columns * size.rank);
    std::vector<float> host(n);
    source.fill(matrix, 5, host);
    std::pmr::vector<float> gpu(n + 64, 7.0f, &testing::shared_memory());
    source.enqueue_fill(matrix, 5, gpu.data(), *driver, *queue);
    const Status status = queue->mark()->wait();
    ASSERT_TRUE(status.ok()) << status.message();
    EXPECT_EQ(std::memcmp(host.data(), gpu.data(), n * sizeof(float)), 0) << size.columns << " x " << size.rank;
    for (std::size_t i = n; i < gpu.size(); ++i) ASSERT_EQ(gpu[i], 7.0f) << "element " << i << " of " << n;
  }
}

TEST(ProjectionSourceTest, RefusesAnotherSize) {
  std::vector<float> projection(7);
  EXPECT_THROW(PhiloxProjections(1).fill({.columns = 4, .rank = 2}, 0, projection), ContractViolation);
  EXPECT_THROW(TorchProjections().fill({.columns = 4, .rank = 2}, 0, projection), ContractViolation);
}

}  // namespace
}  // namespace strata
