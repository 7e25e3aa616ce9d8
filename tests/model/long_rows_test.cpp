// ModelConfig::long_rows: the same model, some of whose weights are stored transposed. Mutations these catch: a product that
// takes the weight the wrong way, a bias that gets the sums of the wrong tensor, a gradient that overwrites, an initial value
// drawn in the stored order, a tensor of a Hugging Face folder that is not turned.
#include <cstring>
#include <map>
#include <set>

#include "model/init.h"
#include "support.h"
#include "tests/machines/machines.h"
#include "tests/machines/tolerances.h"

namespace strata::testing {
namespace {

// In f32, of losses and of gradients relative to their norm. Where a weight is turned the sums are of the same products in
// another order at most, each of about 2^-24 of its size times the root of its terms (40 to 100 here), and a value passes some
// ten of them.
constexpr double kSameSums = 3e-6;

struct Case {
  std::string name;
  ModelConfig config;
  std::set<std::string> turned;  // weights of each layer
};

std::vector<Case> cases() {
  Case gpt2{"gpt2", tiny_gpt2(), {"mlp.down"}};
  Case narrow{"gpt2_with_a_narrow_mlp", tiny_gpt2(), {"mlp.up"}};
  narrow.config.ffn_size = 16;
  Case square{"gpt2_with_a_square_mlp", tiny_gpt2(), {}};
  square.config.ffn_size = square.config.hidden_size;
  Case llama{"llama", tiny_llama(), {"mlp.down"}};
  Case wide_heads{"qwen3_with_wide_heads", tiny_llama(), {"mlp.down", "attn.out"}};
  wide_heads.config.qk_norm = true;
  wide_heads.config.head_dim = 10;
  return {gpt2, narrow, square, llama, wide_heads};
}

ModelConfig with_long_rows(ModelConfig config) {
  config.long_rows = true;
  return config;
}

// A parameter's values as the other orientation has them.
std::vector<float> turned(const ParamSpec& spec, std::span<const float> stored) {
  std::vector<float> out(stored.size());
  transpose(stored, spec.shape[0], spec.shape[1], out);
  return out;
}

// The values of the matrix (out, in).
std::vector<float> logical(const ParamSpec& spec, std::span<const float> stored) {
  return spec.transposed ? turned(spec, stored) : std::vector<float>(stored.begin(), stored.end());
}

void each_param(const Model& model, const std::function<void(int, int, const ParamSpec&)>& call) {
  for (int u = 0; u < model.unit_count(); ++u) {
    const std::vector<ParamSpec> params = model.unit(u).params();
    for (std::size_t p = 0; p < params.size(); ++p) call(u, static_cast<int>(p), params[p]);
  }
}

TEST(LongRows, WeightsOfOneMatrixLieWithTheirLongerDimAsRows) {
  for (const Case& c : cases()) {
    const auto plain = make_model(c.config).value(), stored = make_model(with_long_rows(c.config)).value();
    each_param(*plain, [&](int u, int p, const ParamSpec& was) {
      const ParamSpec is = stored->unit(u).params().at(static_cast<std::size_t>(p));
      SCOPED_TRACE(c.name + ": " + is.name);
      bool wanted = false;
      for (const std::string& weight : c.turned) wanted = wanted || is.name.ends_with("." + weight + ".weight");
      EXPECT_FALSE(was.transposed);
      EXPECT_EQ(is.transposed, wanted);
      EXPECT_EQ(is.shape, wanted ? (Shape{was.shape[1], was.shape[0]}) : was.shape);
      EXPECT_EQ(std::tie(is.name, is.decay, is.projected, is.parts), std::tie(was.name, was.decay, was.projected, was.parts));
      if (is.projected && is.parts.empty()) {
        EXPECT_GE(is.shape[0], is.shape[1]);
      }
    });
  }
}

TEST(LongRows, FusedWeightsSayWhatTheyAreMadeOf) {
  std::map<std::string, std::vector<std::int64_t>> parts;
  for (const ModelConfig& config : {tiny_gpt2(), tiny_llama()})
    for (const ParamSpec& spec : make_model(config).value()->unit(1).params())
      if (!spec.parts.empty()) parts[std::string(to_string(config.architecture)) + " " + spec.name] = spec.parts;
  EXPECT_EQ(parts, (std::map<std::string, std::vector<std::int64_t>>{{"gpt2 layers.0.attn.qkv.weight", {24, 24, 24}},
                                                                     {"llama layers.0.attn.qkv.weight", {24, 12, 12}},
                                                                     {"llama layers.0.mlp.gate_up.weight", {40, 40}}}));
  std::vector<ParamSpec> params;
  EXPECT_THROW(Linear(params, "w", {.in = 3, .out = 5, .parts = {2, 2}}), ContractViolation);
  EXPECT_THROW(Linear(params, "w", {.in = 3, .out = 5, .transposed = true, .parts = {2, 3}}), ContractViolation);
}

TEST(LongRows, TheModelBeginsWithTheSameNumbers) {
  for (const Case& c : cases()) {
    const auto plain = make_model(c.config).value(), stored = make_model(with_long_rows(c.config)).value();
    ReferenceRun a(*plain, {}), b(*stored, {});
    a.init(3);
    b.init(3);
    each_param(*stored, [&](int u, int p, const ParamSpec& spec) {
      const std::span<const float> values = a.param(u, p);
      EXPECT_EQ(logical(spec, b.param(u, p)), std::vector<float>(values.begin(), values.end())) << c.name << ": " << spec.name;
    });
  }
}

// Slices that begin and end anywhere, in matrices of fewer and more rows than are drawn at a time.
TEST(LongRows, SlicesOfATransposedParameterAreTheWholesSlices) {
  for (const auto& [in, out] : {std::pair<std::int64_t, std::int64_t>{13, 7}, {71, 3}, {64, 1}, {1, 5}}) {
    const ParamSpec plain{"layers.0.mlp.down.weight", Shape{out, in}, {Init::Kind::normal, 0.25f, 0.5f}};
    ParamSpec spec = plain;
    spec.shape = Shape{in, out};
    spec.transposed = true;
    const std::int64_t n = in * out;
    std::vector<float> drawn(static_cast<std::size_t>(n));
    init_parameter(plain, 11, 0, drawn);
    const std::vector<float> whole = turned(plain, drawn);
    for (std::int64_t first = 0; first <= n; ++first)
      for (std::int64_t last = first; last <= n; last += 1 + (last - first) / 4) {
        std::vector<float> slice(static_cast<std::size_t>(last - first));
        init_parameter(spec, 11, first, slice);
        ASSERT_TRUE(std::equal(slice.begin(), slice.end(), whole.begin() + first)) << in << " x " << out << ": " << first;
      }
    EXPECT_THROW(init_parameter(spec, 11, 1, drawn), ContractViolation);
  }
}

class LongRowsOn : public ::testing::TestWithParam<Processor> {
 protected:
  static ReferenceRun::Options options(DType dtype = DType::f32) {
    ReferenceRun::Options o{.compute_dtype = dtype, .budget = std::size_t{256} << 20};
    if (const GpuMachine* machine = GetParam().gpu) o.make_gpu = [machine] { return machine->make_driver(); };
    return o;
  }
};

// Two batches, one after the other, without clearing what the first has left.
TEST_P(LongRowsOn, LossesAndGradientsAreThoseOfTheOtherOrientation) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const auto plain = make_model(c.config).value(), stored = make_model(with_long_rows(c.config)).value();
    ReferenceRun a(*plain, options()), b(*stored, options());
    a.init(1);
    b.init(1);
    // Of every order of size, biases too, which begin at zero.
    each_param(*stored, [&](int u, int p, const ParamSpec& spec) {
      std::span<float> values = a.param(u, p);
      ParamSpec drawn = plain->unit(u).params()[static_cast<std::size_t>(p)];
      drawn.init = {Init::Kind::normal, spec.init.kind == Init::Kind::constant ? spec.init.mean : 0.0f, 0.2f};
      init_parameter(drawn, 5, 0, values);
      const std::vector<float> other = spec.transposed ? turned(drawn, values) : logical(drawn, values);
      std::copy(other.begin(), other.end(), b.param(u, p).begin());
    });
    for (const std::uint64_t seed : {2, 3}) {
      const ReferenceRun::Tokens batch = random_tokens(2, 17, c.config.vocab_size, seed);
      const std::vector<float> loss = a.forward_backward(batch, 0.5f, false);
      EXPECT_LT(relative_difference(b.forward_backward(batch, 0.5f, seed == 3), loss), kSameSums);
      EXPECT_LT(relative_difference(b.loss(batch), loss), kSameSums);
    }
    each_param(*stored, [&](int u, int p, const ParamSpec& spec) {
      EXPECT_LT(relative_difference(logical(spec, b.grad(u, p)), a.grad(u, p)), kSameSums) << spec.name;
    });
  }
}

