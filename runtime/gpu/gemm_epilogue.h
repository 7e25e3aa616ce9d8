// Products with an epilogue where the vendor's library may refuse the epilogue: the choice between the library's fused product
// and a product with a kernel behind it. For drivers (gpu/driver.h); knows no library, so that it is tested without a GPU.
#pragma once

#include <map>
#include <utility>

#include "runtime/gpu/kernel_table.h"
#include "runtime/kernels/gemm.h"
#include "runtime/status.h"

namespace strata {

// Whether to ask the library for a fused product at all. cuBLASLt wants rows of pre to be multiples of 8 elements, and does not
// say how exact its tanh is: f32 keeps the kernel's, whose error is known.
bool may_fuse(const kernels::Gemm& gemm);

// The two parts of a product with an epilogue, in their order on a queue: the product, which the library computes, and the
// kernel.
kernels::Gemm without_epilogue(const kernels::Gemm& gemm);
void enqueue_epilogue(const kernels::Gemm& gemm, const GpuKernels& kernels, GpuQueue& queue);

// What the library has prepared, by what it depends on. The way of a product is chosen when it is first seen and kept, so that
// the same product has the same bits whenever it is computed. One thread at a time.
template <class Key, class Prepared>
class GemmWays {
 public:
  struct Way {
    Prepared prepared;
    bool fused;  // with the epilogue (or there is none); else `prepared` is the product alone
  };

  // prepare(gemm) is a Result<Prepared>, of code `unsupported` where the library has nothing for it. For a fused product that
  // means the other way; any other error, and one of the product alone, is returned, and nothing is kept.
  template <class Prepare>
  Result<const Way*> get(const Key& key, const kernels::Gemm& gemm, const Prepare& prepare) {
    if (const auto found = ways_.find(key); found != ways_.end()) return &found->second;
    if (gemm.epilogue == kernels::Epilogue::none || may_fuse(gemm)) {
      Result<Prepared> whole = prepare(gemm);
      if (whole.ok()) return keep(key, {std::move(whole).value(), true});
      if (gemm.epilogue == kernels::Epilogue::none || whole.status().code() != Code::unsupported) return whole.status();
    }
    Result<Prepared> product = prepare(without_epilogue(gemm));
    if (!product.ok()) return product.status();
    return keep(key, {std::move(product).value(), false});
  }

  void clear() { ways_.clear(); }

 private:
  const Way* keep(const Key& key, Way way) { return &ways_.emplace(key, std::move(way)).first->second; }

  std::map<Key, Way> ways_;
};

}  // namespace strata
