// Strata against PyTorch and transformers on the stored vectors. Mutations these catch: the sign of the rotation, a q/k/v row
// order, the missing 1/sqrt(H), a norm's eps, a tied head that does not add to the embedding's gradient, an untransposed
// Conv1D, Adam's bias correction, decay on a norm.
#include <map>

#include "optim/adamw.h"
#include "optim/clip.h"
#include "runtime/kernels/elementwise.h"
#include "support.h"
#include "tests/machines/machines.h"
#include "tests/machines/tolerances.h"

namespace strata::testing {
namespace {

std::vector<Processor> where() {
  std::vector<Processor> all = processors();
  if (kSanitized) std::erase_if(all, [](const Processor& processor) { return processor.gpu != nullptr; });
  return all;
}

// A case, on a processor.
class Parity : public ::testing::TestWithParam<std::tuple<std::string, Processor>> {
 protected:
  static std::string name() { return std::get<0>(GetParam()); }
  static ReferenceRun::Options options(DType dtype = DType::f32) {
    ReferenceRun::Options o{.compute_dtype = dtype, .budget = std::size_t{256} << 20};
    if (const GpuMachine* machine = std::get<1>(GetParam()).gpu) o.make_gpu = [machine] { return machine->make_driver(); };
    return o;
  }
  void compare_gradients(DType dtype,
                         const std::function<void(const HfTensor&, std::span<const float>, std::span<const float>)>& check);
};

TEST_P(Parity, LogitsMatch) {
  const VectorCase c(name());
  ReferenceRun run(*c.model, options());
  throw_if_error(load_weights(c.hf_dir, c.config, run));
  EXPECT_LT(max_difference(run.logits(c.batch(0)), c.values("logits")), kLogits);
}

void Parity::compare_gradients(
    DType dtype, const std::function<void(const HfTensor&, std::span<const float>, std::span<const float>)>& check) {
  const VectorCase c(name());
  ReferenceRun run(*c.model, options(dtype));
  throw_if_error(load_weights(c.hf_dir, c.config, run));
  const ReferenceRun::Tokens batch = c.batch(0);
  (void)run.forward_backward(batch, 1.0f / static_cast<float>(VectorCase::counted(batch)), false);
  for (const HfTensor& tensor : c.mapping)
    check(tensor, hf_values(tensor, run.grad(tensor.unit, tensor.param)), c.values("grad." + tensor.name));
}

TEST_P(Parity, EveryGradientMatches) {
  compare_gradients(DType::f32, [](const HfTensor& tensor, auto ours, auto theirs) {
    EXPECT_LT(relative_difference(ours, theirs), kGradient) << tensor.name;
  });
}

TEST_P(Parity, EveryBf16GradientPointsTheSameWay) {
  compare_gradients(DType::bf16, [](const HfTensor& tensor, auto ours, auto theirs) {
    EXPECT_GT(cosine(ours, theirs), kBf16GradientCosine) << tensor.name;
  });
}

// The whole optimizer step, without a trainer.
class Optimizer {
 public:
  Optimizer(const Model& model, const nlohmann::json& o) : model_(model), options_(o) {
    optimizer_ = AdamW({.beta1 = o["beta1"], .beta2 = o["beta2"], .eps = o["eps"]});
    decaying_ = {.weight_decay = o["weight_decay"]};
  }
  // Returns the norm of the gradient before clipping.
  double step(ReferenceRun& run, std::int64_t number) {
    std::vector<double> partials;
    each_param([&](int u, int p, const ParamSpec&) {
      const std::span<float> g = run.grad(u, p);
      std::vector<double> part((g.size() + kernels::kNormBlock - 1) / kernels::kNormBlock);
      kernels::sum_squares_blocks(g.data(), static_cast<std::int64_t>(g.size()), part.data());
      partials.insert(partials.end(), part.begin(), part.end());
    });
    const double norm = global_norm(partials);
    const UpdateStep step{.number = number, .lr = options_["lr"], .grad_scale = clip_coefficient(norm, options_["max_norm"])};
    each_param([&](int u, int p, const ParamSpec& spec) {
      const std::span<float> g = run.grad(u, p);
      auto& [m, v] = state_[{u, p}];
      m.resize(g.size());
      v.resize(g.size());
      const UpdateSlice slice{
          .p = run.param(u, p).data(), .states = {m.data(), v.data()}, .g = g.data(), .n = static_cast<std::int64_t>(g.size())};
      optimizer_.update(slice, step, spec.decay ? decaying_ : ParamGroup{});
    });
    return norm;
  }

