// config.json of a Hugging Face folder to and from ModelConfig.
#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "model/config.h"

namespace strata {
namespace {

using Json = nlohmann::json;

enum class HfClass { gpt2, llama, qwen2, qwen3, mistral };
struct HfClassRow {
  HfClass hf_class;
  const char* architecture;
  const char* model_type;
};
constexpr std::array<HfClassRow, 5> kClasses = {{{HfClass::gpt2, "GPT2LMHeadModel", "gpt2"},
                                                 {HfClass::llama, "LlamaForCausalLM", "llama"},
                                                 {HfClass::qwen2, "Qwen2ForCausalLM", "qwen2"},
                                                 {HfClass::qwen3, "Qwen3ForCausalLM", "qwen3"},
                                                 {HfClass::mistral, "MistralForCausalLM", "mistral"}}};

// A key with the value null counts as absent, as in transformers. The first problem is kept; callers check once at the end.
class HfReader {
 public:
  HfReader(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}

  const Json* find(const char* key) const {
    const auto it = json_.find(key);
    return it == json_.end() || it->is_null() ? nullptr : &*it;
  }
  bool is_null(const char* key) const {
    const auto it = json_.find(key);
    return it != json_.end() && it->is_null();
  }
  void unsupported(const std::string& key, const Json& value, const std::string& why) {
    keep({Code::unsupported, where_ + ": " + key + " = " + value.dump() + " is not supported: " + why});
  }
  void require_equal(const char* key, const Json& wanted, const char* why) {
    if (const Json* v = find(key); v != nullptr && *v != wanted) unsupported(key, *v, why);
  }
  std::int64_t integer(const char* key, std::optional<std::int64_t> fallback = std::nullopt) {
    const Json* v = find(key);
    if (v == nullptr && fallback) return *fallback;
    if (v == nullptr) return missing(key), 1;
    if (!v->is_number_integer() || (v->is_number_unsigned() && v->get<std::uint64_t>() >> 63 != 0))
      return bad_type(key, *v, "an integer"), 1;
    return v->get<std::int64_t>();
  }
  double number(const char* key, std::optional<double> fallback = std::nullopt) {
    const Json* v = find(key);
    if (v == nullptr && fallback) return *fallback;
    if (v == nullptr) return missing(key), 1.0;
    if (!v->is_number()) return bad_type(key, *v, "a number"), 1.0;
    return v->get<double>();
  }
  bool flag(const char* key, bool fallback) {
    const Json* v = find(key);
    if (v == nullptr) return fallback;
    if (!v->is_boolean()) return bad_type(key, *v, "true or false"), fallback;
    return v->get<bool>();
  }
  void keep(Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  const std::string& where() const { return where_; }
  const Status& status() const { return status_; }

 private:
  void missing(const char* key) { keep({Code::corrupt, where_ + ": key '" + key + "' is missing"}); }
  void bad_type(const char* key, const Json& value, const char* want) {
    keep({Code::corrupt, where_ + ": " + key + " = " + value.dump() + " is not " + want});
  }
  const Json& json_;
  std::string where_;
  Status status_;
};

Result<HfClass> read_class(const HfReader& reader) {
  const Json* architectures = reader.find("architectures");
  const Json* model_type = reader.find("model_type");
  for (const HfClassRow& row : kClasses) {
    if (architectures != nullptr ? *architectures == Json::array({row.architecture})
                                 : (model_type != nullptr && *model_type == row.model_type))
      return row.hf_class;
  }
  std::string known;
  for (const HfClassRow& row : kClasses) known += (known.empty() ? "" : ", ") + std::string(row.architecture);
  const std::string key = architectures != nullptr ? "architectures" : "model_type";
  const Json value = architectures != nullptr ? *architectures : (model_type != nullptr ? *model_type : Json());
  return Status(Code::unsupported,
                reader.where() + ": " + key + " = " + value.dump() + " is not supported; supported are " + known);
}

void require_activation(HfReader& reader, const char* key, std::initializer_list<const char*> accepted) {
  const Json* v = reader.find(key);
  if (v == nullptr) return;
  if (std::none_of(accepted.begin(), accepted.end(), [&](const char* name) { return *v == name; }))
    reader.unsupported(key, *v, std::string("only ") + *accepted.begin());
}

ModelConfig read_gpt2(HfReader& r) {
  require_activation(r, "activation_function", {"gelu_new", "gelu_pytorch_tanh"});
  r.require_equal("scale_attn_by_inverse_layer_idx", false, "attention is scaled by 1/sqrt(head_dim) in every layer");
  r.require_equal("scale_attn_weights", true, "attention is always scaled");
  r.require_equal("add_cross_attention", false, "there is no encoder");
  ModelConfig c;
  c.architecture = Architecture::gpt2;
  c.vocab_size = r.integer("vocab_size");
  c.hidden_size = r.integer("n_embd");
  c.num_layers = r.integer("n_layer");
  c.num_heads = c.num_kv_heads = r.integer("n_head");
  c.max_positions = r.integer("n_positions", r.find("n_ctx") != nullptr ? std::optional(r.integer("n_ctx")) : std::nullopt);
  c.ffn_size = r.integer("n_inner", c.hidden_size > 0 && c.hidden_size < (1 << 20) ? 4 * c.hidden_size : 1);
  c.head_dim = c.num_heads > 0 ? c.hidden_size / c.num_heads : 0;
  c.norm_eps = r.number("layer_norm_epsilon", 1e-5);
  c.tie_embeddings = r.flag("tie_word_embeddings", true);
  c.init_std = r.number("initializer_range", 0.02);
  return c;
}

// transformers 4 writes rope_theta and rope_scaling (whose kind is "rope_type", once "type"); 5 writes one rope_parameters.
void read_rope(HfReader& r, ModelConfig& c) {
  c.rope_theta = r.number("rope_theta", 10000.0);
  r.require_equal("partial_rotary_factor", 1.0, "the whole head is rotated");
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* object = r.find(key);
    if (object == nullptr) continue;
    if (!object->is_object()) return r.unsupported(key, *object, "an object is expected");
    HfReader inner(*object, r.where() + ": " + key);
    const Json* kind = inner.find("rope_type");
    if (kind == nullptr) kind = inner.find("type");
    c.rope_theta = inner.number("rope_theta", c.rope_theta);
    inner.require_equal("partial_rotary_factor", 1.0, "the whole head is rotated");
    if (kind != nullptr && *kind == "llama3") {
      c.rope_scaling.factor = inner.number("factor");
      c.rope_scaling.low_freq_factor = inner.number("low_freq_factor");
      c.rope_scaling.high_freq_factor = inner.number("high_freq_factor");
      c.rope_scaling.original_max_position = inner.integer("original_max_position_embeddings");
    } else if (kind != nullptr ? *kind != "default" : (std::string(key) == "rope_scaling" || inner.find("factor") != nullptr)) {
      inner.unsupported("rope_type", kind != nullptr ? *kind : Json(), "only default and llama3");
    } else if (std::any_of(object->begin(), object->end(), [](const Json& v) { return v.is_object(); })) {
      inner.unsupported("rope_type", *object, "one rule for all layers is expected");
    }
    r.keep(inner.status());
  }
}

// A window that is not shorter than the longest sequence never hides anything. MistralConfig's default is 4096.
void refuse_sliding_window(HfReader& r, HfClass hf_class, const ModelConfig& c) {
  if (const Json* types = r.find("layer_types"); types != nullptr && types->is_array())
    for (const Json& type : *types)
      if (type != "full_attention") return r.unsupported("layer_types", type, "every layer must be full_attention");
  const bool qwen = hf_class == HfClass::qwen2 || hf_class == HfClass::qwen3;
  if (qwen && !r.flag("use_sliding_window", false)) return;
  if (!qwen && hf_class != HfClass::mistral) return;
  const std::int64_t absent = hf_class == HfClass::mistral ? 4096 : std::numeric_limits<std::int64_t>::max();
  const std::int64_t window = r.is_null("sliding_window") ? c.max_positions : r.integer("sliding_window", absent);
  if (window < c.max_positions)
    r.unsupported("sliding_window", window,
                  "attention sees the whole sequence (max_position_embeddings = " + std::to_string(c.max_positions) +
                      "; set it to null or lower the latter)");
}

ModelConfig read_llama(HfReader& r, HfClass hf_class) {
  require_activation(r, "hidden_act", {"silu", "swish"});
  r.require_equal("attention_bias", false, "the output projection of attention would have a bias");
  r.require_equal("mlp_bias", false, "the linear layers of the MLP have no biases");
  r.require_equal("pretraining_tp", 1, "it changes the rounding of every linear layer; set it to 1");
  ModelConfig c;
  c.architecture = Architecture::llama;
  c.vocab_size = r.integer("vocab_size");
  c.hidden_size = r.integer("hidden_size");
  c.num_layers = r.integer("num_hidden_layers");
  c.num_heads = r.integer("num_attention_heads");
  c.num_kv_heads = r.integer("num_key_value_heads", c.num_heads);
  std::int64_t head_dim = c.num_heads > 0 ? c.hidden_size / c.num_heads : 0;
  if (hf_class == HfClass::qwen3) head_dim = 128;
  c.head_dim = r.integer("head_dim", head_dim);
  c.ffn_size = r.integer("intermediate_size");
  c.max_positions = r.integer("max_position_embeddings");
  c.norm_eps = r.number("rms_norm_eps", 1e-6);
  c.tie_embeddings = r.flag("tie_word_embeddings", false);
  c.qkv_bias = hf_class == HfClass::qwen2;
  c.qk_norm = hf_class == HfClass::qwen3;
  c.init_std = r.number("initializer_range", 0.02);
  read_rope(r, c);
  refuse_sliding_window(r, hf_class, c);
  return c;
}

Json gpt2_to_hf(const ModelConfig& c) {
  return {{"architectures", {"GPT2LMHeadModel"}},
          {"model_type", "gpt2"},
          {"n_embd", c.hidden_size},
          {"n_layer", c.num_layers},
          {"n_head", c.num_heads},
          {"n_inner", c.ffn_size},
          {"n_positions", c.max_positions},
          {"layer_norm_epsilon", c.norm_eps},
          {"activation_function", "gelu_new"},
          {"attn_pdrop", 0.0},
          {"embd_pdrop", 0.0},
          {"resid_pdrop", 0.0}};
}

Json llama_to_hf(const ModelConfig& c) {
  const HfClassRow& row = kClasses[static_cast<std::size_t>(c.qk_norm    ? HfClass::qwen3
                                                            : c.qkv_bias ? HfClass::qwen2
                                                                         : HfClass::llama)];
  Json json = {{"architectures", {row.architecture}},
               {"model_type", row.model_type},
               {"hidden_size", c.hidden_size},
               {"num_hidden_layers", c.num_layers},
               {"num_attention_heads", c.num_heads},
               {"num_key_value_heads", c.num_kv_heads},
               {"head_dim", c.head_dim},
               {"intermediate_size", c.ffn_size},
               {"max_position_embeddings", c.max_positions},
               {"rms_norm_eps", c.norm_eps},
               {"rope_theta", c.rope_theta},
               {"rope_scaling", nullptr},
               {"hidden_act", "silu"},
               {"attention_bias", false},
               {"attention_dropout", 0.0}};
  if (row.hf_class == HfClass::llama) json["mlp_bias"] = false;
  if (row.hf_class != HfClass::llama) json["use_sliding_window"] = false;
  if (c.rope_scaling.factor != 1.0)
    json["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", c.rope_scaling.factor},
                            {"low_freq_factor", c.rope_scaling.low_freq_factor},
                            {"high_freq_factor", c.rope_scaling.high_freq_factor},
                            {"original_max_position_embeddings", c.rope_scaling.original_max_position}};
  return json;
}

}  // namespace

