// The kernel of a reduction over ranks against the host's sum: the same bits.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "communicator_contract.h"
#include "parallel/exchange.h"
#include "parallel/gpu_kernels.h"
#include "tests/machines/machines.h"

namespace strata {
namespace {

// Host and device arrays, the device's `shift` elements behind an aligned address.
class Array {
 public:
  Array(GpuDriver& gpu, GpuQueue& queue, std::vector<float> values, std::size_t shift)
      : gpu_(gpu), values_(std::move(values)), bytes_(values_.size() * sizeof(float)) {
    memory_ = *gpu_.allocate_device(bytes_ + shift * sizeof(float) + 1);
    data_ = reinterpret_cast<float*>(memory_) + shift;
    queue.copy(values_.data(), data_, bytes_);
  }
  ~Array() { gpu_.free_device(memory_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  float* device() const { return data_; }
  std::vector<float>& host() { return values_; }
  // What the device has when the queue is done.
  Result<std::vector<float>> there(GpuQueue& queue) const {
    std::vector<float> values(values_.size());
    queue.copy(data_, values.data(), bytes_);
    STRATA_RETURN_IF_ERROR(queue.mark()->wait());
    return values;
  }

 private:
  GpuDriver& gpu_;
  std::vector<float> values_;
  std::size_t bytes_;
  std::byte* memory_ = nullptr;
  float* data_ = nullptr;
};

class GpuRankSum : public ::testing::TestWithParam<int> {};

TEST_P(GpuRankSum, HasTheHostsBits) {
  const int ranks = GetParam();
  const std::unique_ptr<GpuDriver> gpu = testing::gpu_machines()[0].make_driver();
  const std::unique_ptr<GpuQueue> queue = std::move(gpu->make_queue("rank sum")).value();
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
            Array acc(*gpu, *queue,
                      overwrite ? std::vector<float>(static_cast<std::size_t>(n), NAN) : contract::contribution(9, n), shift);
            Array own(*gpu, *queue, x[static_cast<std::size_t>(self)], shift);
            Array received(*gpu, *queue, others, 0);
            gpu->table<ParallelGpuKernels>().add_in_rank_order({.acc = acc.device(),
                                                                .own = own.device(),
                                                                .others = ranks == 1 ? nullptr : received.device(),
                                                                .stride = stride,
                                                                .self = self,
                                                                .ranks = ranks,
                                                                .n = n,
                                                                .overwrite = overwrite},
                                                               *queue);
            const Result<std::vector<float>> sums = acc.there(*queue);
            ASSERT_TRUE(sums.ok()) << sums.status().message();
            std::vector<const float*> pointers;
            for (const auto& values : x) pointers.push_back(values.data());
            sum_in_rank_order(pointers, acc.host().data(), n, overwrite);
            ASSERT_TRUE(n == 0 || std::memcmp(sums->data(), acc.host().data(), sums->size() * sizeof(float)) == 0)
                << n << " elements, stride " << stride << ", shift " << shift << ", overwrite " << overwrite << ", rank "
                << self;
          }
}

INSTANTIATE_TEST_SUITE_P(Ranks, GpuRankSum, ::testing::Values(1, 2, 3, 4));

}  // namespace
}  // namespace strata
