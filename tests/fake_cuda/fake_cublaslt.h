// What a test asks of the fake libcublasLt (fake_cublaslt.cpp), by the function strata_fake_cublaslt() of that library.
#pragma once

#include <cstddef>

namespace strata::fake_cuda {

struct Cublaslt {
  // The nth call of this function (from 1) returns `code`; null: none does.
  const char* failing = nullptr;
  int nth = 1;
  int code = 0;
  bool has_epilogues = true;     // whether the heuristic knows a GELU
  bool has_products = true;      // whether it knows anything
  std::size_t workspace = 1024;  // bytes that algorithms use, if they may have as many
  // What happened so far.
  int heuristics = 0, matmuls = 0, tf32_matmuls = 0, fused_matmuls = 0;
  int living = 0;  // handles, descriptors, layouts and preferences
};

}  // namespace strata::fake_cuda
