// What the kernel tests share: typed arrays, references in double, and running a kernel on every machine it must agree on.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "runtime/kernels/isa.h"
#include "runtime/rng.h"
#include "runtime/stream.h"
#include "runtime/tensor.h"
#include "tests/machines/machines.h"
#include "tests/machines/tolerances.h"

namespace strata::kernels::testing {

// How arrays of the calling thread lie from now on.
inline strata::testing::ArrayMemory::Placement& placement() {
  thread_local auto current = strata::testing::ArrayMemory::Placement::aligned;
  return current;
}
class TightArrays {
 public:
  explicit TightArrays(bool tight = true) {
    if (tight) placement() = strata::testing::ArrayMemory::Placement::tight;
  }
  ~TightArrays() { placement() = strata::testing::ArrayMemory::Placement::aligned; }
  TightArrays(const TightArrays&) = delete;
  TightArrays& operator=(const TightArrays&) = delete;
};

// Owns elements of a dtype; reads and writes them as double.
class Array {
 public:
  Array(DType dtype, Shape shape)
      : dtype_(dtype),
        shape_(shape),
        bytes_(static_cast<std::size_t>(shape_.numel()) * size_of(dtype_), size_of(dtype_), placement()) {}
  Array(const Array& other) : Array(other.dtype_, other.shape_) {
    if (bytes_.size() > 0) std::memcpy(bytes_.data(), other.bytes_.data(), bytes_.size());
  }
  Array(Array&&) = default;
  Array& operator=(const Array& other) { return *this = Array(other); }
  Array& operator=(Array&&) = default;
  ~Array() = default;
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  std::int64_t numel() const { return shape_.numel(); }
  TensorRef ref() { return {bytes_.data(), dtype_, shape_}; }
  double at(std::int64_t i) const {
    switch (dtype_) {
      case DType::f32: return static_cast<double>(raw<float>(i));
      case DType::bf16: return static_cast<double>(to_float(raw<bf16>(i)));
      case DType::f16: return static_cast<double>(to_float(raw<f16>(i)));
      case DType::i32: return static_cast<double>(raw<std::int32_t>(i));
    }
    return 0.0;
  }
  void set(std::int64_t i, double value) {
    switch (dtype_) {
      case DType::f32: put(i, static_cast<float>(value)); break;
      case DType::bf16: put(i, to_bf16(static_cast<float>(value))); break;
      case DType::f16: put(i, to_f16(static_cast<float>(value))); break;
      case DType::i32: put(i, static_cast<std::int32_t>(value)); break;
    }
  }
  bool guard_is_intact() const { return bytes_.is_intact(); }
  bool operator==(const Array& other) const {
    return bytes_.size() == other.bytes_.size() &&
           (bytes_.size() == 0 || std::memcmp(bytes_.data(), other.bytes_.data(), bytes_.size()) == 0);
  }

 private:
  template <class T>
  T raw(std::int64_t i) const {
    T value;
    std::memcpy(&value, bytes_.data() + static_cast<std::size_t>(i) * sizeof(T), sizeof(T));
    return value;
  }
  template <class T>
  void put(std::int64_t i, T value) {
    std::memcpy(bytes_.data() + static_cast<std::size_t>(i) * sizeof(T), &value, sizeof(T));
  }
  DType dtype_;
  Shape shape_;
  strata::testing::ArrayMemory bytes_;
};

inline Array normal(DType dtype, Shape shape, const char* name, double mean = 0.0, double stddev = 1.0) {
  Array a(dtype, shape);
  std::vector<float> values(static_cast<std::size_t>(a.numel()));
  Philox(1, stream_id(name)).normal(0, static_cast<float>(mean), static_cast<float>(stddev), values);
  for (std::size_t i = 0; i < values.size(); ++i) a.set(static_cast<std::int64_t>(i), static_cast<double>(values[i]));
  return a;
}

inline Array tokens(std::int64_t R, std::int64_t V, const char* name) {
  Array a(DType::i32, {R});
  const Philox draw(2, stream_id(name));
  for (std::int64_t r = 0; r < R; ++r)
    a.set(r, static_cast<double>(draw.u32(static_cast<std::uint64_t>(r)) % static_cast<std::uint64_t>(V)));
  return a;
}

inline void expect_close(const Array& actual, const std::vector<double>& expected, const char* what, double factor = 1.0) {
  ASSERT_EQ(actual.numel(), static_cast<std::int64_t>(expected.size())) << what;
  EXPECT_TRUE(actual.guard_is_intact()) << what << ": wrote behind its end";
  const strata::testing::Tolerance tolerance = strata::testing::kernel_tolerance(actual.dtype());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double value = actual.at(static_cast<std::int64_t>(i));
    const double allowed = factor * (tolerance.absolute + tolerance.relative * std::abs(expected[i]));
    ASSERT_LE(std::abs(value - expected[i]), allowed)
        << what << "[" << i << "] of " << actual.shape().str() << " " << to_string(actual.dtype()) << ": " << value
        << " instead of " << expected[i];
  }
}

