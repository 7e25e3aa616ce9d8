// CUDA body of device.h.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include "runtime/dtype.h"
#include "runtime/gpu/driver.h"
#include "runtime/gpu/fault.h"

#define STRATA_GPU gpu_cuda
#define STRATA_KERNEL __global__ void
#define STRATA_DEVICE __device__ __forceinline__
// At most this many threads a block, at least so many blocks on a multiprocessor.
#define STRATA_LAUNCH_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
// Before a loop whose indices choose registers.
#define STRATA_UNROLL _Pragma("unroll")

namespace strata::gpu_cuda {

inline constexpr int kWarp = 32;

// ---- where a thread is ----
STRATA_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }  // blocks have one dim
STRATA_DEVICE int block_threads() { return static_cast<int>(blockDim.x); }
STRATA_DEVICE int lane_index() { return static_cast<int>(threadIdx.x) % kWarp; }
STRATA_DEVICE int warp_index() { return static_cast<int>(threadIdx.x) / kWarp; }
STRATA_DEVICE std::int64_t block_x() { return blockIdx.x; }
STRATA_DEVICE std::int64_t block_y() { return blockIdx.y; }
STRATA_DEVICE std::int64_t block_z() { return blockIdx.z; }
STRATA_DEVICE std::int64_t blocks_x() { return gridDim.x; }

// ---- shared memory: one dynamic allocation a block, given at launch; views of it ----
template <class T>
struct SharedArray {
  T* data;
  STRATA_DEVICE T& operator[](int i) const { return data[i]; }
};
// `count` elements at `byte_offset`, a multiple of alignof(T) (and of 16 where 16-byte accesses are made).
template <class T>
STRATA_DEVICE SharedArray<T> shared_array(int byte_offset, int /*count*/) {
  extern __shared__ __align__(128) unsigned char strata_shared_memory[];
  return {reinterpret_cast<T*>(strata_shared_memory + byte_offset)};
}

STRATA_DEVICE void sync_block() { __syncthreads(); }
STRATA_DEVICE void sync_warp() { __syncwarp(); }

// ---- across the lanes of a full warp; T is 4 or 8 bytes ----
template <class T>
STRATA_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
template <class T>
STRATA_DEVICE T shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
// Of lane + delta; lanes at the end keep their own.
template <class T>
STRATA_DEVICE T shuffle_down(T value, int delta) {
  return __shfl_down_sync(0xffffffffu, value, delta);
}

// ---- 16 bytes, or 8 of a global array, at once; addresses are multiples of that ----
template <class T, int kBytes = 16>
struct alignas(kBytes) Pack {
  static constexpr int kCount = kBytes / static_cast<int>(sizeof(T));
  T values[kCount];
  STRATA_DEVICE T& operator[](int i) { return values[i]; }
  STRATA_DEVICE const T& operator[](int i) const { return values[i]; }
};
template <class T>
STRATA_DEVICE Pack<T> load_pack(const T* from) {
  const uint4 raw = *reinterpret_cast<const uint4*>(from);
  Pack<T> pack;
  *reinterpret_cast<uint4*>(&pack) = raw;
  return pack;
}
template <class T, int kBytes>
STRATA_DEVICE void store_pack(T* to, const Pack<T, kBytes>& pack) {
  using Words = std::conditional_t<kBytes == 16, uint4, uint2>;
  static_assert(sizeof(Words) == kBytes);
  *reinterpret_cast<Words*>(to) = *reinterpret_cast<const Words*>(&pack);
}
// Of a shared array, at element i (a multiple of Pack<T>::kCount).
template <class T>
STRATA_DEVICE Pack<T> load_pack(const SharedArray<T>& from, int i) {
  return load_pack(from.data + i);
}
template <class T>
STRATA_DEVICE void store_pack(const SharedArray<T>& to, int i, const Pack<T>& pack) {
  store_pack(to.data + i, pack);
}

// ---- arithmetic, each rounded once to nearest even, never contracted; denormals kept ----
STRATA_DEVICE float add_rn(float a, float b) { return __fadd_rn(a, b); }
STRATA_DEVICE float sub_rn(float a, float b) { return __fsub_rn(a, b); }
STRATA_DEVICE float mul_rn(float a, float b) { return __fmul_rn(a, b); }
STRATA_DEVICE float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }
STRATA_DEVICE float div_rn(float a, float b) { return __fdiv_rn(a, b); }
STRATA_DEVICE float sqrt_rn(float a) { return __fsqrt_rn(a); }
STRATA_DEVICE double add_rn(double a, double b) { return __dadd_rn(a, b); }
STRATA_DEVICE double mul_rn(double a, double b) { return __dmul_rn(a, b); }
STRATA_DEVICE double div_rn(double a, double b) { return __ddiv_rn(a, b); }
STRATA_DEVICE double sqrt_rn(double a) { return __dsqrt_rn(a); }
// Functions whose last bits may differ from the host's.
STRATA_DEVICE float exp_approx(float x) { return __expf(x); }
STRATA_DEVICE float exp2_approx(float x) { return exp2f(x); }
// One instruction; 0 where the power is below the smallest normal number.
STRATA_DEVICE float exp2_flushed(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}
STRATA_DEVICE float log_approx(float x) { return logf(x); }
STRATA_DEVICE float max_of(float a, float b) { return fmaxf(a, b); }

