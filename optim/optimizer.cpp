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
  part.first += begin;
  part.states_before_first =
      slice.map.kind == StatefulKind::all ? slice.states_before_first + begin : states_before(slice.map, part.first);
  const std::int64_t states = part.states_before_first - slice.states_before_first;
  for (auto* arrays : {&part.states, &part.new_states})
    for (float*& state : *arrays)
      if (state != nullptr) state += states;
  for (auto* arrays : {&part.packed, &part.new_packed})
    for (std::byte*& state : *arrays)
      if (state != nullptr) state += slice.format.bytes(begin);
  return part;
}

UpdateSlice stateful_slice(const StatefulSet& set, const UpdateSlice& slice, std::int64_t first, const StatefulWord* words) {
  STRATA_CHECK(first >= 0 && slice.n >= 0 && first + slice.n <= set.rows() * set.columns(), "a slice is of its matrix");
  UpdateSlice of_set = slice;
  of_set.map = words == nullptr ? set.map() : set.map(words);
  of_set.first = first;
  of_set.states_before_first = states_before(set.map(), first);
  return of_set;
}

StatefulSet Optimizer::stateful(const ParamShape& param, const ParamGroup&, std::int64_t) const {
  return StatefulSet::all(param.rows, param.columns);
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