TEST_P(LongRowsOn, RecomputationChangesNoBit) {
  if (kSanitized && GetParam().gpu != nullptr) GTEST_SKIP() << "too long on the emulator under a sanitizer";
  for (const Case& c : cases())
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const auto model = make_model(with_long_rows(c.config)).value();
      ReferenceRun kept(*model, options(dtype)), again(*model, options(dtype));
      kept.init(1);
      again.init(1);
      const ReferenceRun::Tokens batch = random_tokens(2, 17, c.config.vocab_size, 2);
      EXPECT_EQ(kept.forward_backward(batch, 0.5f, false), again.forward_backward(batch, 0.5f, true));
      each_param(*model, [&](int u, int p, const ParamSpec& spec) {
        const auto x = kept.grad(u, p), y = again.grad(u, p);
        EXPECT_EQ(std::memcmp(x.data(), y.data(), x.size_bytes()), 0) << c.name << ": " << spec.name;
      });
    }
}

// Against PyTorch: see parity_test.cpp, whose tensors these are.
TEST_P(LongRowsOn, LogitsAndGradientsAreThoseOfTransformers) {
  if (kSanitized && GetParam().gpu != nullptr) GTEST_SKIP() << "too long on the emulator under a sanitizer";
  for (const std::string name : {"gpt2", "llama_gqa_untied", "qwen3_qk_norm"}) {
    const VectorCase c(name);
    const ModelConfig config = with_long_rows(c.config);
    const std::vector<HfTensor> mapping = hf_mapping(config).value();
    const auto model = make_model(config).value();
    for (const DType dtype : {DType::f32, DType::bf16}) {
      ReferenceRun run(*model, options(dtype));
      throw_if_error(load_weights(c.hf_dir, config, run));
      const ReferenceRun::Tokens batch = c.batch(0);
      if (dtype == DType::f32) {
        EXPECT_LT(max_difference(run.logits(batch), c.values("logits")), kLogits) << name;
      }
      (void)run.forward_backward(batch, 1.0f / static_cast<float>(VectorCase::counted(batch)), false);
      for (const HfTensor& tensor : mapping) {
        const std::vector<float> ours = hf_values(tensor, run.grad(tensor.unit, tensor.param));
        const std::vector<float> theirs = c.values("grad." + tensor.name);
        if (dtype == DType::f32)
          EXPECT_LT(relative_difference(ours, theirs), kGradient) << tensor.name;
        else
          EXPECT_GT(cosine(ours, theirs), kBf16GradientCosine) << tensor.name;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Processors, LongRowsOn, ::testing::ValuesIn(processors()),
                         [](const auto& test) { return test.param.name; });

class LongRowsFolders : public ::testing::TestWithParam<std::string> {};

TEST_P(LongRowsFolders, ImportTurnsAndExportTurnsBack) {
  const VectorCase c(GetParam());
  const ModelConfig config = with_long_rows(c.config);
  const auto model = make_model(config).value();
  ReferenceRun plain(*c.model, {}), stored(*model, {});
  throw_if_error(load_weights(c.hf_dir, c.config, plain));
  throw_if_error(load_weights(c.hf_dir, config, stored));
  int count = 0;
  each_param(*model, [&](int u, int p, const ParamSpec& spec) {
    const std::span<const float> values = plain.param(u, p);
    EXPECT_EQ(logical(spec, stored.param(u, p)), std::vector<float>(values.begin(), values.end())) << spec.name;
    count += spec.transposed;
  });
  EXPECT_GE(count, c.config.num_layers);
  const TempDir dir;
  const ParamSource source = [&](int u, int p, std::int64_t first, std::span<float> out) {
    std::copy_n(stored.param(u, p).begin() + first, out.size(), out.begin());
    return Status();
  };
  throw_if_error(export_hf(dir / "out", config, source, {.dtype = DType::f32, .tokenizer_from = {}, .fsync = false}));
  EXPECT_EQ(read_hf_config(dir / "out").value(), c.config) << "a folder does not tell how a run stored it";
  ReferenceRun again(*c.model, {});
  throw_if_error(load_weights(dir / "out", c.config, again));
  each_param(*c.model, [&](int u, int p, const ParamSpec& spec) {
    EXPECT_EQ(std::memcmp(again.param(u, p).data(), plain.param(u, p).data(), plain.param(u, p).size_bytes()), 0) << spec.name;
  });
}

INSTANTIATE_TEST_SUITE_P(Vectors, LongRowsFolders, ::testing::ValuesIn(vector_case_names()),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace strata::testing
