// A layer of one's own: instead of attention, every channel mixes a token with the one before it, then a feed-forward layer
// follows.
//   s_t = a * x_t + (1 - a) * x_{t-1}   (x_{-1} = 0, one learned a per channel);   y = x + W2 gelu(W1 s + b1) + b2
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/mlp.h"
#include "model/unit.h"

class ShiftMixUnit : public strata::BodyUnit {
 public:
  // Parameters: <name>.mix [C], then those of a GeluMlp.
  ShiftMixUnit(std::string name, std::int64_t C, std::int64_t F);
  std::string name() const override { return name_; }
  std::vector<strata::ParamSpec> params() const override { return params_; }
  strata::Tensor forward(const strata::UnitContext& ctx, const strata::Tensor& x, strata::Saved* saved) override;
  strata::Tensor backward(const strata::UnitContext& ctx, const strata::Tensor& x, strata::Tensor dy,
                          strata::Saved saved) override;

 private:
  strata::Tensor mix(const strata::UnitContext& ctx, const strata::Tensor& x) const;

  std::string name_;
  std::vector<strata::ParamSpec> params_;  // filled by mlp_ after the first
  strata::GeluMlp mlp_;
};
