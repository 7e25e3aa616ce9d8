// The kernel of a reduction over ranks against the host's sum: the same bits.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "../parallel/communicator_contract.h"
#include "parallel/exchange.h"
#include "parallel/gpu_kernels.h"
#include "runtime/gpu/kernel_table.h"
#include "tests/emulator/emulated_driver.h"

namespace strata {
namespace {

// Host and device arrays, the device's `shift` elements behind an aligned address.
class Array {
 public:
  Array(GpuDriver& gpu, std::vector<float> values, std::size_t shift)
      : gpu_(gpu), values_(std::move(values)), bytes_(values_.size() * sizeof(float)) {
    memory_ = *gpu_.allocate_device(bytes_ + shift * sizeof(float) + 1);
    data_ = reinterpret_cast<float*>(memory_) + shift;
    if (bytes_ > 0) std::memcpy(data_, values_.data(), bytes_);
  }
  ~Array() { gpu_.free_device(memory_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  float* device() const { return data_; }
  std::vector<float>& host() { return values_; }
  bool is_equal() const { return bytes_ == 0 || std::memcmp(data_, values_.data(), bytes_) == 0; }

 private:
  GpuDriver& gpu_;
  std::vector<float> values_;
  std::size_t bytes_;
  std::byte* memory_ = nullptr;
  float* data_ = nullptr;
};

class RankSum : public ::testing::TestWithParam<int> {};

TEST_P(RankSum, HasTheHostsBits) {
  const int ranks = GetParam();
  static constexpr GpuKernels kNone{};
  gpu_emulated::EmulatedDriver gpu(kNone);
  const auto queue = std::move(gpu.make_queue("rank sum")).value();
  for (const std::int64_t n : {0, 1, 3, 4, 5, 255, 1027})
    for (const std::int64_t slack : {0, 1, 64})
      for (const std::size_t shift : {0, 1})
        for (const bool overwrite : {false, true})
          for (int self = 0; self < ranks; ++self) {
            const std::int64_t stride = (n + 63) / 64 * 64 + slack;
            std::vector<std::vector<float>> x;
            for (int r = 0; r < ranks; ++r) x.push_back(contract::contribution(r, n));
            if (n > 2) {
              x[0][1] = std::numeric_limits<float>::denorm_min();
              x[0][2] = -0.0f;
            }
            std::vector<float> others(static_cast<std::size_t>(stride * (ranks - 1)), NAN);
            for (int r = 0; r < ranks; ++r)
              if (r != self)
                std::copy(x[static_cast<std::size_t>(r)].begin(), x[static_cast<std::size_t>(r)].end(),
                          others.begin() + (r < self ? r : r - 1) * stride);
            Array acc(gpu, overwrite ? std::vector<float>(static_cast<std::size_t>(n), NAN) : contract::contribution(9, n),
                      shift);
            Array own(gpu, x[static_cast<std::size_t>(self)], shift);
            Array received(gpu, others, 0);
            gpu_emulated::parallel_kernel_table().add_in_rank_order({.acc = acc.device(),
                                                                     .own = own.device(),
                                                                     .others = ranks == 1 ? nullptr : received.device(),
                                                                     .stride = stride,
                                                                     .self = self,
                                                                     .ranks = ranks,
                                                                     .n = n,
                                                                     .overwrite = overwrite},
                                                                    *queue);
            const Status status = queue->mark()->wait();
            ASSERT_TRUE(status.ok()) << status.message();
            std::vector<const float*> pointers;
            for (const auto& values : x) pointers.push_back(values.data());
            sum_in_rank_order(pointers, acc.host().data(), n, overwrite);
            ASSERT_TRUE(acc.is_equal()) << n << " elements, stride " << stride << ", shift " << shift << ", overwrite "
                                        << overwrite << ", rank " << self;
          }
}

INSTANTIATE_TEST_SUITE_P(Ranks, RankSum, ::testing::Values(1, 2, 3, 4));

}  // namespace
}  // namespace strata
