// ModelConfig: validation, its JSON, and Hugging Face configs in the spelling of transformers 4 and 5.
#include <limits>

#include "support.h"

namespace strata::testing {
namespace {

using Json = nlohmann::json;

TEST(ModelConfig, ValidateReportsEveryProblem) {
  ModelConfig c = tiny_llama();
  EXPECT_TRUE(c.validate().ok()) << c.validate().message();
  c.num_kv_heads = 3;
  c.head_dim = 5;
  c.norm_eps = 0.0;
  const std::string message = c.validate().message();
  for (const char* part : {"num_kv_heads = 3", "head_dim = 5", "norm_eps"})
    EXPECT_NE(message.find(part), std::string::npos) << message;
}

TEST(ModelConfig, ValidateRefusesSizesOutOfRange) {
  for (const std::int64_t bad : {std::int64_t{0}, std::int64_t{-1}, std::numeric_limits<std::int64_t>::max()})
    for (const auto member :
         {&ModelConfig::vocab_size, &ModelConfig::hidden_size, &ModelConfig::num_layers, &ModelConfig::num_heads,
          &ModelConfig::num_kv_heads, &ModelConfig::head_dim, &ModelConfig::ffn_size, &ModelConfig::max_positions}) {
      ModelConfig c = tiny_llama();
      c.*member = bad;
      EXPECT_EQ(make_model(c).status().code(), Code::invalid_config) << bad;
    }
}

// Every size in its own range, and yet more elements than an int64 counts.
TEST(ModelConfig, ValidateRefusesMoreParametersThanCanBeCounted) {
  ModelConfig c = tiny_llama();
  c.hidden_size = 1 << 20;
  c.ffn_size = 1 << 24;
  c.num_layers = 21;  // the MLPs alone: 0.98 * 2^50
  EXPECT_TRUE(c.validate().ok()) << c.validate().message();
  c.num_layers = 22;
  EXPECT_EQ(make_model(c).status().code(), Code::invalid_config);
  EXPECT_NE(c.validate().message().find("parameters, more than 2^50"), std::string::npos) << c.validate().message();
  c = tiny_llama();
  c.hidden_size = 1 << 20;
  c.num_heads = c.num_kv_heads = c.head_dim = 1 << 16;
  EXPECT_EQ(make_model(c).status().code(), Code::invalid_config);
  c = tiny_gpt2();
  c.num_heads = c.num_kv_heads = 1 << 16;
  c.head_dim = 16;
  c.hidden_size = 1 << 20;
  c.ffn_size = 1 << 24;
  c.num_layers = 10'000;
  c.vocab_size = c.max_positions = 1 << 27;
  EXPECT_NE(c.validate().message().find("3.96e+17 parameters"), std::string::npos) << c.validate().message();
}

TEST(ModelConfig, Gpt2NeedsHeadsThatFillTheHiddenSize) {
  ModelConfig c = tiny_gpt2();
  EXPECT_TRUE(c.validate().ok()) << c.validate().message();
  c.head_dim = 4;
  c.qk_norm = true;
  EXPECT_NE(c.validate().message().find("num_heads * head_dim = 12 must equal hidden_size = 24"), std::string::npos);
  EXPECT_NE(c.validate().message().find("qk_norm"), std::string::npos);
}

TEST(ModelConfig, JsonRoundTrip) {
  ModelConfig c = tiny_llama();
  c.rope_theta = 500000.0;
  c.rope_scaling = {8.0, 1.0, 4.0, 64};
  c.qk_norm = true;
  c.norm_eps = 1e-6;
  for (const ModelConfig& config : {c, tiny_gpt2()})
    EXPECT_EQ(model_config_from_json(Json::parse(to_json(config).dump()), "t").value(), config);
  EXPECT_FALSE(c == tiny_llama());
}

// What was written before there was the key is read, and a model that does not need it is written as it always was.
TEST(ModelConfig, LongRowsAreInTheJsonWhereTheyAreSet) {
  ModelConfig c = tiny_llama();
  EXPECT_FALSE(to_json(c).contains("long_rows"));
  c.long_rows = true;
  EXPECT_TRUE(model_config_from_json(to_json(c), "t").value().long_rows);
  EXPECT_FALSE(c == tiny_llama());
  Json json = to_json(c);
  json["long_rows"] = 1;
  EXPECT_NE(model_config_from_json(json, "t").status().message().find("'long_rows'"), std::string::npos);
}

TEST(ModelConfig, JsonErrorsNameTheKey) {
  const auto message = [](const char* key, const Json& value) {
    Json json = to_json(tiny_llama());
    value.is_discarded() ? void(json.erase(key)) : void(json[key] = value);
    return model_config_from_json(json, "here.json").status().message();
  };
  EXPECT_NE(message("hidden_size", "x").find("here.json: key 'hidden_size'"), std::string::npos);
  EXPECT_NE(message("hidden_size", 1.5).find("'hidden_size'"), std::string::npos);
  EXPECT_NE(message("num_heads", Json(Json::value_t::discarded)).find("'num_heads' is missing"), std::string::npos);
  EXPECT_NE(message("architecture", "t5").find("\"t5\""), std::string::npos);
  EXPECT_NE(message("surplus", 1).find("keys that a model config does not have"), std::string::npos);
  EXPECT_NE(message("rope_scaling", Json::object()).find("rope_scaling: key 'factor'"), std::string::npos);
  EXPECT_NE(message("head_dim", 0).find("head_dim = 0"), std::string::npos);
  EXPECT_FALSE(model_config_from_json(Json::array(), "t").ok());
}

// Copying or printing a deep value recurses: 200000 levels overflow the stack.
TEST(ParseJson, RefusesWhatNestsTooDeeply) {
  const auto status = [](const std::string& text) {
    const Result<Json> json = parse_json(text, "here.json");
    EXPECT_TRUE(json.ok() || json.status().code() == Code::corrupt);
    EXPECT_TRUE(json.ok() || json.status().message().find("here.json") != std::string::npos);
    return json.status();
  };
  const auto levels = static_cast<std::size_t>(kMaxJsonDepth);
  EXPECT_TRUE(status(nested(levels)).ok());
  EXPECT_NE(status(nested(levels + 1)).message().find("nested deeper than 64"), std::string::npos);
  EXPECT_TRUE(status(R"({"a":)" + nested(levels - 1) + "}").ok());
  EXPECT_FALSE(status(R"({"a":)" + nested(levels) + "}").ok());
  EXPECT_FALSE(status(std::string(200'000, '[')).ok());
  std::string objects;
  for (int i = 0; i < 200'000; ++i) objects += R"({"a":)";
  EXPECT_FALSE(status(objects + "1" + std::string(200'000, '}')).ok());
}

TEST(HfConfig, HostileNestingIsAnErrorBehindEveryKey) {
  const TempDir dir;
  for (const char* key : {"architectures", "hidden_act", "rope_scaling", "layer_types", "hidden_size", "unknown"}) {
    write_bytes(dir / "config.json",
                R"({"architectures":["LlamaForCausalLM"],")" + std::string(key) + "\":" + nested(200'000) + "}");
    const Status status = read_hf_config(dir.path()).status();
    EXPECT_EQ(status.code(), Code::corrupt) << key;
    EXPECT_LT(status.message().size(), 1000u);
  }
}

Json llama_json() {
  return Json::parse(R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":128256,"hidden_size":2048,
    "num_hidden_layers":16,"num_attention_heads":32,"num_key_value_heads":8,"head_dim":64,"intermediate_size":8192,
    "max_position_embeddings":131072,"rms_norm_eps":1e-05,"hidden_act":"silu","attention_bias":false,"mlp_bias":false,
    "pretraining_tp":1,"tie_word_embeddings":true,"torch_dtype":"bfloat16"})");
}
Json gpt2_json() {
  return Json::parse(R"({"architectures":["GPT2LMHeadModel"],"model_type":"gpt2","vocab_size":50257,"n_embd":768,"n_layer":12,
    "n_head":12,"n_positions":1024,"n_ctx":1024,"layer_norm_epsilon":1e-05,"activation_function":"gelu_new","n_inner":null})");
}
Json with(Json json, const char* key, const Json& value) {
  json[key] = value;
  return json;
}

TEST(HfConfig, ScalingIsReadInBothSpellings) {
  const Json scaling = Json::parse(R"({"rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
                                       "original_max_position_embeddings":8192})");
  Json old_style = with(with(llama_json(), "rope_theta", 500000.0), "rope_scaling", scaling);
  Json new_style = with(llama_json(), "rope_parameters", with(scaling, "rope_theta", 500000.0));
  const ModelConfig c = model_config_from_hf(old_style, "t").value();
  EXPECT_EQ(c.rope_theta, 500000.0);
  EXPECT_EQ(c.rope_scaling.factor, 32.0);
  EXPECT_EQ(c.rope_scaling.original_max_position, 8192);
  EXPECT_EQ(c.num_kv_heads, 8);
  EXPECT_TRUE(c.tie_embeddings);
  EXPECT_EQ(model_config_from_hf(new_style, "t").value(), c);
  old_style["rope_scaling"].erase("rope_type");
  old_style["rope_scaling"]["type"] = "llama3";
  EXPECT_EQ(model_config_from_hf(old_style, "t").value(), c);
}

TEST(HfConfig, AbsentKeysHaveTheDefaultsOfTransformers) {
  Json json = llama_json();
  for (const char* key : {"num_key_value_heads", "head_dim", "tie_word_embeddings", "rms_norm_eps"}) json.erase(key);
  const ModelConfig c = model_config_from_hf(json, "t").value();
  EXPECT_EQ(c.num_kv_heads, 32);
  EXPECT_EQ(c.head_dim, 64);
  EXPECT_FALSE(c.tie_embeddings);
  EXPECT_EQ(c.norm_eps, 1e-6);
  EXPECT_EQ(c.rope_theta, 10000.0);
  const ModelConfig g = model_config_from_hf(gpt2_json(), "t").value();
  EXPECT_TRUE(g.tie_embeddings);
  EXPECT_EQ(g.ffn_size, 4 * 768);
  EXPECT_EQ(model_config_from_hf(with(gpt2_json(), "n_inner", 100), "t").value().ffn_size, 100);
}

Json mistral_json() { return with(with(llama_json(), "architectures", {"MistralForCausalLM"}), "model_type", "mistral"); }
Json qwen2_json() { return with(with(llama_json(), "architectures", {"Qwen2ForCausalLM"}), "model_type", "qwen2"); }

TEST(HfConfig, AWindowThatHidesNothingIsAccepted) {
  EXPECT_TRUE(model_config_from_hf(with(mistral_json(), "sliding_window", nullptr), "t").ok());
  EXPECT_TRUE(model_config_from_hf(with(mistral_json(), "sliding_window", 131072), "t").ok());
  EXPECT_TRUE(model_config_from_hf(with(with(qwen2_json(), "sliding_window", 4096), "use_sliding_window", false), "t").ok());
}

struct Refusal {
  const char* name;
  Json json;
  std::string key, value;
};
class HfRefusals : public ::testing::TestWithParam<Refusal> {};

TEST_P(HfRefusals, NameKeyValueAndFile) {
  const Refusal& r = GetParam();
  const Status status = model_config_from_hf(r.json, "dir/config.json").status();
  EXPECT_EQ(status.code(), Code::unsupported);
  for (const std::string& part : {std::string("dir/config.json"), r.key, r.value})
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
}

INSTANTIATE_TEST_SUITE_P(
    Configs, HfRefusals,
    ::testing::Values(
        Refusal{"OtherArchitecture", with(llama_json(), "architectures", {"T5ForConditionalGeneration"}), "architectures",
                "T5"},
        Refusal{"BaseModel", with(llama_json(), "architectures", {"LlamaModel"}), "architectures", "LlamaModel"},
        Refusal{"OtherModelType", Json{{"model_type", "bert"}}, "model_type", "bert"},
        Refusal{"MistralWindow", with(mistral_json(), "sliding_window", 4096), "sliding_window", "4096"},
        Refusal{"MistralDefaultWindow", mistral_json(), "sliding_window", "4096"},
        Refusal{"QwenWindow", with(with(qwen2_json(), "sliding_window", 4096), "use_sliding_window", true), "sliding_window",
                "4096"},
        Refusal{"SlidingLayer", with(qwen2_json(), "layer_types", {"full_attention", "sliding_attention"}), "layer_types",
                "sliding"},
        Refusal{"LinearRope", with(llama_json(), "rope_scaling", {{"type", "linear"}, {"factor", 2.0}}), "rope_type", "linear"},
        Refusal{"YarnRope", with(llama_json(), "rope_parameters", {{"rope_type", "yarn"}, {"factor", 2.0}}), "rope_type",
                "yarn"},
        Refusal{"PartialRotary", with(llama_json(), "partial_rotary_factor", 0.5), "partial_rotary_factor", "0.5"},
        Refusal{"Gelu", with(llama_json(), "hidden_act", "gelu"), "hidden_act", "gelu"},
        Refusal{"AttentionBias", with(llama_json(), "attention_bias", true), "attention_bias", "true"},
        Refusal{"MlpBias", with(llama_json(), "mlp_bias", true), "mlp_bias", "true"},
        Refusal{"PretrainingTp", with(llama_json(), "pretraining_tp", 2), "pretraining_tp", "2"},
        Refusal{"Gpt2Relu", with(gpt2_json(), "activation_function", "relu"), "activation_function", "relu"},
        Refusal{"Gpt2InverseLayer", with(gpt2_json(), "scale_attn_by_inverse_layer_idx", true),
                "scale_attn_by_inverse_layer_idx", "true"},
        Refusal{"Gpt2Unscaled", with(gpt2_json(), "scale_attn_weights", false), "scale_attn_weights", "false"},
        Refusal{"Gpt2CrossAttention", with(gpt2_json(), "add_cross_attention", true), "add_cross_attention", "true"}),
    [](const auto& test) { return test.param.name; });

TEST(HfConfig, WrongTypesAndMissingKeysAreErrors) {
  for (const char* key : {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
                          "max_position_embeddings"}) {
    Json json = llama_json();
    for (const Json& bad : {Json("x"), Json(1.5), Json(-1), Json(0), Json(18446744073709551615u), Json::array()}) {
      json[key] = bad;
      const Status status = model_config_from_hf(json, "f.json").status();
      ASSERT_FALSE(status.ok()) << key << " " << bad;
      EXPECT_NE(status.message().find("f.json"), std::string::npos);
    }
    json.erase(key);
    EXPECT_NE(model_config_from_hf(json, "f.json").status().message().find(key), std::string::npos);
  }
  EXPECT_FALSE(model_config_from_hf(with(llama_json(), "rope_scaling", 3), "t").ok());
  EXPECT_FALSE(model_config_from_hf(with(llama_json(), "tie_word_embeddings", "yes"), "t").ok());
  EXPECT_FALSE(model_config_from_hf(Json(3), "t").ok());
}

TEST(HfConfig, WhatIsWrittenIsReadAgain) {
  ModelConfig base = tiny_llama(), qwen2 = base, qwen3 = base, scaled = base;
  qwen2.qkv_bias = true;
  qwen3.qk_norm = true;
  qwen3.tie_embeddings = true;
  scaled.rope_scaling = {8.0, 1.0, 4.0, 64};
  scaled.rope_theta = 500000.0;
  for (const ModelConfig& c : {tiny_gpt2(), base, qwen2, qwen3, scaled})
    EXPECT_EQ(model_config_from_hf(model_config_to_hf(c, "float32").value(), "t").value(), c);
  qwen3.qkv_bias = true;
  EXPECT_EQ(model_config_to_hf(qwen3, "float32").status().code(), Code::unsupported);
}

}  // namespace
}  // namespace strata::testing
