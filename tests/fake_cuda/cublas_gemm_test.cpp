// Products by cuBLASLt over a library that multiplies as its descriptors say: that they are what the host computes, that an
// algorithm is chosen once for a shape, and what is told when the library refuses or fails.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#ifdef STRATA_FAKE_CUDA  // where the CUDA backend is built

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cmath>
#include <cstring>
#include <thread>

#include "runtime/gpu/cuda.h"
#include "runtime/gpu/cuda/cublas_gemm.h"
#include "runtime/kernels/gemm.h"
#include "tests/fake_cuda/fake_cublaslt.h"
#include "tests/fake_cuda/fake_cuda.h"

namespace strata {
namespace {

using kernels::Epilogue;
using kernels::Gemm;
using ::testing::HasSubstr;

fake_cuda::Cublaslt& library() {
  void* const loaded = dlopen(STRATA_FAKE_CUBLASLT, RTLD_NOW | RTLD_LOCAL);
  return *reinterpret_cast<fake_cuda::Cublaslt* (*)()>(dlsym(loaded, "strata_fake_cublaslt"))();
}

class CublasGemmTest : public ::testing::Test {
 protected:
  CublasGemmTest() {
    fake_cuda::reset();
    library() = {};
    make(false);
    data_ = driver_->allocate_device(kBytes).value();
    host_ = driver_->allocate_pinned(kBytes).value();
    scratch_ = driver_->allocate_device(kScratch).value();
    queue_ = driver_->make_queue("compute").value();
    queue_->set_scratch({scratch_, kScratch});
  }
  ~CublasGemmTest() override {
    queue_.reset();
    driver_->free_device(data_);
    driver_->free_device(scratch_);
    driver_->free_pinned(host_, kBytes);
    gemm_.reset();
    driver_.reset();
    EXPECT_EQ(library().living, 0) << "something of the library leaks";
    EXPECT_EQ(fake_cuda::living(), "");
  }
  void make(bool tf32) {
    gemm_.reset();
    driver_ = driver_ ? std::move(driver_) : make_cuda_driver({}).value();
    gemm_ = std::make_unique<CublasGemm>(CublasGemm::create(0, tf32).value());
  }
  Status finish() { return queue_->mark()->wait(); }
  Status run(const Gemm& gemm) {
    gemm_->enqueue(gemm, *queue_);
    return finish();
  }

