#include "runtime/gpu/cuda/cublas_gemm.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <mutex>
#include <tuple>

#include "runtime/gpu/cuda/cuda_status.h"
#include "runtime/gpu/gemm_epilogue.h"
#include "runtime/shared_library.h"

namespace strata {

namespace gpu_cuda {
const GpuKernels& kernel_table();  // gpu/kernels/table.cu
}

namespace {

#define STRATA_STRING_(x) #x
#define STRATA_STRING(x) STRATA_STRING_(x)
constexpr const char* kLibrary = "libcublasLt.so." STRATA_STRING(CUBLAS_VER_MAJOR);

// What we call of the library.
struct Functions {
  decltype(cublasLtCreate)* create = nullptr;
  decltype(cublasLtDestroy)* destroy = nullptr;
  decltype(cublasLtGetStatusString)* status_string = nullptr;
  decltype(cublasLtMatmulDescCreate)* desc_create = nullptr;
  decltype(cublasLtMatmulDescDestroy)* desc_destroy = nullptr;
  decltype(cublasLtMatmulDescSetAttribute)* desc_set = nullptr;
  decltype(cublasLtMatrixLayoutCreate)* layout_create = nullptr;
  decltype(cublasLtMatrixLayoutDestroy)* layout_destroy = nullptr;
  decltype(cublasLtMatmulPreferenceCreate)* preference_create = nullptr;
  decltype(cublasLtMatmulPreferenceDestroy)* preference_destroy = nullptr;
  decltype(cublasLtMatmulPreferenceSetAttribute)* preference_set = nullptr;
  decltype(cublasLtMatmulAlgoGetHeuristic)* heuristic = nullptr;
  decltype(cublasLtMatmul)* matmul = nullptr;

  static Result<Functions> find(const SharedLibrary& library) {
    Functions f;
    STRATA_RETURN_IF_ERROR(library.find("cublasLtCreate", f.create));
    STRATA_RETURN_IF_ERROR(library.find("cublasLtDestroy", f.destroy));
    STRATA_RETURN_IF_ERROR(library.find("cublasLtGetStatusString", f.status_string));
    STRATA_RETURN_IF_ERROR(library.find("cublasLtMatmulDescCreate", f.desc_create));
    STRATA_RETURN_IF_ERROR(library.find("cublasLtMatmulDescDestroy", f.desc_destroy));
    STRATA_RETURN_IF_ERROR(library.find("cublasLtMatmulDescSetAttribute", f.desc_set));
    STRATA_RETURN_IF_ERROR(library.find("cublasLtMatrixLayoutCreate", f.layout_create));
    STRATA_RETURN_IF_ERROR(library.find("cublasLtMatrixLayoutDestroy", f.layout_destroy));
    STRATA_RETURN_IF_ERROR(library.find("cublasLtMatmulPreferenceCreate", f.preference_create));
    STRATA_RETURN_IF_ERROR(library.find("cublasLtMatmulPreferenceDestroy", f.preference_destroy));
    STRATA_RETURN_IF_ERROR(library.find("cublasLtMatmulPreferenceSetAttribute", f.preference_set));
    STRATA_RETURN_IF_ERROR(library.find("cublasLtMatmulAlgoGetHeuristic", f.heuristic));
    STRATA_RETURN_IF_ERROR(library.find("cublasLtMatmul", f.matmul));
    return f;
  }
};

cudaDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::bf16: return CUDA_R_16BF;
    case DType::f16: return CUDA_R_16F;
    case DType::f32:
    case DType::i32: break;
  }
  return CUDA_R_32F;
}

// pre, in the library's words, is the auxiliary matrix.
cublasLtEpilogue_t epilogue_of(const kernels::Gemm& gemm) {
  switch (gemm.epilogue) {
    case kernels::Epilogue::none: break;
    case kernels::Epilogue::gelu: return gemm.shape.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    case kernels::Epilogue::gelu_backward: return CUBLASLT_EPILOGUE_DGELU;
  }
  return gemm.shape.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

// The largest power of two up to 256 that divides the address.
std::uint32_t alignment_of(const void* address) {
  const auto a = reinterpret_cast<std::uintptr_t>(address);
  std::uint32_t alignment = 256;
  while (a % alignment != 0) alignment /= 2;
  return alignment;
}

template <class T>
using Handle = std::unique_ptr<T, cublasStatus_t (*)(T*)>;

// A prepared product.
struct Prepared {
  Handle<cublasLtMatmulDescOpaque_t> desc;
  Handle<cublasLtMatrixLayoutOpaque_t> a, b, c;
  cublasLtMatmulAlgo_t algorithm{};
  std::size_t workspace = 0;
};

std::string describe(const kernels::MatmulShape& s) {
  return "product of [" + std::to_string(s.m) + ", " + std::to_string(s.k) + "] and [" + std::to_string(s.k) + ", " +
         std::to_string(s.n) + "], " + to_string(s.operands) + " to " + to_string(s.result);
}

}  // namespace

