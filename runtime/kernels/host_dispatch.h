// What the <op>.cpp files share: the choice of backend and the cutting of rows into tasks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "runtime/gpu/kernel_table.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"

namespace strata::kernels {

// Enqueues a kernel: the GPU's entry where the GPU serves the stream, else the host body; nothing on the dry backend.
template <class Args, class Body>
void enqueue_kernel(const char* name, StreamRef stream, const Args& args, GpuKernels::Entry<Args> GpuKernels::*entry,
                    Body host_body) {
  if (stream.backend() == Backend::dry) return;
  if (stream.on_gpu()) return (stream.device().gpu().kernels().*entry)(args, GpuOperation(stream, name).queue());
  stream.enqueue(name, std::move(host_body));
}

// Elements that one task should touch: large against the cost of handing a task over, small against a thread's share.
inline constexpr std::int64_t kTaskElements = 32768;

// Rows of `row_elements` for one task; a function of the shape alone, never of the number of threads.
inline std::int64_t rows_per_task(std::int64_t row_elements) {
  return std::max<std::int64_t>(1, kTaskElements / std::max<std::int64_t>(1, row_elements));
}

inline std::int64_t blocks_of(std::int64_t n, std::int64_t block) { return (n + block - 1) / block; }

// body(first, last) for each block of [0, n), on the pool's threads.
template <class Body>
void for_each_block(ThreadPool& pool, std::int64_t n, std::int64_t block, const Body& body) {
  pool.parallel_for(blocks_of(n, block), [&](std::int64_t i) { body(i * block, std::min(n, (i + 1) * block)); });
}

// Whether an optional tensor was given (an empty one has no shape; one of no elements may have no data).
inline bool is_given(const ConstTensorRef& tensor) { return tensor.shape.rank() != 0; }

inline void check_shape(const ConstTensorRef& tensor, const Shape& shape, const char* what) {
  STRATA_CHECK(tensor.shape == shape, std::string(what) + " has shape " + tensor.shape.str() + ", expected " + shape.str());
}
inline void check_dtype(const ConstTensorRef& tensor, DType dtype, const char* what) {
  STRATA_CHECK(tensor.dtype == dtype, std::string(what) + " is " + to_string(tensor.dtype) + ", expected " + to_string(dtype));
}
inline void check_tensor(const ConstTensorRef& tensor, DType dtype, const Shape& shape, const char* what) {
  check_shape(tensor, shape, what);
  check_dtype(tensor, dtype, what);
}
// The compute dtypes.
inline void check_compute_dtype(DType dtype, const char* what) {
  STRATA_CHECK(dtype == DType::f32 || dtype == DType::bf16,
               std::string(what) + " is " + to_string(dtype) + ", expected f32 or bf16");
}

}  // namespace strata::kernels
