// A libcublasLt that multiplies in host memory, by plain loops over what its descriptors say: a leading dimension, a transpose
// or an epilogue that is wrong gives wrong numbers. It refuses what the manual forbids, and algorithms of another problem, of
// pointers that are less aligned than was promised, or without the workspace that they asked for.
#include "tests/fake_cuda/fake_cublaslt.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/dtype.h"

namespace {

using strata::fake_cuda::Cublaslt;

Cublaslt& control() {
  static Cublaslt control;
  return control;
}
std::mutex& mutex() {
  static std::mutex mutex;
  return mutex;
}

struct Handle {};
struct Desc {
  cublasComputeType_t compute{};
  std::int32_t trans_a = CUBLAS_OP_N, trans_b = CUBLAS_OP_N, bias_type = -1;
  std::uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  void* aux = nullptr;
  std::int64_t aux_ld = 0;
};
struct Layout {
  cudaDataType type{};
  std::int64_t rows = 0, cols = 0, ld = 0;
};
struct Preference {
  std::uint64_t workspace = 0;
  std::uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
  std::uint32_t alignment[4] = {256, 256, 256, 256};  // of A, B, C, D
};
// What an algorithm is good for: the words of a cublasLtMatmulAlgo_t.
struct Algorithm {
  std::uint64_t problem, workspace;
  std::uint32_t alignment[4], aux_alignment, bias_alignment;
};
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

// What a call returns instead of what it is for.
cublasStatus_t begin(const char* function) {
  Cublaslt& c = control();
  if (c.failing == nullptr || std::strcmp(c.failing, function) != 0 || --c.nth > 0) return CUBLAS_STATUS_SUCCESS;
  c.failing = nullptr;
  return static_cast<cublasStatus_t>(c.code);
}

template <class T, class Opaque>
cublasStatus_t make(const char* function, Opaque** to, const T& value) {
  const std::lock_guard lock(mutex());
  if (const cublasStatus_t refused = begin(function); refused != CUBLAS_STATUS_SUCCESS) return refused;
  ++control().living;
  *to = reinterpret_cast<Opaque*>(new T(value));
  return CUBLAS_STATUS_SUCCESS;
}
template <class T, class Opaque>
cublasStatus_t destroy(const char* function, Opaque* it) {
  const std::lock_guard lock(mutex());
  --control().living;
  delete reinterpret_cast<T*>(it);
  return begin(function);
}
template <class T>
cublasStatus_t set(T& to, const void* from, std::size_t bytes) {
  if (from == nullptr || bytes != sizeof to) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&to, from, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

const Desc& desc_of(cublasLtMatmulDesc_t it) { return *reinterpret_cast<const Desc*>(it); }
const Layout& layout_of(cublasLtMatrixLayout_t it) { return *reinterpret_cast<const Layout*>(it); }

bool has_bias(std::uint32_t epilogue) { return (epilogue & CUBLASLT_EPILOGUE_BIAS) != 0; }
bool has_aux(std::uint32_t epilogue) { return (epilogue & 128u) != 0; }

std::uint32_t alignment_of(const void* address) {
  const auto a = reinterpret_cast<std::uintptr_t>(address);
  return a == 0 ? 256 : std::uint32_t{1} << std::min(8, std::countr_zero(a));
}

std::uint64_t problem_of(const Desc& d, const Layout& a, const Layout& b, const Layout& c) {
  std::uint64_t hash = 1469598103934665603u;
  const auto add = [&](std::int64_t value) { hash = (hash ^ static_cast<std::uint64_t>(value)) * 1099511628211u; };
  for (const std::int64_t v : {std::int64_t{d.compute}, std::int64_t{d.trans_a}, std::int64_t{d.trans_b},
                               std::int64_t{d.epilogue}, std::int64_t{d.bias_type}, d.aux_ld})
    add(v);
  for (const Layout* l : {&a, &b, &c})
    for (const std::int64_t v : {std::int64_t{l->type}, l->rows, l->cols, l->ld}) add(v);
  return hash;
}

// Whether op(A) op(B) is a D, and the epilogue what the manual allows.
bool is_consistent(const Desc& d, const Layout& a, const Layout& b, const Layout& c) {
  const bool ta = d.trans_a == CUBLAS_OP_T, tb = d.trans_b == CUBLAS_OP_T;
  const std::int64_t m = ta ? a.cols : a.rows, k = ta ? a.rows : a.cols, n = tb ? b.rows : b.cols;
  bool good = (tb ? b.cols : b.rows) == k && c.rows == m && c.cols == n;
  for (const Layout* l : {&a, &b, &c}) good = good && l->rows > 0 && l->cols > 0 && l->ld >= l->rows;
  if (has_aux(d.epilogue)) good = good && d.aux_ld >= c.rows && d.aux_ld % 8 == 0 && d.aux != nullptr;
  if (has_bias(d.epilogue)) good = good && d.bias != nullptr && (d.bias_type == -1 || d.bias_type == c.type);
  return good;
}

float load(const void* from, cudaDataType type, std::int64_t i) {
  if (type == CUDA_R_16BF) return strata::to_float(static_cast<const strata::bf16*>(from)[i]);
  if (type == CUDA_R_16F) return strata::to_float(static_cast<const strata::f16*>(from)[i]);
  return static_cast<const float*>(from)[i];
}
void store(float value, void* to, cudaDataType type, std::int64_t i) {
  if (type == CUDA_R_16BF)
    static_cast<strata::bf16*>(to)[i] = strata::to_bf16(value);
  else if (type == CUDA_R_16F)
    static_cast<strata::f16*>(to)[i] = strata::to_f16(value);
  else
    static_cast<float*>(to)[i] = value;
}

// As tensor cores take f32: with ten bits of mantissa.
float tf32(float value) { return std::bit_cast<float>((std::bit_cast<std::uint32_t>(value) + 0x1000u) & ~0x1fffu); }

double gelu(double x) { return 0.5 * x * (1.0 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }
double gelu_derivative(double x) {
  const double t = std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x));
  return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * 0.7978845608028654 * (1.0 + 3.0 * 0.044715 * x * x);
}

// Everything a product needs on its stream.
struct Job {
  Desc desc;
  Layout a_layout, b_layout, c_layout;
  const void *a, *b, *c;
  void *d, *workspace;
  std::size_t workspace_bytes;
  float alpha, beta;