class CublasGemm::Impl {
 public:
  Impl(SharedLibrary library, const Functions& functions, int ordinal, bool tf32)
      : library_(std::move(library)), f_(functions), ordinal_(ordinal), tf32_(tf32) {}
  ~Impl() {
    ways_.clear();
    if (handle_ == nullptr) return;
    if (const Status status = use_gpu(ordinal_); !status.ok()) std::fprintf(stderr, "%s\n", status.message().c_str());
    if (const Status status = checked(f_.destroy(handle_), "cublasLtDestroy"); !status.ok())
      std::fprintf(stderr, "%s\n", status.message().c_str());
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  Status start() { return checked(f_.create(&handle_), "cublasLtCreate"); }

  Status enqueue(const kernels::Gemm& gemm, GpuQueue& queue) {
    STRATA_RETURN_IF_ERROR(use_gpu(ordinal_));  // the handle's: the library looks at the thread's device
    const std::lock_guard lock(mutex_);
    STRATA_ASSIGN_OR_RETURN(const auto* const way, way_of(gemm, queue.scratch().size()));
    if (way->fused) return multiply(gemm, way->prepared, queue);
    STRATA_RETURN_IF_ERROR(multiply(without_epilogue(gemm), way->prepared, queue));
    enqueue_epilogue(gemm, gpu_cuda::kernel_table(), queue);
    return {};
  }

 private:
  // m, n, k, flags, epilogue, dtypes, alignments of all pointers, workspace: all that the library looks at.
  using Key = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::array<bool, 4>, kernels::Epilogue, DType, DType,
                         std::array<std::uint32_t, 5>, std::size_t>;
  using Ways = GemmWays<Key, Prepared>;

  // Two words of the library for what it cannot do: no kernel for it, and a combination that no kernel has.
  Status checked(cublasStatus_t status, const char* call) const {
    if (status == CUBLAS_STATUS_SUCCESS) return {};
    const bool refused = status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE;
    return {refused ? Code::unsupported : Code::internal,
            std::string(call) + " on GPU " + std::to_string(ordinal_) + ": " + f_.status_string(status)};
  }
  template <class T>
  Status set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute, const T& value) const {
    return checked(f_.desc_set(desc, attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
  }
  template <class T>
  Status set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) const {
    return checked(f_.preference_set(preference, attribute, &value, sizeof value), "cublasLtMatmulPreferenceSetAttribute");
  }
  Result<Handle<cublasLtMatrixLayoutOpaque_t>> layout(DType dtype, std::int64_t rows, std::int64_t cols) const {
    cublasLtMatrixLayout_t made = nullptr;
    STRATA_RETURN_IF_ERROR(checked(
        f_.layout_create(&made, type_of(dtype), static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(cols), rows),
        "cublasLtMatrixLayoutCreate"));
    return Handle<cublasLtMatrixLayoutOpaque_t>(made, f_.layout_destroy);
  }

  Result<const Ways::Way*> way_of(const kernels::Gemm& gemm, std::size_t workspace) {
    const kernels::MatmulShape& s = gemm.shape;
    const kernels::MatmulPointers& p = gemm.pointers;
    const std::array<bool, 4> flags = {s.trans_a, s.trans_b, s.accumulate, s.bias};
    const std::array<std::uint32_t, 5> alignments = {alignment_of(p.a), alignment_of(p.b), alignment_of(p.bias),
                                                     alignment_of(p.c), alignment_of(gemm.pre)};
    const Key key{s.m, s.n, s.k, flags, gemm.epilogue, s.operands, s.result, alignments, workspace};
    return ways_.get(key, gemm, [&](const kernels::Gemm& part) { return prepare(part, workspace); });
  }

  // Where bias and pre are: the heuristic reads their alignment from the addresses.
  Status set_pointers(cublasLtMatmulDesc_t desc, const kernels::Gemm& gemm) const {
    if (gemm.shape.bias) STRATA_RETURN_IF_ERROR(set(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, gemm.pointers.bias));
    if (gemm.epilogue != kernels::Epilogue::none)
      STRATA_RETURN_IF_ERROR(set(desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, gemm.pre));
    return {};
  }

  Status multiply(const kernels::Gemm& gemm, const Prepared& p, GpuQueue& queue) const {
    STRATA_RETURN_IF_ERROR(set_pointers(p.desc.get(), gemm));
    const float one = 1.0f, beta = gemm.shape.accumulate ? 1.0f : 0.0f;
    // Row-major C = A B is column-major C^T = B^T A^T: the operands change places.
    return checked(f_.matmul(handle_, p.desc.get(), &one, gemm.pointers.b, p.a.get(), gemm.pointers.a, p.b.get(), &beta,
                             gemm.pointers.c, p.c.get(), gemm.pointers.c, p.c.get(), &p.algorithm, queue.scratch().data(),
                             p.workspace, static_cast<cudaStream_t>(queue.native())),
                   "cublasLtMatmul");
  }

  Result<Prepared> prepare(const kernels::Gemm& gemm, std::size_t workspace) const {
    const kernels::MatmulShape& s = gemm.shape;
    const bool f32 = s.operands == DType::f32;
    cublasLtMatmulDesc_t desc = nullptr;
    STRATA_RETURN_IF_ERROR(
        checked(f_.desc_create(&desc, f32 && tf32_ ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F),
                "cublasLtMatmulDescCreate"));
    Handle<cublasLtMatmulDescOpaque_t> owner(desc, f_.desc_destroy);
    STRATA_RETURN_IF_ERROR(set(desc, CUBLASLT_MATMUL_DESC_TRANSA, s.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N));
    STRATA_RETURN_IF_ERROR(set(desc, CUBLASLT_MATMUL_DESC_TRANSB, s.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N));
    STRATA_RETURN_IF_ERROR(set(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(gemm)));
    if (s.bias) STRATA_RETURN_IF_ERROR(set(desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(s.operands)));
    if (gemm.epilogue != kernels::Epilogue::none) {  // pre's type is that of the result by itself
      STRATA_RETURN_IF_ERROR(set(desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, s.n));
    }
    STRATA_RETURN_IF_ERROR(set_pointers(desc, gemm));
    STRATA_ASSIGN_OR_RETURN(auto a, s.trans_b ? layout(s.operands, s.k, s.n) : layout(s.operands, s.n, s.k));
    STRATA_ASSIGN_OR_RETURN(auto b, s.trans_a ? layout(s.operands, s.m, s.k) : layout(s.operands, s.k, s.m));
    STRATA_ASSIGN_OR_RETURN(auto c, layout(s.result, s.n, s.m));
    cublasLtMatmulPreference_t preference = nullptr;
    STRATA_RETURN_IF_ERROR(checked(f_.preference_create(&preference), "cublasLtMatmulPreferenceCreate"));
    const Handle<cublasLtMatmulPreferenceOpaque_t> preference_owner(preference, f_.preference_destroy);
    STRATA_RETURN_IF_ERROR(set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace));
    // Parts of a sum are added in f32 in the workspace, in one order.
    STRATA_RETURN_IF_ERROR(set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                               static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE)));
    const std::uint32_t c_alignment = alignment_of(gemm.pointers.c);
    STRATA_RETURN_IF_ERROR(set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(gemm.pointers.b)));
    STRATA_RETURN_IF_ERROR(set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(gemm.pointers.a)));
    STRATA_RETURN_IF_ERROR(set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c_alignment));
    STRATA_RETURN_IF_ERROR(set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c_alignment));
    cublasLtMatmulHeuristicResult_t proposed{};
    int count = 0;
    STRATA_RETURN_IF_ERROR(
        checked(f_.heuristic(handle_, desc, a.get(), b.get(), c.get(), c.get(), preference, 1, &proposed, &count),
                "cublasLtMatmulAlgoGetHeuristic"));
    if (count == 0) return Status(Code::unsupported, "cuBLASLt has no algorithm for it");
    STRATA_RETURN_IF_ERROR(checked(proposed.state, "cublasLtMatmulAlgoGetHeuristic"));
    return Prepared{std::move(owner), std::move(a), std::move(b), std::move(c), proposed.algo, proposed.workspaceSize};
  }

  SharedLibrary library_;  // before what was made by it
  Functions f_;
  int ordinal_;
  bool tf32_;
  cublasLtHandle_t handle_ = nullptr;
  std::mutex mutex_;
  Ways ways_;
};

CublasGemm::CublasGemm(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CublasGemm::CublasGemm(CublasGemm&&) noexcept = default;
CublasGemm& CublasGemm::operator=(CublasGemm&&) noexcept = default;
CublasGemm::~CublasGemm() = default;

Result<CublasGemm> CublasGemm::create(int ordinal, bool tf32, const std::string& library) {
  const std::string file = library.empty() ? kLibrary : library;
  STRATA_ASSIGN_OR_RETURN(SharedLibrary opened, SharedLibrary::open(file, "cuBLAS of the CUDA toolkit"));
  STRATA_ASSIGN_OR_RETURN(const Functions functions, Functions::find(opened));
  auto impl = std::make_unique<Impl>(std::move(opened), functions, ordinal, tf32);
  STRATA_RETURN_IF_ERROR(impl->start());
  return CublasGemm(std::move(impl));
}

void CublasGemm::enqueue(const kernels::Gemm& gemm, GpuQueue& queue) {
  if (const Status status = impl_->enqueue(gemm, queue); !status.ok()) queue.fail(status.with_context(describe(gemm.shape)));
}

}  // namespace strata
