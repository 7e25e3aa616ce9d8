#include "runtime/tensor.h"

namespace strata {
namespace {

std::int64_t row_numel(const Shape& shape) {
  STRATA_CHECK(shape.rank() > 0, "rows of a scalar");
  return shape[0] == 0 ? 0 : shape.numel() / shape[0];
}

Shape with_rows(const Shape& shape, std::int64_t count) {
  switch (shape.rank()) {
    case 1: return {count};
    case 2: return {count, shape[1]};
    case 3: return {count, shape[1], shape[2]};
    default: return {count, shape[1], shape[2], shape[3]};
  }
}

}  // namespace

TensorRef TensorRef::rows(std::int64_t first, std::int64_t count) const {
  STRATA_CHECK(first >= 0 && count >= 0 && first + count <= shape[0], "rows out of range of " + shape.str());
  const auto skip = static_cast<std::size_t>(first * row_numel(shape)) * size_of(dtype);
  return {data == nullptr ? nullptr : data + skip, dtype, with_rows(shape, count)};
}

ConstTensorRef ConstTensorRef::rows(std::int64_t first, std::int64_t count) const {
  STRATA_CHECK(first >= 0 && count >= 0 && first + count <= shape[0], "rows out of range of " + shape.str());
  const auto skip = static_cast<std::size_t>(first * row_numel(shape)) * size_of(dtype);
  return {data == nullptr ? nullptr : data + skip, dtype, with_rows(shape, count)};
}

Tensor::Tensor(TierArena& arena, Category category, DType dtype, Shape shape, const char* what) : dtype_(dtype), shape_(shape) {
  Result<Buffer> buffer = arena.allocate(static_cast<std::size_t>(shape.numel()) * size_of(dtype), category, what);
  throw_if_error(buffer.status());
  buffer_ = std::move(buffer).value();
}

}  // namespace strata