  // op(A) by rows, or op(B) by columns: `count` vectors of `k`.
  static std::vector<float> gather(const void* data, const Layout& l, std::int64_t count, std::int64_t k, bool contiguous,
                                   bool as_tf32) {
    std::vector<float> all(static_cast<std::size_t>(count * k));
    for (std::int64_t i = 0; i < count; ++i)
      for (std::int64_t j = 0; j < k; ++j) {
        const float value = load(data, l.type, contiguous ? i * l.ld + j : j * l.ld + i);
        all[static_cast<std::size_t>(i * k + j)] = as_tf32 ? tf32(value) : value;
      }
    return all;
  }

  void run() const {
    if (workspace_bytes > 0) std::memset(workspace, 0x7f, workspace_bytes);
    const bool ta = desc.trans_a == CUBLAS_OP_T, tb = desc.trans_b == CUBLAS_OP_T;
    const bool narrow = desc.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    const std::int64_t m = c_layout.rows, n = c_layout.cols, k = ta ? a_layout.rows : a_layout.cols;
    const std::vector<float> rows = gather(a, a_layout, m, k, ta, narrow), cols = gather(b, b_layout, n, k, !tb, narrow);
    for (std::int64_t j = 0; j < n; ++j)
      for (std::int64_t i = 0; i < m; ++i) {
        const float *x = rows.data() + i * k, *y = cols.data() + j * k;
        double sum = 0.0;
        for (std::int64_t p = 0; p < k; ++p) sum += static_cast<double>(x[p]) * static_cast<double>(y[p]);
        finish(i, j, static_cast<double>(alpha) * sum);
      }
  }