// ---- conversions: dtype.h's rounding by integer arithmetic ----
STRATA_DEVICE float bits_to_float(std::uint32_t bits) { return __uint_as_float(bits); }
STRATA_DEVICE std::uint32_t float_to_bits(float x) { return __float_as_uint(x); }
// Fast hardware rounding of two floats to a word of two bf16 (first in the low half); for finite values the same as dtype.h.
STRATA_DEVICE std::uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

// ---- tensor cores ----
// D(16x8, f32) += A(16x16, bf16, row) B(16x8, bf16, column). Fragments as PTX mma.m16n8k16 lays them out, with
// g = lane / 4 and t = lane % 4: a[0] = A[g][2t, 2t+1], a[1] = A[g+8][2t..], a[2] = A[g][2t+8..], a[3] = A[g+8][2t+8..];
// b[0] = B[2t, 2t+1][g], b[1] = B[2t+8, 2t+9][g]; d[0], d[1] = D[g][2t, 2t+1], d[2], d[3] = D[g+8][2t, 2t+1].
STRATA_DEVICE void mma_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Four 8x8 matrices of 16-bit elements: lanes 8k to 8k+7 give the places of the rows of matrix k (element index of 8
// consecutive elements, a multiple of 8); r[k] holds row lane / 4, columns 2 (lane % 4) and the next of matrix k.
STRATA_DEVICE void load_matrices(std::uint32_t (&r)[4], const SharedArray<bf16>& from, int i) {
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(from.data + i));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
}
// The same, each matrix transposed: r[k] holds column lane / 4, rows 2 (lane % 4) and the next.
STRATA_DEVICE void load_matrices_transposed(std::uint32_t (&r)[4], const SharedArray<bf16>& from, int i) {
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(from.data + i));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
}

// ---- asynchronous copies of 16 bytes from global to shared memory; zeros where !valid (`from` is then not read) ----
template <class T>
STRATA_DEVICE void copy_async(const SharedArray<T>& to, int i, const T* from, bool valid) {
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(to.data + i));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes));
}
STRATA_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;"); }
// Until at most kPending of this thread's committed groups are on their way; sync_block() then shows them to the block.
template <int kPending>
STRATA_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending));
}

// The first fault of a queue stays.
STRATA_DEVICE void report_fault(GpuFault* fault, GpuFaultKind kind, std::int64_t row, std::int32_t value, std::int64_t limit) {
  if (atomicCAS_system(&fault->kind, 0u, static_cast<std::uint32_t>(kind)) != 0u) return;
  fault->row = row;
  fault->value = value;
  fault->limit = limit;
  __threadfence_system();
}

// The symbol of the kernel in it, as the compiler writes it (`c++filt` reads it).
inline Status refused_launch(const void* kernel, cudaError_t error, int ordinal, const std::string& device) {
  const char* symbol = nullptr;
  if (cudaFuncGetName(&symbol, kernel) != cudaSuccess) symbol = "a kernel";
  (void)cudaGetLastError();
  return {Code::internal, std::string(symbol) + " was refused by GPU " + std::to_string(ordinal) + " (" + device +
                              "): " + cudaGetErrorString(error)};
}

struct Grid {
  std::int64_t x = 1, y = 1, z = 1;
};

// Enqueues kernel(args...) on `queue`; an empty grid enqueues nothing. Called by the launchers of a .cu file.
template <class... Params, class... Args>
void launch(GpuQueue& queue, void (*kernel)(Params...), Grid grid, int threads, std::size_t shared_bytes, Args... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const int ordinal = queue.properties().ordinal;
  cudaError_t error = cudaSetDevice(ordinal);  // the calling thread may be new, or have worked for another one
  if (error == cudaSuccess && shared_bytes > 48u * 1024u)
    error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shared_bytes));
  if (error == cudaSuccess) {
    kernel<<<dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y), static_cast<unsigned>(grid.z)),
             static_cast<unsigned>(threads), shared_bytes, static_cast<cudaStream_t>(queue.native())>>>(args...);
    error = cudaGetLastError();
  }
  if (error != cudaSuccess)
    queue.fail(refused_launch(reinterpret_cast<const void*>(kernel), error, ordinal, queue.properties().name));
}

}  // namespace strata::gpu_cuda
