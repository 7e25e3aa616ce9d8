#include "runtime/gpu/gemm_epilogue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "runtime/kernels/linear.h"
#include "tests/emulator/emulated_driver.h"
#include "tests/machines/machines.h"

namespace strata {
namespace {

using kernels::Epilogue;
using kernels::Gemm;
using ::testing::ElementsAre;
using Ways = GemmWays<int, int>;

Gemm product(Epilogue epilogue, DType dtype = DType::bf16, std::int64_t n = 16) {
  return {.shape = {.m = 3, .n = n, .k = 5, .operands = dtype, .result = dtype}, .pointers = {}, .epilogue = epilogue};
}

// Prepares 1 for a fused product and 2 for one alone, or says what it is told to.
struct Library {
  Status fused = {}, alone = {};
  std::vector<Epilogue> asked = {};

  Result<const Ways::Way*> way_of(Ways& ways, const Gemm& gemm, int key = 0) {
    return ways.get(key, gemm, [this](const Gemm& part) -> Result<int> {
      asked.push_back(part.epilogue);
      const Status& status = part.epilogue == Epilogue::none ? alone : fused;
      if (!status.ok()) return status;
      return part.epilogue == Epilogue::none ? 2 : 1;
    });
  }
};

const Status kRefused(Code::unsupported, "no algorithm");
const Status kBroken(Code::internal, "broken");

TEST(GemmWays, AProductThatTheLibraryFusesIsPreparedOnce) {
  for (const Epilogue epilogue : {Epilogue::none, Epilogue::gelu, Epilogue::gelu_backward}) {
    Ways ways;
    Library library;
    const Ways::Way* const way = library.way_of(ways, product(epilogue)).value();
    EXPECT_TRUE(way->fused);
    EXPECT_EQ(way->prepared, epilogue == Epilogue::none ? 2 : 1);
    EXPECT_EQ(library.way_of(ways, product(epilogue)).value(), way);
    EXPECT_THAT(library.asked, ElementsAre(epilogue));
  }
}

TEST(GemmWays, ARefusedEpilogueIsTheOtherWayFromThenOn) {
  for (const Epilogue epilogue : {Epilogue::gelu, Epilogue::gelu_backward}) {
    Ways ways;
    Library library{.fused = kRefused};
    const Ways::Way* const way = library.way_of(ways, product(epilogue)).value();
    EXPECT_FALSE(way->fused);
    EXPECT_EQ(way->prepared, 2);
    library.fused = {};
    EXPECT_EQ(library.way_of(ways, product(epilogue)).value(), way) << "the way changed";
    EXPECT_THAT(library.asked, ElementsAre(epilogue, Epilogue::none));
    EXPECT_TRUE(library.way_of(ways, product(epilogue), 1).value()->fused) << "another product has a way of its own";
  }
}

TEST(GemmWays, F32AndOddWidthsAreNotAskedFor) {
  const Gemm odd[] = {product(Epilogue::gelu, DType::f32), product(Epilogue::gelu, DType::bf16, 15),
                      product(Epilogue::gelu_backward, DType::bf16, 4)};
  for (const Gemm& gemm : odd) {
    Ways ways;
    Library library;
    EXPECT_FALSE(library.way_of(ways, gemm).value()->fused);
    EXPECT_THAT(library.asked, ElementsAre(Epilogue::none));
  }
}

TEST(GemmWays, OtherErrorsAreReturnedAndNothingIsKept) {
  Ways ways;
  Library library{.fused = kBroken};
  EXPECT_EQ(library.way_of(ways, product(Epilogue::gelu)).status().message(), "broken");
  EXPECT_THAT(library.asked, ElementsAre(Epilogue::gelu));
  library.fused = {};
  EXPECT_TRUE(library.way_of(ways, product(Epilogue::gelu)).value()->fused);

  Library refusing{.fused = kRefused, .alone = kRefused};
  EXPECT_EQ(refusing.way_of(ways, product(Epilogue::gelu), 1).status().code(), Code::unsupported);
  EXPECT_EQ(refusing.way_of(ways, product(Epilogue::none), 2).status().code(), Code::unsupported);
  EXPECT_THAT(refusing.asked, ElementsAre(Epilogue::gelu, Epilogue::none, Epilogue::none));
}

TEST(GemmEpilogue, ItsPartsAreTheProductIntoPreAndTheKernel) {
  int pre = 0, c = 0;
  Gemm gemm = product(Epilogue::gelu);
  gemm.pre = &pre;
  gemm.pointers.c = &c;
  EXPECT_EQ(without_epilogue(gemm).pointers.c, &pre);
  EXPECT_EQ(without_epilogue(gemm).epilogue, Epilogue::none);
  gemm.epilogue = Epilogue::gelu_backward;
  EXPECT_EQ(without_epilogue(gemm).pointers.c, &c);
  EXPECT_EQ(without_epilogue(gemm).epilogue, Epilogue::none);
}

// What the kernels' tests run with refused epilogues is the other way.
TEST(GemmEpilogue, TheEmulatorTakesTheWayItIsToldTo) {
  for (const bool refuses : {false, true}) {
    const strata::testing::GpuMachine machine = {"emulated", 1, [&](int) -> std::unique_ptr<GpuDriver> {
                                                   return gpu_emulated::make_emulated_driver({.refuses_epilogues = refuses});
                                                 }};
    strata::testing::GpuBench bench(machine);
    auto& driver = static_cast<gpu_emulated::EmulatedDriver&>(bench.device().gpu());
    std::byte* data = driver.allocate_device(4096).value();
    zero_async(data, 4096, bench.stream());
    const TensorRef x{data, DType::f32, {2, 8}}, w{data + 1024, DType::f32, {8, 8}}, pre{data + 2048, DType::f32, {2, 8}},
        y{data + 3072, DType::f32, {2, 8}};
    kernels::linear_gelu_forward({.x_RI = x, .w_OI = w, .b_O = {}, .pre_RO = pre, .y_RO = y}, bench.stream());
    kernels::gelu_linear_backward_input({.dy_RO = y, .w_OI = w, .pre_RI = pre, .dpre_RI = x}, bench.stream());
    ASSERT_TRUE(bench.stream().synchronize().ok());
    EXPECT_EQ(driver.counts().kernels.size(), refuses ? 2u : 0u);
    driver.free_device(data);
  }
}

}  // namespace
}  // namespace strata
