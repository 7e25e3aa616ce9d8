// Which instruction set the host kernels run with, chosen at run time.
//
// A kernel is three files. <op>.h: the contract. <op>.cpp: checks, then dispatch by backend. <op>_simd.cpp: the loops,
// compiled once per instruction set inside namespace STRATA_ISA, handed out as a table of function pointers:
//
//   op_table.h       namespace strata::kernels { struct OpTable { void (*forward)(...); ... }; }
//                    STRATA_ISA_TABLE(OpTable, op_table)
//   op_simd.cpp      namespace strata::STRATA_ISA { const kernels::OpTable& op_table() { static constexpr ... } }
//   op.cpp           const OpTable& table = op_table();  // at the call, not later on the stream
#pragma once

#include <type_traits>
#include <vector>

#include "runtime/dtype.h"
#include "runtime/status.h"

namespace strata::kernels {

enum class Isa { generic, avx2, avx512 };
const char* to_string(Isa isa);

// Compiled into this build and supported by this processor and operating system, slowest first; generic is always there.
const std::vector<Isa>& available_isas();

// The instruction set that kernels called from now on use: the fastest available one, unless the environment variable
// STRATA_ISA (generic, avx2, avx512; read once) or set_isa names another. Throws StatusError (invalid_config) when the
// variable names one that is unknown or not available. Any thread.
Isa active_isa();
// For tests and benchmarks. Error (unsupported): not available here.
Status set_isa(Isa isa);

// A kernel's loops for each compute dtype.
template <template <class> class Loops>
struct ByDType {
  Loops<float> for_f32;
  Loops<bf16> for_bf16;
  template <class T>
  const Loops<T>& get() const {
    if constexpr (std::is_same_v<T, float>)
      return for_f32;
    else
      return for_bf16;
  }
};

}  // namespace strata::kernels

// Declares `const Type& name()` of every instruction set and defines kernels::name(), which picks the active one.
// Type is a struct of namespace strata::kernels. Use at global scope.
#if defined(__x86_64__)
#define STRATA_ISA_TABLE(Type, name)               \
  namespace strata::isa_generic {                  \
  const kernels::Type& name();                     \
  }                                                \
  namespace strata::isa_avx2 {                     \
  const kernels::Type& name();                     \
  }                                                \
  namespace strata::isa_avx512 {                   \
  const kernels::Type& name();                     \
  }                                                \
  namespace strata::kernels {                      \
  inline const Type& name() {                      \
    switch (active_isa()) {                        \
      case Isa::generic: break;                    \
      case Isa::avx2: return isa_avx2::name();     \
      case Isa::avx512: return isa_avx512::name(); \
    }                                              \
    return isa_generic::name();                    \
  }                                                \
  }
#else
#define STRATA_ISA_TABLE(Type, name)                        \
  namespace strata::isa_generic {                           \
  const kernels::Type& name();                              \
  }                                                         \
  namespace strata::kernels {                               \
  inline const Type& name() { return isa_generic::name(); } \
  }
#endif
