// AdamW against torch.optim.AdamW (tests/oracle/make_adamw_vectors.py).
// Mutations caught: bias correction with step - 1, decay after the update or on the new weights, eps inside the square root,
// beta1 and beta2 swapped, grad_scale dropped.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include "optim/adamw.h"
#include "runtime/status.h"

namespace strata {
namespace {

class Reader {
 public:
  explicit Reader(const char* name) {
    std::ifstream in(std::string(STRATA_SOURCE_DIR) + "/tests/optim/vectors/" + name, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(in), {});
  }
  template <class T>
  T get() {
    return array<T>(1)[0];
  }
  template <class T>
  std::vector<T> array(std::size_t n) {
    std::vector<T> values(n);
    STRATA_CHECK(at_ + n * sizeof(T) <= bytes_.size(), "the vector file is truncated");
    std::memcpy(values.data(), bytes_.data() + at_, n * sizeof(T));
    at_ += n * sizeof(T);
    return values;
  }
  bool at_end() const { return at_ == bytes_.size(); }

 private:
  std::vector<char> bytes_;
  std::size_t at_ = 0;
};

// Largest |got - want| over the largest magnitude that this element of the state has had: what cancellation (a moment or
// parameter that passes through zero) cannot inflate.
struct Error {
  std::vector<double> scale;
  double worst = 0.0;
  void compare(const std::vector<float>& got, const std::vector<float>& want) {
    scale.resize(got.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double expected = want[i];
      scale[i] = std::max(scale[i], std::abs(expected));
      const double difference = std::abs(static_cast<double>(got[i]) - expected);
      // An ulp of the denormals is their only unit.
      if (difference > 0x1p-149) worst = std::max(worst, difference / scale[i]);
    }
  }
};

TEST(AdamWOracle, TwentyFiveStepsAgreeWithPyTorchToOneInAMillion) {
  Reader in("adamw.bin");
  const int cases = in.get<int>();
  ASSERT_EQ(cases, 3);
  for (int k = 0; k < cases; ++k) {
    const auto n = static_cast<std::size_t>(in.get<int>());
    const int steps = in.get<int>();
    AdamWConfig config;
    const ParamGroup group{.weight_decay = in.get<double>()};
    config.eps = in.get<double>();
    std::vector<float> p = in.array<float>(n), m(n), v(n);
    Error ep, em, ev;
    ep.compare(p, p);
    for (int step = 1; step <= steps; ++step) {
      const double lr = in.get<double>();
      std::vector<float> g = in.array<float>(n);
      // The clip coefficient is folded into the update: gradients 4 x as large with a scale of 1/4 are the same gradients.
      const bool scaled = step % 2 == 0;
      if (scaled) {
        for (float& x : g) x *= 4.0f;
      }
      AdamW(config).update({.p = p.data(), .states = {m.data(), v.data()}, .g = g.data(), .n = static_cast<std::int64_t>(n)},
                           {.number = step, .lr = lr, .grad_scale = scaled ? 0.25 : 1.0}, group);
      ep.compare(p, in.array<float>(n));
      em.compare(m, in.array<float>(n));
      ev.compare(v, in.array<float>(n));
      ASSERT_LE(ep.worst, 1e-6) << "p, case " << k << ", step " << step;
      ASSERT_LE(em.worst, 1e-6) << "m, case " << k << ", step " << step;
      ASSERT_LE(ev.worst, 1e-6) << "v, case " << k << ", step " << step;
    }
  }
  EXPECT_TRUE(in.at_end());
}

}  // namespace
}  // namespace strata