  void finish(std::int64_t i, std::int64_t j, double value) const {
    const std::int64_t at = j * c_layout.ld + i;
    if (beta != 0.0f) value += static_cast<double>(beta) * static_cast<double>(load(c, c_layout.type, at));
    if (has_bias(desc.epilogue)) value += static_cast<double>(load(desc.bias, c_layout.type, i));
    const std::int64_t aux_at = j * desc.aux_ld + i;
    switch (desc.epilogue) {
      case CUBLASLT_EPILOGUE_GELU_AUX:
      case CUBLASLT_EPILOGUE_GELU_AUX_BIAS:
        store(static_cast<float>(value), desc.aux, c_layout.type, aux_at);
        value = gelu(value);
        break;
      case CUBLASLT_EPILOGUE_DGELU: value *= gelu_derivative(static_cast<double>(load(desc.aux, c_layout.type, aux_at))); break;
      default: break;
    }
    store(static_cast<float>(value), d, c_layout.type, at);
  }
};

}  // namespace

extern "C" {

Cublaslt* strata_fake_cublaslt() { return &control(); }

cublasStatus_t cublasLtCreate(cublasLtHandle_t* to) { return make("cublasLtCreate", to, Handle()); }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return destroy<Handle>("cublasLtDestroy", handle); }
const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_NOT_INITIALIZED: return "not initialized";
    case CUBLAS_STATUS_ALLOC_FAILED: return "allocation failed";
    case CUBLAS_STATUS_INVALID_VALUE: return "invalid value";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "execution failed";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "not supported";
    default: return "another status";
  }
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* to, cublasComputeType_t compute, cudaDataType_t scale) {
  if (scale != CUDA_R_32F) return CUBLAS_STATUS_INVALID_VALUE;
  return make("cublasLtMatmulDescCreate", to, Desc{.compute = compute});
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t it) { return destroy<Desc>("cublasLtMatmulDescDestroy", it); }

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t it, cublasLtMatmulDescAttributes_t attribute,
                                              const void* from, std::size_t bytes) {
  const std::lock_guard lock(mutex());
  if (const cublasStatus_t refused = begin("cublasLtMatmulDescSetAttribute"); refused != CUBLAS_STATUS_SUCCESS) return refused;
  Desc& d = *reinterpret_cast<Desc*>(it);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return set(d.trans_a, from, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB: return set(d.trans_b, from, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return set(d.epilogue, from, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return set(d.bias, from, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return set(d.bias_type, from, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: return set(d.aux, from, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: return set(d.aux_ld, from, bytes);
    default: return CUBLAS_STATUS_INVALID_VALUE;
  }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* to, cudaDataType type, std::uint64_t rows, std::uint64_t cols,
                                          std::int64_t ld) {
  return make("cublasLtMatrixLayoutCreate", to,
              Layout{type, static_cast<std::int64_t>(rows), static_cast<std::int64_t>(cols), ld});
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t it) {
  return destroy<Layout>("cublasLtMatrixLayoutDestroy", it);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* to) {
  return make("cublasLtMatmulPreferenceCreate", to, Preference());
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t it) {
  return destroy<Preference>("cublasLtMatmulPreferenceDestroy", it);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t it,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* from,
                                                    std::size_t bytes) {
  const std::lock_guard lock(mutex());
  if (const cublasStatus_t refused = begin("cublasLtMatmulPreferenceSetAttribute"); refused != CUBLAS_STATUS_SUCCESS)
    return refused;
  Preference& p = *reinterpret_cast<Preference*>(it);
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return set(p.workspace, from, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return set(p.reductions, from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return set(p.alignment[0], from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return set(p.alignment[1], from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return set(p.alignment[2], from, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return set(p.alignment[3], from, bytes);
    default: return CUBLAS_STATUS_INVALID_VALUE;
  }
}

#ifndef STRATA_OLD_CUBLASLT
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  const std::lock_guard lock(mutex());
  ++control().heuristics;
  if (const cublasStatus_t refused = begin("cublasLtMatmulAlgoGetHeuristic"); refused != CUBLAS_STATUS_SUCCESS) return refused;
  const Desc& what = desc_of(desc);
  if (handle == nullptr || wanted < 1 || c != d || !is_consistent(what, layout_of(a), layout_of(b), layout_of(c)))
    return CUBLAS_STATUS_INVALID_VALUE;
  *found = 0;
  if (!control().has_products || (has_aux(what.epilogue) && !control().has_epilogues)) return CUBLAS_STATUS_SUCCESS;
  const Preference& p = *reinterpret_cast<const Preference*>(preference);
  // Sums whose order depends on time, or in another type, are not for us.
  if (p.reductions != CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) return CUBLAS_STATUS_SUCCESS;
  Algorithm algorithm{};
  algorithm.problem = problem_of(what, layout_of(a), layout_of(b), layout_of(c));
  algorithm.workspace = p.workspace >= control().workspace ? control().workspace : 0;
  std::memcpy(algorithm.alignment, p.alignment, sizeof p.alignment);
  algorithm.aux_alignment = has_aux(what.epilogue) ? alignment_of(what.aux) : 1;
  algorithm.bias_alignment = has_bias(what.epilogue) ? alignment_of(what.bias) : 1;
  results[0] = {};
  std::memcpy(&results[0].algo, &algorithm, sizeof algorithm);
  results[0].workspaceSize = algorithm.workspace;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}
#endif

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algo, void* workspace, std::size_t workspace_bytes,
                              cudaStream_t stream) {
  const std::lock_guard lock(mutex());
  if (const cublasStatus_t refused = begin("cublasLtMatmul"); refused != CUBLAS_STATUS_SUCCESS) return refused;
  const Desc& what = desc_of(desc);
  Algorithm algorithm{};
  std::memcpy(&algorithm, algo, sizeof algorithm);
  bool good = handle != nullptr && c_layout == d_layout && c == d &&
              is_consistent(what, layout_of(a_layout), layout_of(b_layout), layout_of(c_layout)) &&
              algorithm.problem == problem_of(what, layout_of(a_layout), layout_of(b_layout), layout_of(c_layout)) &&
              workspace_bytes >= algorithm.workspace && (algorithm.workspace == 0 || alignment_of(workspace) >= 16);
  const void* const pointers[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) good = good && alignment_of(pointers[i]) >= algorithm.alignment[i];
  if (has_aux(what.epilogue)) good = good && alignment_of(what.aux) >= algorithm.aux_alignment;
  if (has_bias(what.epilogue)) good = good && alignment_of(what.bias) >= algorithm.bias_alignment;
  if (!good) return CUBLAS_STATUS_INVALID_VALUE;
  ++control().matmuls;
  control().tf32_matmuls += what.compute == CUBLAS_COMPUTE_32F_FAST_TF32 ? 1 : 0;
  control().fused_matmuls += has_aux(what.epilogue) ? 1 : 0;
  auto* const job = new Job{what,
                            layout_of(a_layout),
                            layout_of(b_layout),
                            layout_of(c_layout),
                            a,
                            b,
                            c,
                            d,
                            workspace,
                            algorithm.workspace,
                            *static_cast<const float*>(alpha),
                            *static_cast<const float*>(beta)};
  const auto run = [](void* data) {
    const std::unique_ptr<Job> owner(static_cast<Job*>(data));
    owner->run();
  };
  if (cudaLaunchHostFunc(stream, run, job) == cudaSuccess) return CUBLAS_STATUS_SUCCESS;
  delete job;
  return CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // extern "C"
