// What must hold without an oracle: recomputation and threads change no bit, chunks of the head add up, layers compose,
// memory is as documented, bad input is an error.
#include <cmath>
#include <cstring>

#include "model/init.h"
#include "support.h"

namespace strata::testing {
namespace {

ModelConfig tiny_qwen3() {
  ModelConfig c = tiny_llama();
  c.qk_norm = true;
  c.tie_embeddings = true;
  return c;
}
ModelConfig tiny_qwen2() {
  ModelConfig c = tiny_llama();
  c.qkv_bias = true;
  return c;
}

void expect_same_bits(const Model& model, ReferenceRun& a, ReferenceRun& b) {
  for (int u = 0; u < model.unit_count(); ++u) {
    int p = 0;
    for (const ParamSpec& spec : model.unit(u).params()) {
      const auto x = a.grad(u, p), y = b.grad(u, p);
      EXPECT_EQ(std::memcmp(x.data(), y.data(), x.size_bytes()), 0) << spec.name;
      ++p;
    }
  }
}

TEST(Transformer, RecomputationAndThreadsChangeNoBit) {
  for (const ModelConfig& config : {tiny_gpt2(), tiny_llama(), tiny_qwen2(), tiny_qwen3()})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const auto model = make_model(config).value();
      ReferenceRun kept(*model, {.compute_dtype = dtype, .threads = 1}), again(*model, {.compute_dtype = dtype, .threads = 3});
      kept.init(1);
      again.init(1);
      const ReferenceRun::Tokens batch = random_tokens(2, 17, config.vocab_size, 2);
      const std::vector<float> loss = kept.forward_backward(batch, 0.5f, false);
      EXPECT_EQ(loss, again.forward_backward(batch, 0.5f, true));
      EXPECT_EQ(loss, again.loss(batch));
      expect_same_bits(*model, kept, again);
    }
}

TEST(Transformer, LossIsTheCrossEntropyOfTheLogits) {
  const ModelConfig config = tiny_llama();
  const auto model = make_model(config).value();
  ReferenceRun run(*model, {});
  run.init(3);
  const ReferenceRun::Tokens batch = random_tokens(2, 9, config.vocab_size, 4);
  const std::vector<float> logits = run.logits(batch), loss = run.loss(batch);
  const auto V = static_cast<std::size_t>(config.vocab_size);
  for (std::size_t r = 0; r < loss.size(); ++r) {
    double sum = 0.0;
    for (std::size_t v = 0; v < V; ++v) sum += std::exp(static_cast<double>(logits[r * V + v]));
    const auto target = static_cast<std::size_t>(batch.targets[r]);
    EXPECT_NEAR(loss[r], std::log(sum) - static_cast<double>(logits[r * V + target]), 1e-5);
  }
}

// 150 rows are three chunks of the head, each sequence alone is one.
TEST(Transformer, ChunksOfTheHeadAddUp) {
  ModelConfig config = tiny_llama();
  config.vocab_size = 100'000;
  config.hidden_size = 8;
  config.num_layers = 1;
  config.max_positions = 50;
  for (const bool tied : {false, true}) {
    config.tie_embeddings = tied;
    const auto model = make_model(config).value();
    ASSERT_EQ(logit_chunk_rows(config.vocab_size, Device(Backend::host, 1)), 64);
    ReferenceRun whole(*model, {}), parts(*model, {});
    whole.init(5);
    parts.init(5);
    const ReferenceRun::Tokens batch = random_tokens(3, 50, config.vocab_size, 6);
    const std::vector<float> loss = whole.forward_backward(batch, 1.0f, false);
    std::vector<float> part_losses;
    for (std::size_t b = 0; b < 3; ++b) {
      ReferenceRun::Tokens part{{}, {}, 1, 50};
      part.tokens.assign(batch.tokens.begin() + static_cast<std::ptrdiff_t>(b) * 50,
                         batch.tokens.begin() + static_cast<std::ptrdiff_t>(b + 1) * 50);
      part.targets.assign(batch.targets.begin() + static_cast<std::ptrdiff_t>(b) * 50,
                          batch.targets.begin() + static_cast<std::ptrdiff_t>(b + 1) * 50);
      const std::vector<float> l = parts.forward_backward(part, 1.0f, false);
      part_losses.insert(part_losses.end(), l.begin(), l.end());
    }
    EXPECT_LT(max_difference(loss, part_losses), 1e-5);
    EXPECT_LT(max_difference(loss, whole.loss(batch)), 1e-6);
    for (int u = 0; u < model->unit_count(); ++u) {
      int p = 0;
      for (const ParamSpec& spec : model->unit(u).params()) {
        EXPECT_LT(relative_difference(whole.grad(u, p), parts.grad(u, p)), 1e-5) << spec.name;
        ++p;
      }
    }
  }
}

TEST(Transformer, RowsOfLogitsAtATimeFitAboutThirtyTwoMebibytesAndOnAGpu512) {
  const Device host(Backend::host, 1), gpu(Backend::dry, 1, Backend::cuda);
  EXPECT_EQ(logit_chunk_rows(50257, host), 128);
  EXPECT_EQ(logit_chunk_rows(1 << 23, host), 64);
  EXPECT_EQ(logit_chunk_rows(1, host) % 64, 0);
  EXPECT_EQ(logit_chunk_rows(50257, gpu), 2624);
}

// A unit nobody foresaw: attention and MLP side by side on one norm, as in GPT-J.
class ParallelBlock : public BodyUnit {
 public:
  ParallelBlock(std::int64_t C, std::shared_ptr<RopeTables> rope, bool qk_norm)
      : norm_(params_, "norm", Norm::Kind::layer, C, 1e-5),
        attention_(params_, "attn",
                   {.C = C,
                    .N = 4,
                    .K = 2,
                    .H = 6,
                    .qkv_bias = true,
                    .qk_norm = qk_norm,
                    .init = Init::normal(0.3f),
                    .rope = std::move(rope)}),
        swiglu_(params_, "swiglu", {.C = C, .F = 20, .init = Init::normal(0.3f), .out_init = Init::normal(0.3f)}),
        gelu_(params_, "gelu", {.C = C, .F = 12, .init = Init::normal(0.3f), .out_init = Init::normal(0.3f)}),
        mix_(params_, "mix", {.in = C, .out = C, .bias = true, .init = Init::normal(0.3f)}) {}
  std::string name() const override { return "parallel"; }
  std::vector<ParamSpec> params() const override { return params_; }

