// The shape of a model: a value that is validated as a whole, stored in checkpoints as JSON and read from a Hugging Face
// config.json.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "runtime/kernels/rope.h"
#include "runtime/status.h"

namespace strata {

enum class Architecture {
  gpt2,  // learned positions, LayerNorm, biases everywhere, tanh GELU (Radford et al. 2019)
  llama  // RMSNorm, RoPE, SwiGLU, no biases unless qkv_bias (Touvron et al. 2023; Qwen2, Qwen3 and Mistral are variants)
};
const char* to_string(Architecture architecture);

// Letters are those of tensor.h.
struct ModelConfig {
  Architecture architecture = Architecture::llama;
  std::int64_t vocab_size = 0;     // V
  std::int64_t hidden_size = 0;    // C
  std::int64_t num_layers = 0;     // L
  std::int64_t num_heads = 0;      // N
  std::int64_t num_kv_heads = 0;   // K; N % K == 0; gpt2: K == N
  std::int64_t head_dim = 0;       // H; gpt2: N * H == C; llama: even
  std::int64_t ffn_size = 0;       // F
  std::int64_t max_positions = 0;  // longest sequence
  double norm_eps = 1e-5;
  double rope_theta = 10000.0;        // llama only
  kernels::RopeScaling rope_scaling;  // llama only; factor 1: none
  bool tie_embeddings = false;        // the head's weight is the token embedding
  bool qkv_bias = false;              // llama only: biases of query, key and value (Qwen2)
  bool qk_norm = false;               // llama only: RMSNorm of every query and key head (Qwen3)
  double init_std = 0.02;
  // How it is stored, which changes no value: weights of one matrix inside blocks whose longer dim is their input (mlp.down)
  // are stored transposed, as optimizers want them that project the shorter dim. Checkpoints hold what is stored.
  bool long_rows = false;

  // Every problem at once, one a line; ok when make_model() can build it.
  Status validate() const;
  bool operator==(const ModelConfig& other) const;
};

nlohmann::json to_json(const ModelConfig& config);
// The inverse. Every key is required but long_rows, which to_json() writes only where it is true; none else is allowed, and the
// result is validated.
// `where` (a file name) begins the messages.
Result<ModelConfig> model_config_from_json(const nlohmann::json& json, const std::string& where);

// Nothing that is read here nests deeper, and copying or printing a value recurses.
inline constexpr int kMaxJsonDepth = 64;
// Parses a JSON text without exceptions. Error: corrupt, with `where` and the parser's words; also where it nests deeper than
// kMaxJsonDepth.
Result<nlohmann::json> parse_json(const std::string& text, const std::string& where);

// The config of a Hugging Face folder's config.json: GPT2LMHeadModel, LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM,
// MistralForCausalLM, as transformers 4 and 5 write them. Anything that would change the function computed and that Strata
// does not do is Code::unsupported, naming key, value and file. Dropout probabilities are not read: there is no dropout here.
Result<ModelConfig> model_config_from_hf(const nlohmann::json& json, const std::string& where);
// What transformers needs to load the model; `torch_dtype` is "float32", "bfloat16" or "float16".
// Error: unsupported, where no transformers architecture has this combination.
Result<nlohmann::json> model_config_to_hf(const ModelConfig& config, const std::string& torch_dtype);

}  // namespace strata
