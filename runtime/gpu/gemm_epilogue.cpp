#include "runtime/gpu/gemm_epilogue.h"

#include "runtime/kernels/activation.h"

namespace strata {

using kernels::Epilogue;
using kernels::Gemm;

bool may_fuse(const Gemm& gemm) { return gemm.shape.operands == DType::bf16 && gemm.shape.n % 8 == 0; }

Gemm without_epilogue(const Gemm& gemm) {
  Gemm product = gemm;
  if (gemm.epilogue == Epilogue::gelu) product.pointers.c = gemm.pre;
  product.epilogue = Epilogue::none;
  product.pre = nullptr;
  return product;
}

void enqueue_epilogue(const Gemm& gemm, const GpuKernels& kernels, GpuQueue& queue) {
  const Shape shape{gemm.shape.m, gemm.shape.n};
  const TensorRef pre{static_cast<std::byte*>(gemm.pre), gemm.shape.result, shape};
  const TensorRef c{static_cast<std::byte*>(gemm.pointers.c), gemm.shape.result, shape};
  switch (gemm.epilogue) {
    case Epilogue::none: return;
    case Epilogue::gelu: return kernels.gelu_forward({.x = pre, .y = c}, queue);
    case Epilogue::gelu_backward: return kernels.gelu_backward({.x = pre, .dy = c, .dx = c}, queue);
  }
}

}  // namespace strata
