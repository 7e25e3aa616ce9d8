// Column sums, in the order of kernels/linear_simd.cpp: blocks of 64 rows one after the other, then the blocks' sums. The same
// bits as the host's, except which NaN a NaN is.
#include "runtime/gpu/kernels/access.h"
#include "runtime/gpu/kernels/entries.h"
#include "runtime/gpu/kernels/reduce.h"

namespace strata::STRATA_GPU {
namespace {

constexpr int kRowBlock = 64;
constexpr int kColumnThreads = 128;
constexpr int kRowBatch = 8;     // rows whose loads are on their way at once
constexpr int kBlockBatch = 32;  // the same for partial sums: few threads read them

// Blocks: blocks of rows (which may be many) in x, columns in y.
template <class T, bool kPacked>
STRATA_KERNEL block_sums_kernel(const T* dy_RO, std::int64_t R, std::int64_t O, float* partials_BO) {
  using Values = Chunk<T, kPacked>;
  const std::int64_t column = (block_y() * block_threads() + thread_index()) * Values::kCount;
  if (column >= O) return;
  const std::int64_t first = block_x() * kRowBlock;
  const T* at = dy_RO + first * O + column;
  const auto rows = static_cast<int>(R - first < kRowBlock ? R - first : kRowBlock);
  Values sum = Values::load(at);
  int r = 1;
  for (; r + kRowBatch <= rows; r += kRowBatch) {
    Values batch[kRowBatch];
    for (int k = 0; k < kRowBatch; ++k) batch[k] = Values::load(at + (r + k) * O);
    for (int k = 0; k < kRowBatch; ++k)
      for (int c = 0; c < Values::kCount; ++c) sum.values[c] = add_rn(sum.values[c], batch[k].values[c]);
  }
  for (; r < rows; ++r) {
    const Values row = Values::load(at + r * O);
    for (int c = 0; c < Values::kCount; ++c) sum.values[c] = add_rn(sum.values[c], row.values[c]);
  }
  for (int c = 0; c < Values::kCount; ++c) partials_BO[block_x() * O + column + c] = sum.values[c];
}

STRATA_KERNEL total_sums_kernel(const float* partials_BO, std::int64_t blocks, std::int64_t O, bool accumulate, float* sums_O) {
  const std::int64_t column = block_x() * block_threads() + thread_index();
  if (column >= O) return;
  const float* at = partials_BO + column;
  float total = 0.0f;
  std::int64_t b = 0;
  for (; b + kBlockBatch <= blocks; b += kBlockBatch) {
    float batch[kBlockBatch];
    for (int k = 0; k < kBlockBatch; ++k) batch[k] = at[(b + k) * O];
    for (const float value : batch) total = add_rn(total, value);
  }
  for (; b < blocks; ++b) total = add_rn(total, at[b * O]);
  sums_O[column] = accumulate ? add_rn(sums_O[column], total) : total;
}

template <class T, bool kPacked>
void launch_block_sums(const T* dy_RO, std::int64_t R, std::int64_t O, float* partials_BO, GpuQueue& queue) {
  const Grid grid = {.x = blocks_for(R, kRowBlock), .y = blocks_for(O, kColumnThreads * Chunk<T, kPacked>::kCount)};
  launch(queue, block_sums_kernel<T, kPacked>, grid, kColumnThreads, 0, dy_RO, R, O, partials_BO);
}

}  // namespace

void column_sums(const void* dy_RO, DType dtype, std::int64_t R, std::int64_t O, bool accumulate, float* sums_O,
                 GpuQueue& queue) {
  if (R == 0 && accumulate) return;
  const std::int64_t blocks = blocks_for(R, kRowBlock);
  if (!has_scratch(queue, "column_sums", blocks * O * static_cast<std::int64_t>(sizeof(float)))) return;
  auto* partials_BO = reinterpret_cast<float*>(queue.scratch().data());
  with_type(dtype, [&]<class T>() {
    const T* dy = static_cast<const T*>(dy_RO);
    if (can_pack<T>(O, dy))
      launch_block_sums<T, true>(dy, R, O, partials_BO, queue);
    else
      launch_block_sums<T, false>(dy, R, O, partials_BO, queue);
  });
  launch(queue, total_sums_kernel, {.x = blocks_for(O, kColumnThreads)}, kColumnThreads, 0, partials_BO, blocks, O, accumulate,
         sums_O);
}

}  // namespace strata::STRATA_GPU