  // A product of small whole numbers, whose sums every type holds exactly.
  struct Arrays {
    std::size_t a, b, bias, c, pre, end;  // offsets of 256 bytes
  };
  static Arrays arrays(const Gemm& g) {
    const auto up = [](std::int64_t elements) { return (static_cast<std::size_t>(elements) * 4 + 255) / 256 * 256; };
    Arrays at{};
    at.b = up(g.shape.m * g.shape.k);
    at.bias = at.b + up(g.shape.k * g.shape.n);
    at.c = at.bias + up(g.shape.n);
    at.pre = at.c + up(g.shape.m * g.shape.n);
    at.end = at.pre + up(g.shape.m * g.shape.n);
    return at;
  }
  static void put(std::byte* to, DType dtype, std::int64_t i, float value) {
    if (dtype == DType::f32) reinterpret_cast<float*>(to)[i] = value;
    if (dtype == DType::bf16) reinterpret_cast<bf16*>(to)[i] = to_bf16(value);
    if (dtype == DType::f16) reinterpret_cast<f16*>(to)[i] = to_f16(value);
  }
  static float get(const std::byte* from, DType dtype, std::int64_t i) {
    if (dtype == DType::bf16) return to_float(reinterpret_cast<const bf16*>(from)[i]);
    if (dtype == DType::f16) return to_float(reinterpret_cast<const f16*>(from)[i]);
    return reinterpret_cast<const float*>(from)[i];
  }
  static void point_at(Gemm& g, std::byte* base) {
    const Arrays at = arrays(g);
    g.pointers = {.a = base + at.a, .b = base + at.b, .c = base + at.c};
    if (g.shape.bias) g.pointers.bias = base + at.bias;
    g.pre = g.epilogue != Epilogue::none ? base + at.pre : nullptr;
  }
  void fill(const Gemm& g, std::byte* base) {
    const Arrays at = arrays(g);
    const auto some = [&](std::size_t offset, DType dtype, std::int64_t n, int salt, float scale) {
      for (std::int64_t i = 0; i < n; ++i)
        put(base + offset, dtype, i, scale * static_cast<float>((i * (salt + 4) + i / 7 * salt) % 5 - 2));
    };
    some(at.a, g.shape.operands, g.shape.m * g.shape.k, 1, 1.0f);
    some(at.b, g.shape.operands, g.shape.k * g.shape.n, 2, 1.0f);
    some(at.bias, g.shape.operands, g.shape.n, 3, 1.0f);
    some(at.c, g.shape.result, g.shape.m * g.shape.n, 4, 1.0f);
    some(at.pre, g.shape.result, g.shape.m * g.shape.n, 5, 0.5f);
  }
  // The product here and by the host's library: C and pre.
  void expect_as_the_host(Gemm g, float tolerance) {
    SCOPED_TRACE(::testing::Message() << g.shape.m << " " << g.shape.n << " " << g.shape.k << " transposed " << g.shape.trans_a
                                      << g.shape.trans_b << " accumulate " << g.shape.accumulate << " bias " << g.shape.bias
                                      << " " << to_string(g.shape.operands) << " to " << to_string(g.shape.result)
                                      << " epilogue " << static_cast<int>(g.epilogue));
    const Arrays at = arrays(g);
    ASSERT_LE(at.end, kBytes);
    std::vector<std::byte> expected(at.end);
    fill(g, expected.data());
    std::memcpy(host_, expected.data(), at.end);
    queue_->copy(host_, data_, at.end);
    point_at(g, data_);
    ASSERT_TRUE(run(g).ok()) << finish().message();
    queue_->copy(data_, host_, at.end);
    ASSERT_TRUE(finish().ok());
    Gemm twin = g;
    point_at(twin, expected.data());
    kernels::TiledGemm host(twin, 1, false);
    for (std::int64_t tile = 0; tile < host.tiles(); ++tile) host.run(tile);
    ASSERT_TRUE(host.status().ok()) << host.status().message();
    for (const std::size_t array : {at.c, at.pre})
      for (std::int64_t i = 0; i < g.shape.m * g.shape.n; ++i) {
        const float found = get(host_ + array, g.shape.result, i), wanted = get(expected.data() + array, g.shape.result, i);
        ASSERT_LE(std::abs(found - wanted), tolerance * std::max(1.0f, std::abs(wanted)))
            << (array == at.c ? "C" : "pre") << "[" << i << "]: " << found << " instead of " << wanted;
      }
    EXPECT_EQ(std::memcmp(host_ + at.a, expected.data() + at.a, at.c - at.a), 0) << "operands are read only";
  }
  // A product whose arrays are zero.
  Gemm plain(std::int64_t m = 4, std::int64_t n = 8, std::int64_t k = 4, Epilogue epilogue = Epilogue::none,
             DType dtype = DType::bf16) {
    Gemm g{.shape = {.m = m, .n = n, .k = k, .operands = dtype, .result = dtype}, .pointers = {}, .epilogue = epilogue};
    point_at(g, data_);
    queue_->zero(data_, kBytes);
    EXPECT_TRUE(finish().ok());
    return g;
  }