// The value as the dtype stores it.
inline double rounded(double value, DType dtype) {
  Array a(dtype, {1});
  a.set(0, value);
  return a.at(0);
}

// A matrix in the other orientation.
inline Array transposed(const Array& a) {
  const std::int64_t rows = a.shape()[0], columns = a.shape()[1];
  Array out(a.dtype(), {columns, rows});
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) out.set(c * rows + r, a.at(r * columns + c));
  return out;
}

using Outputs = std::vector<Array>;

using Kernel = std::function<Outputs(StreamRef)>;
using Check = std::function<void(const Outputs&)>;

// What bits may depend on beside shapes. address: on where an array begins in 16 bytes too, which in a tier is always the same.
enum class Bits { of_shapes, of_addresses };

// Twice, to the same bits: once with arrays that begin where a tier's do, once with nothing behind their last element.
inline void on_gpu(const strata::testing::GpuMachine& machine, const Kernel& kernel, const Check& check,
                   Bits bits = Bits::of_shapes) {
  SCOPED_TRACE(machine.name);
  strata::testing::GpuBench bench(machine);
  const Outputs first = kernel(bench.stream());
  if (bits == Bits::of_addresses) {
    EXPECT_TRUE(first == kernel(bench.stream())) << "two runs differ";
  }
  {
    const TightArrays tight;
    const Outputs second = kernel(bench.stream());
    if (bits == Bits::of_shapes) {
      EXPECT_TRUE(first == second) << "two runs differ";
    } else {
      check(second);
    }
  }
  check(first);
}

inline void on_every_gpu(const Kernel& kernel, const Check& check, Bits bits = Bits::of_shapes) {
  if (strata::testing::kRacesOnly) return;
  for (const strata::testing::GpuMachine& machine : strata::testing::gpu_machines()) on_gpu(machine, kernel, check, bits);
}

// With every instruction set and 1, 2 and 3 threads; under a sanitizer with 2, and where only races count with one set.
inline void on_the_host(const Kernel& kernel, const Check& check) {
  const Isa before = active_isa();
  const std::vector<int> counts = strata::testing::kSanitized ? std::vector{2} : std::vector{1, 2, 3};
  for (const Isa isa : strata::testing::kRacesOnly ? std::vector{before} : available_isas()) {
    SCOPED_TRACE(to_string(isa));
    ASSERT_TRUE(set_isa(isa).ok());
    Outputs first;
    for (const int threads : counts) {
      Device device(Backend::host, threads);
      Stream stream(device, "compute");
      const TightArrays tight(threads == 2);
      const Outputs outputs = kernel(stream);
      if (threads == counts.front())
        first = outputs;
      else
        EXPECT_TRUE(first == outputs) << "the bits depend on the number of threads (" << threads << ")";
    }
    check(first);
    if (::testing::Test::HasFatalFailure()) break;
  }
  ASSERT_TRUE(set_isa(before).ok());
}

// Runs `kernel` (which makes its buffers, enqueues, and returns what was written) on the host and on the GPUs. Thread counts
// and repetitions must agree to the bit; `check` sees the result of each machine.
inline void on_every_machine(const Kernel& kernel, const Check& check, Bits bits = Bits::of_shapes) {
  on_every_gpu(kernel, check, bits);
  if (strata::testing::tests_the_host()) on_the_host(kernel, check);
}

inline void finish(StreamRef stream) {
  const Status status = stream.synchronize();
  ASSERT_TRUE(status.ok()) << status.message();
}

// d f / d x_i by central differences; f is evaluated in double.
inline double derivative(const std::function<double(const std::vector<double>&)>& f, std::vector<double> x, std::size_t i) {
  const double step = 1e-5 * std::max(1.0, std::abs(x[i]));
  const double at = x[i];
  x[i] = at + step;
  const double above = f(x);
  x[i] = at - step;
  return (above - f(x)) / (2.0 * step);
}

}  // namespace strata::kernels::testing
