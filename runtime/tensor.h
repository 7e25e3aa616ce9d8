// Contiguous row-major tensors. TensorRef does not own; Tensor owns a Buffer of a tier arena.
// Shapes are written as suffixes of names, the same letters everywhere:
//   B batch, T tokens, R = B*T rows, C model dim, N query heads, K key/value heads, H head dim, F ffn dim, V vocab, L layers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "runtime/arena.h"
#include "runtime/dtype.h"
#include "runtime/status.h"

namespace strata {

class Shape {
 public:
  static constexpr int kMaxRank = 4;
  constexpr Shape() = default;
  constexpr Shape(std::initializer_list<std::int64_t> dims) {
    STRATA_CHECK(dims.size() <= kMaxRank, "a tensor has at most four dims");
    for (std::int64_t d : dims) {
      STRATA_CHECK(d >= 0, "a dim is not negative");
      dims_[static_cast<std::size_t>(rank_++)] = d;
    }
  }
  constexpr int rank() const { return rank_; }
  constexpr std::int64_t operator[](int i) const { return dims_[static_cast<std::size_t>(i)]; }
  constexpr std::int64_t numel() const {
    std::int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[static_cast<std::size_t>(i)];
    return n;
  }
  constexpr bool operator==(const Shape&) const = default;
  std::string str() const {  // "[4, 128]"
    std::string s = "[";
    for (int i = 0; i < rank_; ++i) s += (i ? ", " : "") + std::to_string(dims_[static_cast<std::size_t>(i)]);
    return s + "]";
  }

 private:
  std::array<std::int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

// A view of `shape.numel()` elements of `dtype`. data may be null only when numel() is 0 or on the dry backend.
struct TensorRef {
  std::byte* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;

  std::int64_t numel() const { return shape.numel(); }
  std::size_t bytes() const { return static_cast<std::size_t>(numel()) * size_of(dtype); }
  explicit operator bool() const { return data != nullptr; }
  template <class T>
  T* as() const {
    STRATA_CHECK(dtype == DTypeOf<T>::value, std::string("tensor is ") + to_string(dtype));
    return reinterpret_cast<T*>(data);
  }
  // The same elements under another shape of equal numel().
  TensorRef view(Shape other) const {
    STRATA_CHECK(other.numel() == numel(), "view " + other.str() + " of " + shape.str());
    return {data, dtype, other};
  }
  // Rows [first, first + count) of the outermost dim.
  TensorRef rows(std::int64_t first, std::int64_t count) const;
};

// Read-only counterpart.
struct ConstTensorRef {
  const std::byte* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;

  ConstTensorRef() = default;
  ConstTensorRef(const std::byte* d, DType t, Shape s) : data(d), dtype(t), shape(s) {}
  ConstTensorRef(const TensorRef& t) : data(t.data), dtype(t.dtype), shape(t.shape) {}  // NOLINT: implicit by design
  std::int64_t numel() const { return shape.numel(); }
  std::size_t bytes() const { return static_cast<std::size_t>(numel()) * size_of(dtype); }
  explicit operator bool() const { return data != nullptr; }
  template <class T>
  const T* as() const {
    STRATA_CHECK(dtype == DTypeOf<T>::value, std::string("tensor is ") + to_string(dtype));
    return reinterpret_cast<const T*>(data);
  }
  ConstTensorRef view(Shape other) const {
    STRATA_CHECK(other.numel() == numel(), "view " + other.str() + " of " + shape.str());
    return {data, dtype, other};
  }
  ConstTensorRef rows(std::int64_t first, std::int64_t count) const;
};

// Owns its elements. Freed memory may be handed out again at once: like every allocation of an arena it is ordered by the
// one compute stream of that arena's tier (see arena.h).
class Tensor {
 public:
  Tensor() = default;
  // Uninitialised. Throws StatusError (out_of_budget) naming the category and `what` when the tier's budget is exceeded.
  Tensor(TierArena& arena, Category category, DType dtype, Shape shape, const char* what);

  TensorRef ref() const { return {buffer_.data(), dtype_, shape_}; }
  operator TensorRef() const { return ref(); }       // NOLINT: implicit by design
  operator ConstTensorRef() const { return ref(); }  // NOLINT: implicit by design
  const Shape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }
  std::int64_t numel() const { return shape_.numel(); }
  explicit operator bool() const { return static_cast<bool>(buffer_); }
  bool is_from(const TierArena& arena) const { return buffer_.is_from(arena); }
  void reset() { *this = Tensor(); }

 private:
  Buffer buffer_;
  DType dtype_ = DType::f32;
  Shape shape_;
};

}  // namespace strata