 private:
  void each_param(const std::function<void(int, int, const ParamSpec&)>& call) const {
    for (int u = 0; u < model_.unit_count(); ++u) {
      const std::vector<ParamSpec> params = model_.unit(u).params();
      for (std::size_t p = 0; p < params.size(); ++p) call(u, static_cast<int>(p), params[p]);
    }
  }
  const Model& model_;
  const nlohmann::json& options_;
  AdamW optimizer_;
  ParamGroup decaying_;
  std::map<std::pair<int, int>, std::pair<std::vector<float>, std::vector<float>>> state_;
};

// GPT-2's key bias has a gradient of zero but for rounding, which Adam blows up to full steps: it moves at random.
void clear_key_bias(const VectorCase& c, const HfTensor& tensor, std::vector<float>& values) {
  if (c.config.architecture != Architecture::gpt2 || !tensor.name.ends_with("c_attn.bias")) return;
  const auto C = static_cast<std::ptrdiff_t>(c.config.hidden_size);
  std::fill(values.begin() + C, values.begin() + 2 * C, 0.0f);
}

void compare_weights(const VectorCase& c, ReferenceRun& run) {
  const std::size_t stride = c.expected["final_stride"];
  for (const HfTensor& tensor : c.mapping) {
    std::vector<float> values = hf_values(tensor, run.param(tensor.unit, tensor.param));
    const std::vector<float> sampled = c.values("final." + tensor.name);
    std::vector<float> theirs(values.size());
    for (std::size_t i = 0; i < sampled.size(); ++i) theirs[i * stride] = sampled[i];
    for (std::size_t i = 0; i < values.size(); ++i)
      if (i % stride != 0) values[i] = 0.0f;
    clear_key_bias(c, tensor, values);
    clear_key_bias(c, tensor, theirs);
    EXPECT_LT(relative_difference(values, theirs), kWeights) << tensor.name;
  }
}

TEST_P(Parity, TenAdamWStepsMatch) {
  const VectorCase c(name());
  ReferenceRun run(*c.model, options());
  throw_if_error(load_weights(c.hf_dir, c.config, run));
  Optimizer optimizer(*c.model, c.expected["optimizer"]);
  const std::vector<double> losses = c.expected["losses"];
  const std::vector<double> norms = c.expected["gradient_norms"];
  for (std::size_t step = 0; step < losses.size(); ++step) {
    const ReferenceRun::Tokens batch = c.batch(static_cast<std::int64_t>(step));
    const std::int64_t counted = VectorCase::counted(batch);
    run.zero_grads();
    const double loss = mean_loss(run.forward_backward(batch, 1.0f / static_cast<float>(counted), false), counted);
    EXPECT_NEAR(loss / losses[step], 1.0, kLoss) << "step " << step;
    EXPECT_NEAR(optimizer.step(run, static_cast<std::int64_t>(step) + 1) / norms[step], 1.0, kGradientNorm) << "step " << step;
  }
  compare_weights(c, run);
}

INSTANTIATE_TEST_SUITE_P(Vectors, Parity,
                         ::testing::Combine(::testing::ValuesIn(vector_case_names()), ::testing::ValuesIn(where())),
                         [](const auto& test) { return std::get<0>(test.param) + "_on_" + std::get<1>(test.param).name; });

}  // namespace
}  // namespace strata::testing
