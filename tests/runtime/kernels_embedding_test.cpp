#include <gtest/gtest.h>

#include "kernel_testing.h"
#include "runtime/kernels/embedding.h"

namespace strata::kernels {
namespace {

using namespace testing;  // NOLINT

struct Case {
  std::int64_t B, T, C, V;
};
// The sixth is cut into several tasks; the last two are sorted by token in several rounds.
const std::vector<Case> kCases = {{0, 5, 16, 7},  {1, 1, 1, 1},     {1, 5, 15, 3},   {5, 1, 17, 300},
                                  {1, 5, 80, 11}, {2, 35, 769, 50}, {10, 70, 16, 3}, {4, 256, 8, 1}};

TEST(EmbeddingForward, IsTokenRowPlusPositionRow) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Case& c : kCases)
      for (const bool positions : {false, true}) {
        const std::int64_t R = c.B * c.T;
        const Array ids = tokens(R, c.V, "ids");
        const Array wte = normal(dtype, {c.V, c.C}, "wte");
        const Array wpe = normal(dtype, {c.T + 2, c.C}, "wpe");
        Array expected(dtype, {R, c.C});
        for (std::int64_t r = 0; r < R; ++r)
          for (std::int64_t i = 0; i < c.C; ++i) {
            const double token = wte.at(static_cast<std::int64_t>(ids.at(r)) * c.C + i);
            expected.set(r * c.C + i, positions ? token + wpe.at(r % c.T * c.C + i) : token);
          }
        on_every_machine(
            [&](StreamRef stream) {
              Array t = ids, w = wte, p = wpe, y(dtype, {R, c.C});
              EmbeddingForwardArgs args{.tokens_R = t.ref(), .wte_VC = w.ref(), .wpe_TC = {}, .y_RC = y.ref(), .T = c.T};
              if (positions) args.wpe_TC = p.ref();
              embedding_forward(args, stream);
              finish(stream);
              return Outputs{y};
            },
            [&](const Outputs& out) { EXPECT_TRUE(out[0] == expected) << R << " x " << c.C; });
      }
}

TEST(EmbeddingBackward, AddsRowsInOrderToTheBit) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Case& c : kCases)
      for (const bool positions : {false, true}) {
        const std::int64_t R = c.B * c.T;
        const Array ids = tokens(R, c.V, "ids");
        const Array dy = normal(dtype, {R, c.C}, "dy");
        const Array dwte = normal(DType::f32, {c.V, c.C}, "dwte");
        const Array dwpe = normal(DType::f32, {c.T + 1, c.C}, "dwpe");
        Array expected_wte = dwte, expected_wpe = dwpe;
        for (std::int64_t r = 0; r < R; ++r)
          for (std::int64_t i = 0; i < c.C; ++i) {
            const auto add = [&](Array& sum, std::int64_t at) {
              sum.set(at, static_cast<double>(static_cast<float>(sum.at(at)) + static_cast<float>(dy.at(r * c.C + i))));
            };
            add(expected_wte, static_cast<std::int64_t>(ids.at(r)) * c.C + i);
            if (positions) add(expected_wpe, r % c.T * c.C + i);
          }
        on_every_machine(
            [&](StreamRef stream) {
              Array t = ids, d = dy, wte = dwte, wpe = dwpe;
              EmbeddingBackwardArgs args{.tokens_R = t.ref(), .dy_RC = d.ref(), .dwte_VC = wte.ref(), .dwpe_TC = {}, .T = c.T};
              if (positions) args.dwpe_TC = wpe.ref();
              embedding_backward(args, stream);
              finish(stream);
              return Outputs{wte, wpe};
            },
            [&](const Outputs& out) {
              EXPECT_TRUE(out[0] == expected_wte) << R << " x " << c.C;
              EXPECT_TRUE(out[1] == expected_wpe) << R << " x " << c.C;
            });
      }
}

TEST(Embedding, ATokenOutsideTheVocabularyIsAnErrorThatNamesRowAndValue) {
  for (const std::int32_t bad : {-1, 4, 2000000000}) {
    Device device(Backend::host, 2);
    Stream forward(device, "forward"), backward(device, "backward");
    Array ids = tokens(6, 4, "ids"), wte(DType::f32, {4, 8}), y(DType::f32, {6, 8}), dwte(DType::f32, {4, 8});
    ids.set(5, bad);
    embedding_forward({.tokens_R = ids.ref(), .wte_VC = wte.ref(), .wpe_TC = {}, .y_RC = y.ref(), .T = 6}, forward);
    embedding_backward({.tokens_R = ids.ref(), .dy_RC = y.ref(), .dwte_VC = dwte.ref(), .dwpe_TC = {}, .T = 6}, backward);
    for (StreamRef stream : {forward.ref(), backward.ref()}) {
      const Status status = stream.synchronize();
      EXPECT_EQ(status.code(), Code::invalid_argument);
      EXPECT_NE(status.message().find("row 5"), std::string::npos) << status.message();
      EXPECT_NE(status.message().find(std::to_string(bad)), std::string::npos) << status.message();
    }
  }
}

TEST(Embedding, RefusesWrongShapes) {
  Device device(Backend::host, 1);
  Stream stream(device, "compute");
  Array ids = tokens(6, 4, "ids"), wte(DType::f32, {4, 8}), wpe(DType::f32, {3, 8}), y(DType::f32, {6, 8}),
        z(DType::f32, {6, 7});
  EXPECT_THROW(embedding_forward({.tokens_R = ids.ref(), .wte_VC = wte.ref(), .wpe_TC = {}, .y_RC = z.ref(), .T = 6}, stream),
               ContractViolation);
  EXPECT_THROW(
      embedding_forward({.tokens_R = ids.ref(), .wte_VC = wte.ref(), .wpe_TC = wpe.ref(), .y_RC = y.ref(), .T = 6}, stream),
      ContractViolation);
  EXPECT_THROW(
      embedding_forward({.tokens_R = ids.ref(), .wte_VC = wte.ref(), .wpe_TC = wpe.ref(), .y_RC = y.ref(), .T = 4}, stream),
      ContractViolation);
}

TEST(Embedding, TheDryBackendTouchesNothing) {
  Device device(Backend::dry, 1);
  Stream stream(device, "compute");
  TensorRef ids{nullptr, DType::i32, {6}}, wte{nullptr, DType::f32, {4, 8}}, y{nullptr, DType::f32, {6, 8}};
  embedding_forward({.tokens_R = ids, .wte_VC = wte, .wpe_TC = {}, .y_RC = y, .T = 6}, stream);
  EXPECT_TRUE(stream.ref().synchronize().ok());
}

}  // namespace
}  // namespace strata::kernels