  Tensor forward(const UnitContext& ctx, const Tensor& x, Saved* saved) override {
    const Normed normed = norm_.forward(ctx, x);
    const Tensor a = attention_.forward(ctx, normed.y_RC, saved);
    Tensor m = swiglu_.forward(ctx, normed.y_RC, saved);
    const Normed sum = norm_.forward_residual(ctx, a, m, m);  // a norm used twice
    Tensor mixed = mix_.forward(ctx, sum.y_RC, "mixed");
    const TensorRef mixed_ref = mixed;  // the address stays when the owner moves
    if (saved != nullptr) {
      saved->push_back(std::move(m));
      saved->push_back(std::move(mixed));
    }
    return gelu_.forward(ctx, mixed_ref, saved);
  }

  Tensor backward(const UnitContext& ctx, const Tensor& x, Tensor dy, Saved saved) override {
    const Tensor dpre = gelu_.backward_core(ctx, dy, saved);
    const Tensor mixed = pop(saved);
    gelu_.backward_projection(ctx, dpre, mixed, dy);
    const Tensor s = pop(saved);
    const Normed sum = norm_.forward(ctx, s);
    mix_.backward_weight(ctx, dy, sum.y_RC);
    Tensor ds = ctx.activation(s.shape(), "ds");
    mix_.backward_input(ctx, dy, ds);
    norm_.backward(ctx, ds, s, sum, {}, ds);
    const Normed normed = norm_.forward(ctx, x);
    const Tensor dgate_up = swiglu_.backward_core(ctx, ds, saved);
    Tensor dn = ctx.activation(x.shape(), "dn");
    swiglu_.backward_projection(ctx, dgate_up, normed.y_RC, dn);
    const Tensor dqkv = attention_.backward_core(ctx, ds, saved);
    Tensor dn_attention = ctx.activation(x.shape(), "dn attention");
    attention_.backward_projection(ctx, dqkv, normed.y_RC, dn_attention);
    norm_.backward(ctx, dn, x, normed, {}, dn);
    norm_.backward(ctx, dn_attention, x, normed, dn, dn);
    return dn;
  }