Result<ModelConfig> model_config_from_hf(const Json& json, const std::string& where) {
  if (!json.is_object()) return Status(Code::corrupt, where + ": not a JSON object");
  HfReader reader(json, where);
  STRATA_ASSIGN_OR_RETURN(const HfClass hf_class, read_class(reader));
  const ModelConfig config = hf_class == HfClass::gpt2 ? read_gpt2(reader) : read_llama(reader, hf_class);
  STRATA_RETURN_IF_ERROR(reader.status());
  STRATA_RETURN_IF_ERROR(config.validate().with_context(where));
  return config;
}

Result<Json> model_config_to_hf(const ModelConfig& config, const std::string& torch_dtype) {
  STRATA_RETURN_IF_ERROR(config.validate());
  if (config.qkv_bias && config.qk_norm)
    return Status(Code::unsupported, "no transformers architecture has qkv_bias together with qk_norm");
  Json json = config.architecture == Architecture::gpt2 ? gpt2_to_hf(config) : llama_to_hf(config);
  json["vocab_size"] = config.vocab_size;
  json["initializer_range"] = config.init_std;
  json["tie_word_embeddings"] = config.tie_embeddings;
  json["torch_dtype"] = torch_dtype;
  json["use_cache"] = true;
  return json;
}

}  // namespace strata
