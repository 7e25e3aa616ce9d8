// XXH3-64 by a GPU's kernel against libxxhash: every branch of its formula for long inputs, and every way in which the kernel
// cuts them. Mutations that must fail: leave out the last stripe; begin every part with the first sums; take a block's key for
// the last stripe; forget the neighbour's word.
#include <gtest/gtest.h>
#include <xxhash.h>

#include <cstring>
#include <vector>

#include "runtime/gpu/kernel_table.h"
#include "runtime/rng.h"
#include "tests/machines/machines.h"

namespace strata {
namespace {

constexpr std::size_t kMost = (std::size_t{1} << 20) + 4096;

class Xxh3Kernel : public ::testing::TestWithParam<testing::GpuMachine> {
 protected:
  Xxh3Kernel() : driver_(GetParam().make_driver()), queue_(driver_->make_queue("test").value()) {
    data_ = driver_->allocate_device(kMost).value();
    scratch_ = driver_->allocate_device(kMost).value();
    hash_ = driver_->allocate_device(sizeof(std::uint64_t)).value();
    for (std::size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = static_cast<std::byte>(Philox(3, 0).u32(i));
    queue_->copy(bytes_.data(), data_, bytes_.size());
  }
  ~Xxh3Kernel() override {
    queue_.reset();
    for (std::byte* memory : {data_, scratch_, hash_}) driver_->free_device(memory);
  }
  std::uint64_t by_kernel(std::size_t from, std::size_t n, std::size_t scratch = kMost) {
    queue_->set_scratch({scratch_ + kMost - scratch, scratch});  // on the emulator, behind it is a page that cannot be touched
    driver_->kernels().xxh3_64(data_ + from, static_cast<std::int64_t>(n), reinterpret_cast<std::uint64_t*>(hash_), *queue_);
    queue_->copy(hash_, result_.data(), sizeof(std::uint64_t));
    const Status status = queue_->mark()->wait();
    EXPECT_TRUE(status.ok()) << status.message();
    return result_[0];
  }
  std::uint64_t by_library(std::size_t from, std::size_t n) const { return XXH3_64bits(bytes_.data() + from, n); }

  std::unique_ptr<GpuDriver> driver_;
  std::unique_ptr<GpuQueue> queue_;
  std::byte *data_ = nullptr, *scratch_ = nullptr, *hash_ = nullptr;
  std::pmr::vector<std::byte> bytes_ = std::pmr::vector<std::byte>(kMost, &testing::shared_memory());
  std::pmr::vector<std::uint64_t> result_ = std::pmr::vector<std::uint64_t>(1, &testing::shared_memory());
};

TEST_P(Xxh3Kernel, IsTheLibrarysForEveryLength) {
  // Around the ends of stripes (64 bytes), of blocks (1024) and of what the chain takes at once (16 blocks).
  std::vector<std::size_t> lengths;
  for (const std::size_t around : {256, 320, 1024, 1088, 2048, 15 * 1024, 16 * 1024, 17 * 1024, 32 * 1024, 33 * 1024})
    for (std::size_t n = around - 2; n <= around + 2; ++n) lengths.push_back(n);
  for (const std::size_t n : {241, 255, 7 * 1024 + 513, 4096 * 12, 100003}) lengths.push_back(n);
  if (!testing::kSanitized) lengths.push_back((1 << 20) + 777);
  for (const std::size_t n : lengths) EXPECT_EQ(by_kernel(0, n), by_library(0, n)) << n << " bytes";
}

TEST_P(Xxh3Kernel, IsTheSameInPartsOfAnySize) {
  for (const std::size_t n : {241, 1025, 3 * 1024, 5 * 1024 + 1, 40 * 1024 + 65})
    for (const std::size_t at_once : {1, 2, 3, 17, 40})  // blocks
      EXPECT_EQ(by_kernel(8, n, 64 * (at_once + 1)), by_library(8, n)) << n << " bytes, " << at_once << " blocks at once";
}

TEST_P(Xxh3Kernel, SeesEveryBitOfEveryPart) {
  const std::size_t n = 3 * 1024 + 200;
  const std::uint64_t whole = by_library(0, n);
  ASSERT_EQ(by_kernel(0, n), whole);
  for (std::size_t at = 0; at < n; at += 61) {
    std::pmr::vector<std::byte> other({bytes_[at] ^ std::byte{0x10}}, &testing::shared_memory());
    queue_->copy(other.data(), data_ + at, 1);
    EXPECT_NE(by_kernel(0, n), whole) << "byte " << at;
    queue_->copy(bytes_.data() + at, data_ + at, 1);
  }
  EXPECT_EQ(by_kernel(0, n), whole);
}

TEST_P(Xxh3Kernel, WithoutScratchIsAnError) {
  queue_->set_scratch({scratch_, 64});
  driver_->kernels().xxh3_64(data_, 4096, reinterpret_cast<std::uint64_t*>(hash_), *queue_);
  const Status status = queue_->mark()->wait();
  EXPECT_EQ(status.code(), Code::out_of_budget);
  EXPECT_NE(status.message().find("xxh3_64 needs 128 bytes"), std::string::npos) << status.message();
}

INSTANTIATE_TEST_SUITE_P(Machines, Xxh3Kernel, ::testing::ValuesIn(testing::gpu_machines()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace strata