 private:
  std::vector<ParamSpec> params_;
  Norm norm_;
  CausalSelfAttention attention_;
  SwigluMlp swiglu_;
  GeluMlp gelu_;
  Linear mix_;
};

// Along the gradient itself the loss must rise by the gradient's norm: a wrong direction rises less, a wrong scale differs.
TEST(Layers, AnyCompositionHasTheGradientOfItsLoss) {
  for (const bool qk_norm : {false, true}) {
    const ModelConfig c = tiny_llama();
    std::vector<std::unique_ptr<BodyUnit>> body;
    body.push_back(std::make_unique<EmbeddingUnit>(tiny_gpt2()));
    const auto rope = std::make_shared<RopeTables>(6, 100.0, kernels::RopeScaling{}, 32);
    body.push_back(std::make_unique<ParallelBlock>(c.hidden_size, rope, qk_norm));
    const Model model(std::move(body), std::make_unique<HeadUnit>(c), c.vocab_size, c.max_positions);
    ReferenceRun run(model, {});
    for (int u = 0; u < model.unit_count(); ++u) {
      int p = 0;
      for (ParamSpec spec : model.unit(u).params()) {
        if (spec.init.kind == Init::Kind::constant) spec.init = {Init::Kind::normal, spec.init.mean, 0.2f};
        spec.init.stddev = std::max(spec.init.stddev, 0.2f);
        init_parameter(spec, 7, 0, run.param(u, p++));
      }
    }
    const ReferenceRun::Tokens batch = random_tokens(2, 11, c.vocab_size, 8);
    const auto total = [&] {
      double sum = 0.0;
      for (const float l : run.loss(batch)) sum += static_cast<double>(l);
      return sum;
    };
    (void)run.forward_backward(batch, 1.0f, qk_norm);
    for (int u = 0; u < model.unit_count(); ++u) {
      int p = 0;
      for (const ParamSpec& spec : model.unit(u).params()) {
        const std::span<float> g = run.grad(u, p), w = run.param(u, p);
        ++p;
        const std::vector<float> saved(w.begin(), w.end());
        const double length = norm(g);
        const double h = std::min(2e-2, 0.05 / length);
        const auto shifted = [&](double step) {
          for (std::size_t i = 0; i < w.size(); ++i)
            w[i] = static_cast<float>(static_cast<double>(saved[i]) + step * static_cast<double>(g[i]) / length);
          const double value = total();
          std::copy(saved.begin(), saved.end(), w.begin());
          return value;
        };
        EXPECT_NEAR((shifted(h) - shifted(-h)) / (2.0 * h) / length, 1.0, 5e-3) << spec.name << " |g| = " << length;
      }
    }
  }
}

std::int64_t kept_elements(const ModelConfig& config, std::int64_t B, std::int64_t T) {
  Device device(Backend::dry, 1);
  Stream stream(device, "dry");
  TierArena arena(Tier::gpu, std::size_t{1} << 40, TierArena::Backing::none);
  BlockUnit block(config, 0, std::make_shared<RopeTables>(config.head_dim, 1e4, kernels::RopeScaling{}, 4096));
  std::vector<Tensor> owned;
  std::vector<ConstTensorRef> params;
  for (const ParamSpec& p : block.params()) {
    owned.emplace_back(arena, Category::parameters, DType::f32, p.shape, "p");
    params.push_back(owned.back());
  }
  const Batch batch{{}, {}, B, T};
  const UnitContext ctx{stream.ref(), arena, DType::f32, batch, params, {}};
  const Tensor x = ctx.activation({B * T, config.hidden_size}, "x");
  Saved saved;
  (void)block.forward(ctx, x, &saved);
  std::int64_t kept = x.numel();
  for (const Tensor& t : saved) kept += t.numel();
  return kept - B * config.num_heads * T;  // lse is counted apart
}

TEST(Transformer, BlocksKeepWhatTheirHeaderSays) {
  ModelConfig gpt2 = tiny_gpt2();
  gpt2.ffn_size = 4 * gpt2.hidden_size;
  EXPECT_EQ(kept_elements(gpt2, 2, 30), 2 * 30 * 10 * gpt2.hidden_size);
  for (const ModelConfig& c : {tiny_llama(), tiny_qwen3()})
    EXPECT_EQ(kept_elements(c, 2, 30),
              2 * 30 * (2 * c.hidden_size + (2 * c.num_heads + 2 * c.num_kv_heads) * c.head_dim + 2 * c.ffn_size));
}

TEST(Transformer, DryRunHasThePeakOfTheRealOne) {
  for (const ModelConfig& config : {tiny_gpt2(), tiny_qwen3()})
    for (const bool recompute : {false, true}) {
      const auto model = make_model(config).value();
      const ReferenceRun::Tokens batch = random_tokens(2, 32, config.vocab_size, 9);
      ReferenceRun dry(*model, {}, Backend::dry);
      (void)dry.forward_backward(batch, 1.0f, recompute);
      ReferenceRun real(*model, {});
      real.init(1);
      (void)real.forward_backward(batch, 1.0f, recompute);
      EXPECT_EQ(dry.arena().report().peak, real.arena().report().peak);
      EXPECT_EQ(dry.arena().report().high_water, real.arena().report().high_water);
      EXPECT_EQ(real.arena().report().in_use_by[static_cast<std::size_t>(Category::activations)], 0u);
    }
}

TEST(Transformer, RotaryTablesGrowWithTheSequence) {
  const ModelConfig config = tiny_llama();
  const auto model = make_model(config).value(), fresh = make_model(config).value();
  ReferenceRun run(*model, {}), other(*fresh, {});
  run.init(1);
  other.init(1);
  const ReferenceRun::Tokens longer = random_tokens(1, 32, config.vocab_size, 2);
  ReferenceRun::Tokens shorter = random_tokens(1, 5, config.vocab_size, 3);
  const std::vector<float> first = run.loss(shorter);
  EXPECT_EQ(run.loss(longer), other.loss(longer));
  EXPECT_EQ(run.loss(shorter), first);
}

TEST(Transformer, BadInputIsAnError) {
  const ModelConfig config = tiny_llama();
  const auto model = make_model(config).value();
  ReferenceRun run(*model, {});
  run.init(1);
  ReferenceRun::Tokens batch = random_tokens(1, 32, config.vocab_size, 2);
  ReferenceRun::Tokens longer = random_tokens(1, 33, config.vocab_size, 2);
  EXPECT_THROW((void)run.loss(longer), ContractViolation);
  batch.tokens[3] = 37;
  try {
    (void)run.loss(batch);
    ADD_FAILURE() << "token 37 of 37 was accepted";
  } catch (const StatusError& error) {
    EXPECT_EQ(error.status().code(), Code::invalid_argument);
  }
  ReferenceRun small(*model, {.budget = std::size_t{300} << 10});
  try {
    (void)small.loss(random_tokens(8, 32, config.vocab_size, 2));
    ADD_FAILURE() << "it fitted";
  } catch (const StatusError& error) {
    EXPECT_EQ(error.status().code(), Code::out_of_budget);
  }
}

TEST(InitParameter, SlicesAreTheWholesSlices) {
  const ParamSpec spec{"layers.0.mlp.up.weight", Shape{7, 13}, Init::normal(0.5f), true};
  std::vector<float> whole(91);
  init_parameter(spec, 11, 0, whole);
  for (std::int64_t first = 0; first <= 91; ++first) {
    std::vector<float> rest(static_cast<std::size_t>(91 - first));
    init_parameter(spec, 11, first, rest);
    EXPECT_TRUE(std::equal(rest.begin(), rest.end(), whole.begin() + first)) << first;
  }
  EXPECT_NEAR(norm(whole) / std::sqrt(91.0), 0.5, 0.1);
  std::vector<float> other(91);
  init_parameter({"layers.1.mlp.up.weight", Shape{7, 13}, Init::normal(0.5f), true}, 11, 0, other);
  EXPECT_NE(whole, other);
  init_parameter({"b", Shape{91}, Init::constant(1.0f), false}, 11, 0, other);
  EXPECT_EQ(other, std::vector<float>(91, 1.0f));
  EXPECT_THROW(init_parameter(spec, 11, 1, whole), ContractViolation);
}

TEST(Transformer, Gpt2ScalesTheInitOfResidualProjections) {
  const auto model = make_model(tiny_gpt2()).value();
  for (const ParamSpec& p : model->unit(1).params()) {
    const bool residual = p.name == "layers.0.attn.out.weight" || p.name == "layers.0.mlp.down.weight";
    if (p.init.kind == Init::Kind::normal) {
      EXPECT_FLOAT_EQ(p.init.stddev, residual ? 0.01f : 0.02f) << p.name;
    }
    EXPECT_EQ(p.decay, p.shape.rank() == 2) << p.name;
  }
}

}  // namespace
}  // namespace strata::testing
