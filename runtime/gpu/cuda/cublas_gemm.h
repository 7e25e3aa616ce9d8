// Matrix products by cuBLASLt. The library is loaded at run time; the workspace is the queue's scratch.
//
// Bits. The algorithm is the first that the library's heuristic proposes for a shape, with a bounded workspace and no reduction
// whose order depends on time, and is kept for the life of the object: the same shape gives the same bits in every run on the
// same kind of device with the same version of the library. f32 operands are multiplied in f32 unless tf32 is asked for. An
// epilogue that the heuristic has nothing for is our kernel behind the product, as long as the object lives
// (gpu/gemm_epilogue.h).
#pragma once

#include <memory>
#include <string>

#include "runtime/gpu/driver.h"

namespace strata {

class CublasGemm {
 public:
  // library: a file for the dynamic linker; "": that of the CUDA which this was built with. Error unsupported: there is none,
  // or an old one.
  static Result<CublasGemm> create(int ordinal, bool tf32, const std::string& library = "");
  CublasGemm(CublasGemm&&) noexcept;
  CublasGemm& operator=(CublasGemm&&) noexcept;
  ~CublasGemm();

  // Any thread. What the library refuses becomes the queue's error, with the shape.
  void enqueue(const kernels::Gemm& gemm, GpuQueue& queue);

 private:
  class Impl;
  explicit CublasGemm(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
