#include "optim/optimizer.h"

#include <algorithm>

namespace strata {

UpdateSlice part(const UpdateSlice& slice, std::int64_t begin, std::int64_t n) {
  UpdateSlice part = slice;
  part.n = n;
  const auto move = [begin](auto*& array) {
    if (array != nullptr) array += begin;
  };
  move(part.p);
  move(part.g);
  move(part.g16);
  move(part.p16);
  move(part.new_p);
  for (float*& state : part.states) move(state);
  for (float*& state : part.new_states) move(state);
  return part;
}

void Optimizer::enqueue_on_gpu(const UpdateSlice&, const UpdateStep&, const ParamGroup&, const GpuDriver&, GpuQueue&) const {
  STRATA_CHECK(false, "an optimizer that says it updates on a GPU does");
}

void update(const Optimizer& optimizer, const UpdateSlice& slice, const UpdateStep& step, const ParamGroup& group,
            ThreadPool& pool) {
  const std::int64_t blocks = (slice.n + kUpdateBlock - 1) / kUpdateBlock;
  pool.parallel_for(blocks, [&](std::int64_t block) {
    const std::int64_t begin = block * kUpdateBlock;
    optimizer.update(part(slice, begin, std::min(kUpdateBlock, slice.n - begin)), step, group);
  });
}

}  // namespace strata
