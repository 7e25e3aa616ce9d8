#include "runtime/kernels/matmul_primitive.h"

#include <dlfcn.h>

#include <dnnl.hpp>
#include <string>
#include <unordered_map>

#include "runtime/status.h"

namespace strata::kernels {
namespace {

using dnnl::memory;

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

// oneDNN spreads a primitive over the OpenMP threads that the calling thread may start. Strata has threads of its own, and
// idle OpenMP threads spin, so a call runs with a limit of one. The functions are looked up because the runtime that counts is
// the one that the loaded library uses; a library built without OpenMP has none.
class OneOpenMPThread {
 public:
  OneOpenMPThread() {
    if (runtime().set == nullptr) return;
    before_ = runtime().get();
    if (before_ != 1) runtime().set(1);
  }
  ~OneOpenMPThread() {
    if (before_ > 1) runtime().set(before_);
  }
  OneOpenMPThread(const OneOpenMPThread&) = delete;
  OneOpenMPThread& operator=(const OneOpenMPThread&) = delete;

 private:
  struct Runtime {
    int (*get)() = nullptr;
    void (*set)(int) = nullptr;
  };
  static const Runtime& runtime() {
    static const Runtime found = [] {
      dnnl_version();  // its library, and with it the runtime, is loaded
      Runtime r;
      r.get = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
      r.set = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
      return r.get != nullptr && r.set != nullptr ? r : Runtime();
    }();
    return found;
  }
  int before_ = 0;
};

memory::data_type type_of(DType dtype) { return dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32; }

memory::desc matrix(std::int64_t rows, std::int64_t cols, DType dtype, std::int64_t ld, bool transposed) {
  return {{rows, cols}, type_of(dtype), transposed ? memory::dims{1, ld} : memory::dims{ld, 1}};
}

dnnl::matmul::primitive_desc describe(const MatmulShape& s) {
  const memory::desc a = matrix(s.m, s.k, s.operands, s.lda, s.trans_a);
  const memory::desc b = matrix(s.k, s.n, s.operands, s.ldb, s.trans_b);
  const memory::desc c = matrix(s.m, s.n, s.result, s.ldc, false);
  const memory::desc bias = matrix(1, s.n, s.operands, s.n, false);
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);  // the library's own belongs to the thread that made the primitive
  if (s.accumulate) {
    dnnl::post_ops post_ops;
    post_ops.append_sum(1.0f);
    attr.set_post_ops(post_ops);
  }
  constexpr bool kAllowEmpty = true;
#if DNNL_VERSION_MAJOR >= 3
  return s.bias ? dnnl::matmul::primitive_desc(cpu_engine(), a, b, bias, c, attr, kAllowEmpty)
                : dnnl::matmul::primitive_desc(cpu_engine(), a, b, c, attr, kAllowEmpty);
#else
  const auto desc = s.bias ? dnnl::matmul::desc(a, b, bias, c) : dnnl::matmul::desc(a, b, c);
  return {desc, attr, cpu_engine(), kAllowEmpty};
#endif
}

}  // namespace

struct MatmulPrimitive::Impl {
  dnnl::matmul::primitive_desc description;
  dnnl::matmul primitive;
};

std::optional<MatmulPrimitive> MatmulPrimitive::create(const MatmulShape& shape) {
  const OneOpenMPThread one;
  try {
    auto description = describe(shape);
    if (!description) return std::nullopt;
    const std::string code = description.impl_info_str();
    // "ref" is the library's plain loop: right, and a hundred times slower than converting to f32.
    if (code.rfind("ref", 0) == 0 && shape.operands != DType::f32) return std::nullopt;
    // oneDNN 2.6 has AMX code that the processor refuses (SIGILL) for an inner dim of 63 and some numbers of rows; of 20 000
    // other shapes, for none.
    if (code.find("amx") != std::string::npos && shape.k == 63) return std::nullopt;
    return MatmulPrimitive(std::make_shared<Impl>(Impl{description, dnnl::matmul(description)}));
  } catch (const dnnl::error& error) {
    if (error.status == dnnl_unimplemented) return std::nullopt;
    throw StatusError(Status(Code::internal, std::string("oneDNN cannot make a matrix product: ") + error.what()));
  }
}

std::size_t MatmulPrimitive::scratch_bytes() const { return impl_->description.scratchpad_desc().get_size(); }

void MatmulPrimitive::run(const MatmulPointers& pointers, std::byte* scratch) const {
  const OneOpenMPThread one;
  const auto& d = impl_->description;
  const auto at = [](const memory::desc& desc, const void* p) { return memory(desc, cpu_engine(), const_cast<void*>(p)); };
  try {
    std::unordered_map<int, memory> args = {{DNNL_ARG_SRC, at(d.src_desc(), pointers.a)},
                                            {DNNL_ARG_WEIGHTS, at(d.weights_desc(), pointers.b)},
                                            {DNNL_ARG_DST, at(d.dst_desc(), pointers.c)},
                                            {DNNL_ARG_SCRATCHPAD, at(d.scratchpad_desc(), scratch)}};
    if (pointers.bias != nullptr) args.emplace(DNNL_ARG_BIAS, at(d.bias_desc(), pointers.bias));
    dnnl::stream stream(cpu_engine());
    impl_->primitive.execute(stream, args);
    stream.wait();
  } catch (const dnnl::error& error) {
    throw StatusError(Status(Code::internal, std::string("oneDNN matrix product failed: ") + error.what()));
  }
}

}  // namespace strata::kernels
