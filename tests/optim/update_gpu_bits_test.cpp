// The GPU's updates (their source on the emulator, or a GPU) give the bits of every host body, whatever the length,
// alignment and cutting. tests/structure/ptx_test.py shows that nvcc keeps the operations. Mutations caught: a * b + c instead
// of fma, NaN not canonicalised, a unit that begins one element off, a phase that does not look at every array, an edge that
// writes one element too many.
#include <algorithm>
#include <deque>
#include <memory>

#include "runtime/kernels/isa.h"
#include "tests/machines/machines.h"
#include "update_testing.h"

namespace strata {
namespace {

using namespace update_testing;  // NOLINT

class UpdateGpuBits : public ::testing::TestWithParam<Method> {
 protected:
  static const Optimizer& optimizer() { return *GetParam().optimizer; }
  void update_on_gpu(const UpdateSlice& slice, const ParamGroup& group = kDecays) {
    optimizer().enqueue_on_gpu(slice, kStep, group, *driver_, *queue_);
    const Status status = queue_->mark()->wait();
    ASSERT_TRUE(status.ok()) << status.message();
  }

 private:
  std::unique_ptr<GpuDriver> driver_ = testing::gpu_machines()[0].make_driver();
  std::unique_ptr<GpuQueue> queue_ = driver_->make_queue("update").value();
};

std::vector<std::size_t> lengths() {
  std::vector<std::size_t> lengths = {255, 256, 257, 2047, 2048, 2049, 4097};  // a block of threads takes 2048
  for (std::size_t n = 0; n <= 33; ++n) lengths.push_back(n);
  return lengths;
}

// All arrays misaligned alike, and each one unlike the others.
std::vector<Offsets> all_offsets() {
  std::vector<Offsets> all;
  for (const std::size_t offset : {0, 1, 2, 3, 4, 5, 6, 7, 8, 13}) {
    Offsets offsets;
    offsets.fill(offset);
    all.push_back(offsets);
    for (std::size_t& odd : offsets) {
      ++odd;
      all.push_back(offsets);
      --odd;
    }
  }
  return all;
}

TEST_P(UpdateGpuBits, EqualEveryHostBodyForAnyValueLengthAndAlignment) {
  const kernels::Isa before = kernels::active_isa();
  for (const std::size_t n : lengths()) {
    for (const ParamGroup& group : {ParamGroup{}, kDecays}) {
      for (const auto& [with16, gradient16] : {std::pair(false, false), {true, false}, {true, true}}) {
        const auto fill = [&, with16 = with16, gradient16 = gradient16](State& state) {
          state.fill(n, n);
          return state.slice(0, n, with16, gradient16);
        };
        SCOPED_TRACE(::testing::Message() << "n " << n << ", decay " << group.weight_decay << ", p16 " << with16 << ", g16 "
                                          << gradient16);
        std::deque<State> wants;
        for (const kernels::Isa isa : kernels::available_isas()) {
          ASSERT_TRUE(kernels::set_isa(isa).ok());
          optimizer().update(fill(wants.emplace_back(n, 0)), kStep, group);
        }
        State elsewhere(n, 1), from(n, 0);
        (void)fill(elsewhere);  // what the method does not keep
        UpdateSlice slice = fill(from);
        slice.new_p = elsewhere.p.data(), slice.new_states = {elsewhere.first.data(), elsewhere.second.data()};
        if (with16) slice.p16 = elsewhere.p16.data();
        ASSERT_NO_FATAL_FAILURE(update_on_gpu(slice, group));
        ASSERT_TRUE(elsewhere.guards_intact() && same(wants.front(), elsewhere, n));
        for (const Offsets& offsets : all_offsets()) {
          SCOPED_TRACE("offsets " + ::testing::PrintToString(offsets));
          State got(n, offsets);
          ASSERT_NO_FATAL_FAILURE(update_on_gpu(fill(got), group));
          ASSERT_TRUE(got.guards_intact()) << "wrote outside";
          for (State& want : wants) ASSERT_TRUE(same(want, got, n));
        }
      }
    }
  }
  ASSERT_TRUE(kernels::set_isa(before).ok());
}

TEST_P(UpdateGpuBits, DoNotDependOnCutting) {
  constexpr std::size_t kN = 1023;
  State whole(kN, 0);
  whole.fill(kN, 1);
  optimizer().update(whole.slice(0, kN, true), kStep, kDecays);
  for (const std::size_t cut : {1, 7, 8, 9, 33, 1000, 1023}) {
    State pieces(kN, Offsets{1, 1, 1, 1, 1});
    pieces.fill(kN, 1);
    for (std::size_t i = 0; i < kN; i += cut) update_on_gpu(pieces.slice(i, std::min(cut, kN - i), true));
    ASSERT_TRUE(same(whole, pieces, kN)) << "cut " << cut;
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, UpdateGpuBits, ::testing::ValuesIn(methods()),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace strata
