#include "model/hf_mapping.h"

#include <algorithm>
#include <map>

#include "model/transformer.h"

namespace strata {
namespace {

// One parameter of ours is the rows of these tensors, one below the other.
struct Source {
  struct Piece {
    std::string name;
    std::int64_t rows = -1;  // -1: all
  };
  std::vector<Piece> pieces;
  bool transposed = false;
};
using Sources = std::map<std::string, Source>;  // by our name

void add_gpt2_layer(Sources& out, std::int64_t i) {
  const std::string ours = "layers." + std::to_string(i), theirs = "transformer.h." + std::to_string(i);
  for (const char* kind : {".weight", ".bias"}) {
    const auto linear = [&](const char* our_name, const char* their_name) {
      out[ours + our_name + kind] = {{{theirs + their_name + kind}}, std::string_view(kind) == ".weight"};
    };
    out[ours + ".attn_norm" + kind] = {{{theirs + ".ln_1" + kind}}};
    out[ours + ".mlp_norm" + kind] = {{{theirs + ".ln_2" + kind}}};
    linear(".attn.qkv", ".attn.c_attn");
    linear(".attn.out", ".attn.c_proj");
    linear(".mlp.up", ".mlp.c_fc");
    linear(".mlp.down", ".mlp.c_proj");
  }
}

void add_llama_layer(Sources& out, std::int64_t i, const ModelConfig& c) {
  const std::string ours = "layers." + std::to_string(i), theirs = "model.layers." + std::to_string(i);
  const std::int64_t query_rows = c.num_heads * c.head_dim, key_rows = c.num_kv_heads * c.head_dim;
  for (const char* kind : {".weight", ".bias"})
    out[ours + ".attn.qkv" + kind] = {{{theirs + ".self_attn.q_proj" + kind, query_rows},
                                       {theirs + ".self_attn.k_proj" + kind, key_rows},
                                       {theirs + ".self_attn.v_proj" + kind, key_rows}}};
  out[ours + ".attn.out.weight"] = {{{theirs + ".self_attn.o_proj.weight"}}};
  out[ours + ".attn.q_norm.weight"] = {{{theirs + ".self_attn.q_norm.weight"}}};
  out[ours + ".attn.k_norm.weight"] = {{{theirs + ".self_attn.k_norm.weight"}}};
  out[ours + ".attn_norm.weight"] = {{{theirs + ".input_layernorm.weight"}}};
  out[ours + ".mlp_norm.weight"] = {{{theirs + ".post_attention_layernorm.weight"}}};
  out[ours + ".mlp.gate_up.weight"] = {
      {{theirs + ".mlp.gate_proj.weight", c.ffn_size}, {theirs + ".mlp.up_proj.weight", c.ffn_size}}};
  out[ours + ".mlp.down.weight"] = {{{theirs + ".mlp.down_proj.weight"}}};
}

// May name parameters that this config does not have (biases, head norms); the model says which it has.
Sources sources(const ModelConfig& c) {
  Sources out;
  out["head.weight"] = {{{"lm_head.weight"}}};
  if (c.architecture == Architecture::gpt2) {
    out["embedding.weight"] = {{{"transformer.wte.weight"}}};
    out["positions.weight"] = {{{"transformer.wpe.weight"}}};
    out["final_norm.weight"] = {{{"transformer.ln_f.weight"}}};
    out["final_norm.bias"] = {{{"transformer.ln_f.bias"}}};
    for (std::int64_t i = 0; i < c.num_layers; ++i) add_gpt2_layer(out, i);
  } else {
    out["embedding.weight"] = {{{"model.embed_tokens.weight"}}};
    out["final_norm.weight"] = {{{"model.norm.weight"}}};
    for (std::int64_t i = 0; i < c.num_layers; ++i) add_llama_layer(out, i, c);
  }
  return out;
}

bool ends_with_one_of(std::string_view name, std::initializer_list<std::string_view> endings) {
  for (const std::string_view ending : endings)
    if (name.ends_with(ending)) return true;
  return false;
}

}  // namespace

Result<std::vector<HfTensor>> hf_mapping(const ModelConfig& config) {
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, make_model(config));
  const Sources table = sources(config);
  std::vector<HfTensor> out;
  for (int unit = 0; unit < model->unit_count(); ++unit) {
    const std::vector<ParamSpec> params = model->unit(unit).params();
    for (std::size_t p = 0; p < params.size(); ++p) {
      const Shape& shape = params[p].shape;
      const auto source = table.find(params[p].name);
      STRATA_CHECK(source != table.end(), "no Hugging Face name for " + params[p].name);
      std::int64_t row = 0;
      for (const Source::Piece& piece : source->second.pieces) {
        HfTensor t{.name = piece.name, .shape = {}, .unit = unit, .param = static_cast<int>(p)};
        t.rows = piece.rows < 0 ? shape[0] : piece.rows;
        t.columns = shape.rank() == 1 ? 1 : shape[1];
        t.transposed = source->second.transposed != params[p].transposed;
        t.first = row * t.columns;
        t.shape = {t.rows};
        if (shape.rank() == 2) t.shape.insert(t.transposed ? t.shape.begin() : t.shape.end(), t.columns);
        row += t.rows;
        out.push_back(std::move(t));
      }
      STRATA_CHECK(row == shape[0], "Hugging Face tensors do not cover " + params[p].name);
    }
  }
  return out;
}

void transpose(std::span<const float> from, std::int64_t rows, std::int64_t columns, std::span<float> to) {
  constexpr std::int64_t kTile = 32;  // both sides of a tile stay in the first-level cache
  for (std::int64_t r0 = 0; r0 < rows; r0 += kTile)
    for (std::int64_t c0 = 0; c0 < columns; c0 += kTile)
      for (std::int64_t r = r0; r < std::min(r0 + kTile, rows); ++r)
        for (std::int64_t c = c0; c < std::min(c0 + kTile, columns); ++c)
          to[static_cast<std::size_t>(c * rows + r)] = from[static_cast<std::size_t>(r * columns + c)];
}

bool is_ignored_hf_tensor(const ModelConfig& config, std::string_view name) {
  if (config.tie_embeddings && name == "lm_head.weight") return true;
  if (config.architecture == Architecture::gpt2) return ends_with_one_of(name, {".attn.bias", ".attn.masked_bias"});
  return ends_with_one_of(name, {".rotary_emb.inv_freq"});
}

}  // namespace strata