  static constexpr std::size_t kBytes = std::size_t{1} << 20, kScratch = std::size_t{64} << 10;
  std::unique_ptr<GpuDriver> driver_;
  std::unique_ptr<CublasGemm> gemm_;
  std::byte *data_ = nullptr, *host_ = nullptr, *scratch_ = nullptr;
  std::unique_ptr<GpuQueue> queue_;
};

TEST_F(CublasGemmTest, EveryFormIsWhatTheHostComputes) {
  struct Size {
    std::int64_t m, n, k;
  };
  for (const Size size : {Size{1, 1, 1}, Size{3, 5, 7}, Size{16, 8, 24}, Size{5, 33, 2}})
    for (const auto& [operands, result] :
         {std::pair{DType::f32, DType::f32}, std::pair{DType::bf16, DType::bf16}, std::pair{DType::bf16, DType::f32}})
      for (int form = 0; form < 16; ++form) {
        const bool bias = (form & 8) != 0;
        if (bias && operands != result) continue;
        expect_as_the_host({.shape = {.m = size.m,
                                      .n = size.n,
                                      .k = size.k,
                                      .trans_a = (form & 1) != 0,
                                      .trans_b = (form & 2) != 0,
                                      .accumulate = (form & 4) != 0 && !bias,
                                      .bias = bias,
                                      .operands = operands,
                                      .result = result},
                            .pointers = {}},
                           0.0f);
      }
}

TEST_F(CublasGemmTest, EpiloguesAreFusedWhereTheyMayBeAndAlwaysRight) {
  for (const bool knows : {true, false}) {
    library() = {.has_epilogues = knows, .living = library().living};
    make(false);
    for (const DType dtype : {DType::bf16, DType::f32})
      for (const std::int64_t n : {8, 24, 5})
        for (const Epilogue epilogue : {Epilogue::gelu, Epilogue::gelu_backward})
          for (const bool bias : {false, true}) {
            if (bias && epilogue == Epilogue::gelu_backward) continue;
            const int before = library().fused_matmuls;
            expect_as_the_host({.shape = {.m = 3, .n = n, .k = 4, .bias = bias, .operands = dtype, .result = dtype},
                                .pointers = {},
                                .epilogue = epilogue},
                               dtype == DType::f32 ? 2e-6f : 1e-2f);
            EXPECT_EQ(library().fused_matmuls - before, knows && dtype == DType::bf16 && n % 8 == 0 ? 1 : 0);
          }
  }
}

TEST_F(CublasGemmTest, F32IsMultipliedInF32UnlessTf32IsAskedFor) {
  Gemm g = plain(1, 1, 1, Epilogue::none, DType::f32);
  auto* const values = reinterpret_cast<float*>(host_);
  values[0] = 1.0f + 0x1p-11f + 0x1p-20f;  // tensor cores take it as 1 + 2^-10
  for (const bool tf32 : {false, true}) {
    make(tf32);
    queue_->copy(host_, const_cast<void*>(g.pointers.a), 4);
    queue_->copy(host_, const_cast<void*>(g.pointers.b), 4);
    ASSERT_TRUE(run(g).ok());
    queue_->copy(g.pointers.c, host_ + 4, 4);
    ASSERT_TRUE(finish().ok());
    const float taken = tf32 ? 1.0f + 0x1p-10f : values[0];
    EXPECT_EQ(values[1], static_cast<float>(static_cast<double>(taken) * static_cast<double>(taken))) << "tf32 " << tf32;
    EXPECT_EQ(library().tf32_matmuls, tf32 ? 1 : 0);
  }
  ASSERT_TRUE(run(plain()).ok());
  EXPECT_EQ(library().tf32_matmuls, 1) << "bf16 has nothing to do with it";
}

TEST_F(CublasGemmTest, AnAlgorithmIsChosenOnceForAShape) {
  const Gemm first = plain();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(run(first).ok());
  EXPECT_EQ(library().heuristics, 1);
  EXPECT_EQ(library().matmuls, 3);
  // Of the same shape elsewhere, as well aligned, too.
  Gemm moved = first;
  point_at(moved, data_ + 4096);
  EXPECT_TRUE(run(moved).ok());
  EXPECT_EQ(library().heuristics, 1);
  int expected = 1;
  const auto expect_another = [&](const Gemm& g, const char* why) {
    EXPECT_TRUE(run(g).ok()) << why;
    EXPECT_EQ(library().heuristics, ++expected) << why;
  };
  Gemm other = first;
  other.shape.trans_a = true;
  expect_another(other, "transposed");
  other = first;
  other.shape.accumulate = true;
  expect_another(other, "accumulating");
  other = first;
  other.pointers.b = static_cast<const std::byte*>(first.pointers.b) + 2;
  expect_another(other, "an operand that is less aligned");
  expect_another(plain(4, 16, 4), "another size");
  queue_->set_scratch({scratch_, 512});
  expect_another(first, "less workspace");
  queue_->set_scratch({scratch_, kScratch});
  EXPECT_TRUE(run(first).ok());
  EXPECT_EQ(library().heuristics, expected);
}

TEST_F(CublasGemmTest, PointersOfEveryAlignmentAreSaidToTheLibrary) {
  for (std::size_t shift = 2; shift <= 128; shift *= 2)
    for (int which = 0; which < 5; ++which) {
      Gemm g = plain(4, 8, 4, Epilogue::gelu);
      g.shape.bias = true;
      point_at(g, data_);
      const void** const read[] = {&g.pointers.a, &g.pointers.b, &g.pointers.bias};
      void** const written[] = {&g.pointers.c, &g.pre};
      if (which < 3)
        *read[which] = static_cast<const std::byte*>(*read[which]) + shift;
      else
        *written[which - 3] = static_cast<std::byte*>(*written[which - 3]) + shift;
      const Status status = run(g);
      EXPECT_TRUE(status.ok()) << "shift " << shift << " of pointer " << which << ": " << status.message();
    }
}

TEST_F(CublasGemmTest, TheWorkspaceIsTheQueuesScratchAndNoMore) {
  for (const std::size_t wanted : {std::size_t{1}, kScratch, kScratch + 1}) {
    library().workspace = wanted;
    make(false);
    EXPECT_TRUE(run(plain()).ok()) << wanted;
    // The library writes all that it asked for: a byte behind the scratch would kill us.
    queue_->copy(scratch_, host_, kScratch);
    ASSERT_TRUE(finish().ok());
    EXPECT_EQ(host_[0] == std::byte{0x7f}, wanted <= kScratch);
    queue_->zero(scratch_, kScratch);
  }
  queue_->set_scratch({});
  library().workspace = 1;
  make(false);
  EXPECT_TRUE(run(plain()).ok()) << "a queue without scratch";
}

TEST_F(CublasGemmTest, TwoQueuesMayAskAtOnce) {
  const Gemm g = plain(8, 8, 8);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      const auto queue = driver_->make_queue("of a thread").value();
      Gemm mine = g;
      point_at(mine, data_ + std::ptrdiff_t{16384} * t);
      for (int i = 0; i < 50; ++i) gemm_->enqueue(mine, *queue);
      EXPECT_TRUE(queue->mark()->wait().ok());
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(library().matmuls, 200);
}

TEST_F(CublasGemmTest, AProductThatNoAlgorithmIsForIsAnErrorWithItsShape) {
  library().has_products = false;
  const Status status = run(plain(4, 8, 16));
  EXPECT_EQ(status.code(), Code::unsupported);
  EXPECT_EQ(status.message(), "product of [4, 16] and [16, 8], bf16 to bf16: cuBLASLt has no algorithm for it");
}

TEST_F(CublasGemmTest, EveryCallThatFailsIsNamedAndNothingLeaks) {
  // The epilogue may be refused: then the product and a kernel. Everything else is the queue's error.
  const char* const calls[] = {"cublasLtMatmulDescCreate",
                               "cublasLtMatmulDescSetAttribute",
                               "cublasLtMatrixLayoutCreate",
                               "cublasLtMatmulPreferenceCreate",
                               "cublasLtMatmulPreferenceSetAttribute",
                               "cublasLtMatmulAlgoGetHeuristic",
                               "cublasLtMatmul"};
  for (const char* call : calls)
    for (int nth = 1;; ++nth) {
      SCOPED_TRACE(std::string(call) + ", call " + std::to_string(nth));
      Gemm g = plain(4, 8, 4, Epilogue::gelu);
      g.shape.bias = true;
      point_at(g, data_);
      make(false);
      const int living = library().living;
      library().failing = call;
      library().nth = nth;
      library().code = CUBLAS_STATUS_EXECUTION_FAILED;
      const auto queue = driver_->make_queue("compute").value();
      gemm_->enqueue(g, *queue);
      const Status status = queue->mark()->wait();
      if (library().failing != nullptr) {  // there are fewer such calls
        library().failing = nullptr;
        EXPECT_GT(nth, 1);
        EXPECT_TRUE(status.ok());
        break;
      }
      EXPECT_EQ(status.code(), Code::internal);
      EXPECT_THAT(status.message(), HasSubstr("product of [4, 4] and [4, 8], bf16 to bf16: " + std::string(call) +
                                              " on GPU 0: execution failed"));
      // A descriptor and three layouts are kept once a way was found.
      EXPECT_TRUE(library().living == living || library().living == living + 4) << library().living - living << " were made";
      const auto another = driver_->make_queue("another").value();
      gemm_->enqueue(g, *another);
      EXPECT_TRUE(another->mark()->wait().ok()) << "the next product is asked for anew";
    }
}

TEST_F(CublasGemmTest, AnEpilogueThatTheLibraryRefusesIsAKernelBehindTheProduct) {
  for (const char* call : {"cublasLtMatmulAlgoGetHeuristic", "cublasLtMatmulDescSetAttribute"}) {
    make(false);
    library().failing = call;
    library().nth = 1;
    library().code = CUBLAS_STATUS_NOT_SUPPORTED;
    const int before = library().fused_matmuls;
    EXPECT_TRUE(run(plain(4, 8, 4, Epilogue::gelu)).ok());
    EXPECT_TRUE(run(plain(4, 8, 4, Epilogue::gelu)).ok());
    EXPECT_EQ(library().fused_matmuls, before) << "and stays one";
  }
}

TEST_F(CublasGemmTest, ALibraryThatDoesNotStartIsAnErrorAndOneThatDoesNotEndIsSaid) {
  library().failing = "cublasLtCreate";
  library().code = CUBLAS_STATUS_NOT_INITIALIZED;
  const Status status = CublasGemm::create(0, false).status();
  EXPECT_EQ(status.code(), Code::internal);
  EXPECT_THAT(status.message(), HasSubstr("cublasLtCreate on GPU 0: not initialized"));
  ::testing::internal::CaptureStderr();
  {
    const CublasGemm gemm = CublasGemm::create(0, false).value();
    library().failing = "cublasLtDestroy";
    library().nth = 1;
  }
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("cublasLtDestroy on GPU 0: not initialized"));
}

TEST_F(CublasGemmTest, AnOldOrAMissingLibraryIsSaid) {
  const Status old = CublasGemm::create(0, false, STRATA_OLD_CUBLASLT).status();
  EXPECT_EQ(old.code(), Code::unsupported);
  EXPECT_THAT(old.message(), HasSubstr("has no cublasLtMatmulAlgoGetHeuristic: it is too old"));
  const Status missing = CublasGemm::create(0, false, "libcublasLt-that-nobody-has.so.1").status();
  EXPECT_EQ(missing.code(), Code::unsupported);
  EXPECT_THAT(missing.message(), HasSubstr("libcublasLt-that-nobody-has.so.1"));
}

}  // namespace
}  // namespace strata

#endif
