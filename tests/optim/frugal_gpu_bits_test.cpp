// FRUGAL's updates on the GPU (their source on the emulator, or a GPU) give the bits of every host body. Mutations caught: bits
// of a unit that begins before the range not shifted, states before the range counted in, states by 16 bytes at any address,
// the states of a new period read, an edge that writes one element too many, FMA where the formula has none.
#include <algorithm>
#include <memory>
#include <memory_resource>
#include <string>
#include <vector>

#include "frugal_testing.h"
#include "runtime/kernels/isa.h"

namespace strata {
namespace {

using namespace frugal_testing;  // NOLINT

class FrugalGpuBits : public ::testing::TestWithParam<Method> {
 protected:
  void update_on_gpu(const FrugalConfig& config, const Matrix& matrix, const UpdateSlice& range, std::int64_t first,
                     const UpdateStep& step) {
    const auto words = matrix.set.words();
    const std::pmr::vector<StatefulWord> copy(words.begin(), words.end(), &testing::shared_memory());
    const UpdateSlice slice = stateful_slice(matrix.set, range, first, copy.data());
    Frugal(config).enqueue_on_gpu(slice, step, kDecays, *driver_, *queue_);
    const Status status = queue_->mark()->wait();
    ASSERT_TRUE(status.ok()) << status.message();
  }

 private:
  std::unique_ptr<GpuDriver> driver_ = testing::gpu_machines()[0].make_driver();
  std::unique_ptr<GpuQueue> queue_ = driver_->make_queue("update").value();
};

struct Shape {
  std::int64_t rows, columns;
};

// All arrays misaligned alike, and one of them unlike the others.
std::vector<update_testing::Offsets> all_offsets() {
  std::vector<update_testing::Offsets> all;
  for (const std::size_t offset : {0, 1, 3, 4, 7, 8}) all.push_back({offset, offset, offset, offset, offset});
  for (std::size_t odd = 0; odd < 5; ++odd) {
    all.push_back({4, 4, 4, 4, 4});
    ++all.back()[odd];
  }
  return all;
}

TEST_P(FrugalGpuBits, EqualEveryHostBodyForAnyChoiceValueRangeAndAlignment) {
  const kernels::Isa before = kernels::active_isa();
  std::uint64_t seed = 0;
  for (const StatefulKind kind : kKinds) {
    for (const auto& [rows, columns] : {Shape{1, 1}, {3, 5}, {9, 8}, {33, 17}, {40, 64}}) {
      const Matrix matrix = Matrix::random(kind, rows, columns, 0.5, ++seed);
      for (const auto& [first, end] : {std::pair<std::int64_t, std::int64_t>{0, matrix.size()},
                                       {matrix.size() / 3, matrix.size() - matrix.size() / 4},
                                       {matrix.size() / 2, matrix.size() / 2}}) {
        for (const StateFreeRule rule : kStateFreeRules) {
          FrugalConfig config = GetParam().config;
          config.state_free = rule;
          const UpdateStep step{.number = rule == StateFreeRule::sgd ? 201 : 207, .lr = 3e-4, .grad_scale = 0.37};
          const bool with16 = rule != StateFreeRule::none, gradient16 = rule == StateFreeRule::sign_sgd;
          const std::int64_t n = end - first, states = matrix.before(end) - matrix.before(first);
          SCOPED_TRACE(::testing::Message() << static_cast<int>(kind) << ": " << rows << " x " << columns << " from " << first
                                            << " to " << end << ", rule " << static_cast<int>(rule));
          Arrays want(n, states, 0);
          for (const kernels::Isa isa : kernels::available_isas()) {
            ASSERT_TRUE(kernels::set_isa(isa).ok());
            Arrays host(n, states, 0);
            want.fill(seed), host.fill(seed);
            Frugal(config).update(stateful_slice(matrix.set, want.slice(with16, gradient16), first), step, kDecays);
            reference(config, matrix, first, host.slice(with16, gradient16), step, kDecays);
            ASSERT_TRUE(same(want, host));
          }
          for (const update_testing::Offsets& offsets : all_offsets()) {
            Arrays got(n, states, offsets);
            got.fill(seed);
            ASSERT_NO_FATAL_FAILURE(update_on_gpu(config, matrix, got.slice(with16, gradient16), first, step));
            ASSERT_TRUE(got.guards_intact()) << "wrote outside: " << ::testing::PrintToString(offsets);
            ASSERT_TRUE(same(want, got)) << ::testing::PrintToString(offsets);
          }
          Arrays from(n, states, 1), to(n, states, 2);
          from.fill(seed), to.fill(seed);  // `to`: what the method does not keep
          UpdateSlice range = from.slice(with16, gradient16);
          range.new_p = to.p.data(), range.new_states = {to.first.data(), to.second.data()};
          if (with16) range.p16 = to.p16.data();
          ASSERT_NO_FATAL_FAILURE(update_on_gpu(config, matrix, range, first, step));
          ASSERT_TRUE(to.guards_intact() && from.guards_intact());
          ASSERT_TRUE(same(want, to));
        }
      }
    }
  }
  ASSERT_TRUE(kernels::set_isa(before).ok());
}

TEST_P(FrugalGpuBits, DoNotDependOnCutting) {
  const FrugalConfig& config = GetParam().config;
  for (const StatefulKind kind : kKinds) {
    const Matrix matrix = Matrix::random(kind, 31, 33, 0.25, 3);
    Arrays whole(matrix.size(), matrix.states(), 0);
    whole.fill(1);
    Frugal(config).update(stateful_slice(matrix.set, whole.slice(), 0), kStep, kDecays);
    for (const std::int64_t cut : {7, 8, 33, 1000}) {
      Arrays pieces(matrix.size(), matrix.states(), 1);
      pieces.fill(1);
      for (std::int64_t i = 0; i < matrix.size(); i += cut) {
        const std::int64_t n = std::min(cut, matrix.size() - i);
        update_on_gpu(config, matrix, pieces.slice(i, n, states_before(matrix.set.map(), i), true, false), i, kStep);
      }
      ASSERT_TRUE(same(whole, pieces)) << "kind " << static_cast<int>(kind) << ", cut " << cut;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, FrugalGpuBits, ::testing::ValuesIn(methods()),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace strata
