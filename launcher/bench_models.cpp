#include "launcher/bench_models.h"

#include <algorithm>

namespace strata {
namespace {

// Letters are those of tensor.h.
struct Sizes {
  std::int64_t V, C, L, N, K, H, F;
};

ModelConfig make(Architecture architecture, const Sizes& sizes, bool tied, std::int64_t seq_length) {
  ModelConfig config;
  config.architecture = architecture;
  config.vocab_size = sizes.V;
  config.hidden_size = sizes.C;
  config.num_layers = sizes.L;
  config.num_heads = sizes.N;
  config.num_kv_heads = sizes.K;
  config.head_dim = sizes.H;
  config.ffn_size = sizes.F;
  config.max_positions = std::max<std::int64_t>(1024, seq_length);
  config.tie_embeddings = tied;
  return config;
}

}  // namespace

const std::vector<std::string>& bench_model_names() {
  static const std::vector<std::string> names = {"gpt2-124m", "gpt2-1.6b", "llama-1b", "llama-7b", "tiny"};
  return names;
}

ModelConfig bench_model(const std::string& name, std::int64_t seq_length) {
  const auto gpt2 = [&](const Sizes& sizes) { return make(Architecture::gpt2, sizes, true, seq_length); };
  const auto llama = [&](const Sizes& sizes, bool tied) { return make(Architecture::llama, sizes, tied, seq_length); };
  if (name == "gpt2-124m") return gpt2({.V = 50257, .C = 768, .L = 12, .N = 12, .K = 12, .H = 64, .F = 3072});
  if (name == "gpt2-1.6b") return gpt2({.V = 50257, .C = 1600, .L = 48, .N = 25, .K = 25, .H = 64, .F = 6400});
  if (name == "llama-1b") return llama({.V = 128256, .C = 2048, .L = 16, .N = 32, .K = 8, .H = 64, .F = 8192}, true);
  if (name == "llama-7b") return llama({.V = 32000, .C = 4096, .L = 32, .N = 32, .K = 32, .H = 128, .F = 11008}, false);
  STRATA_CHECK(name == "tiny", "no benchmark has a model " + name);
  return llama({.V = 257, .C = 32, .L = 2, .N = 4, .K = 2, .H = 8, .F = 64}, false);
}

std::vector<LinearShape> linear_shapes(const ModelConfig& c) {
  const std::int64_t C = c.hidden_size, E = c.num_heads * c.head_dim, F = c.ffn_size;
  const bool gated = c.architecture == Architecture::llama;
  return {{"qkv", C, E + 2 * c.num_kv_heads * c.head_dim},
          {"output", E, C},
          {gated ? "gate and up" : "up", C, gated ? 2 * F : F},
          {"down", F, C},
          {"head", C, c.vocab_size}};
}

double model_flops(const ModelConfig& config, std::int64_t tokens, std::int64_t seq_length) {
  double weights = 0.0;
  for (const LinearShape& shape : linear_shapes(config))
    weights += static_cast<double>(shape.in) * static_cast<double>(shape.out) *
               (shape.name == "head" ? 1.0 : static_cast<double>(config.num_layers));
  const double attention = static_cast<double>(config.num_layers) * static_cast<double>(config.num_heads * config.head_dim) *
                           static_cast<double>(seq_length);
  return 6.0 * (weights + attention) * static_cast<double>(tokens);
}

}  // namespace strata
