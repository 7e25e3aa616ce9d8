#include "model/config.h"

#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

namespace strata {
namespace {

using Json = nlohmann::json;

// One table serves validation of ranges, printing and reading.
struct IntegerField {
  const char* key;
  std::int64_t ModelConfig::*member;
  std::int64_t limit;
};
constexpr std::array<IntegerField, 8> kIntegers = {{{"vocab_size", &ModelConfig::vocab_size, 1 << 27},
                                                    {"hidden_size", &ModelConfig::hidden_size, 1 << 20},
                                                    {"num_layers", &ModelConfig::num_layers, 10'000},
                                                    {"num_heads", &ModelConfig::num_heads, 1 << 16},
                                                    {"num_kv_heads", &ModelConfig::num_kv_heads, 1 << 16},
                                                    {"head_dim", &ModelConfig::head_dim, 1 << 16},
                                                    {"ffn_size", &ModelConfig::ffn_size, 1 << 24},
                                                    {"max_positions", &ModelConfig::max_positions, 1 << 27}}};
constexpr std::array<std::pair<const char*, double ModelConfig::*>, 3> kDoubles = {
    {{"norm_eps", &ModelConfig::norm_eps}, {"rope_theta", &ModelConfig::rope_theta}, {"init_std", &ModelConfig::init_std}}};
constexpr std::array<std::pair<const char*, bool ModelConfig::*>, 3> kFlags = {
    {{"tie_embeddings", &ModelConfig::tie_embeddings},
     {"qkv_bias", &ModelConfig::qkv_bias},
     {"qk_norm", &ModelConfig::qk_norm}}};
constexpr const char* kScaling = "rope_scaling";
constexpr const char* kLongRows = "long_rows";  // written and read where it is true: older models do not have it

class Problems {
 public:
  void require(bool condition, const std::string& problem) {
    if (!condition) text_ += (text_.empty() ? "" : "\n") + problem;
  }
  Status status() const { return text_.empty() ? Status() : Status(Code::invalid_config, text_); }

 private:
  std::string text_;
};

std::string equation(const char* left, std::int64_t a, const char* right, std::int64_t b) {
  return std::string(left) + " = " + std::to_string(a) + " must equal " + right + " = " + std::to_string(b);
}

void check_gpt2(const ModelConfig& c, Problems& problems) {
  problems.require(c.num_kv_heads == c.num_heads,
                   "gpt2: " + equation("num_kv_heads", c.num_kv_heads, "num_heads", c.num_heads));
  problems.require(c.num_heads * c.head_dim == c.hidden_size,
                   "gpt2: " + equation("num_heads * head_dim", c.num_heads * c.head_dim, "hidden_size", c.hidden_size));
  problems.require(!c.qkv_bias, "gpt2: qkv_bias must be false (its linear layers always have biases)");
  problems.require(!c.qk_norm, "gpt2: qk_norm must be false");
}

void check_llama(const ModelConfig& c, Problems& problems) {
  problems.require(
      c.num_heads % c.num_kv_heads == 0,
      "num_heads = " + std::to_string(c.num_heads) + " must be a multiple of num_kv_heads = " + std::to_string(c.num_kv_heads));
  problems.require(c.head_dim % 2 == 0, "head_dim = " + std::to_string(c.head_dim) + " must be even (rotary embedding)");
  problems.require(std::isfinite(c.rope_theta) && c.rope_theta > 1.0, "rope_theta must be finite and > 1");
  const kernels::RopeScaling& s = c.rope_scaling;
  problems.require(std::isfinite(s.factor) && s.factor >= 1.0, "rope_scaling.factor must be >= 1");
  problems.require(std::isfinite(s.high_freq_factor) && s.low_freq_factor > 0.0 && s.high_freq_factor > s.low_freq_factor,
                   "rope_scaling needs 0 < low_freq_factor < high_freq_factor");
  problems.require(s.original_max_position > 0, "rope_scaling.original_max_position must be positive");
}

// In double: what is absurd must not overflow before it is refused.
double parameter_count(const ModelConfig& c) {
  const auto of = [](std::int64_t a, std::int64_t b) { return static_cast<double>(a) * static_cast<double>(b); };
  const bool gpt2 = c.architecture == Architecture::gpt2;
  const double embeddings =
      of(c.vocab_size, c.hidden_size) * (c.tie_embeddings ? 1.0 : 2.0) + (gpt2 ? of(c.max_positions, c.hidden_size) : 0.0);
  const double attention = of(c.hidden_size, 2 * c.num_heads + 2 * c.num_kv_heads) * static_cast<double>(c.head_dim);
  const double mlp = of(c.hidden_size, c.ffn_size) * (gpt2 ? 2.0 : 3.0);
  return embeddings + static_cast<double>(c.num_layers) * (attention + mlp);  // less biases and norms
}

// Reads typed members of one object; the first problem is kept, so that callers check once.
class ObjectReader {
 public:
  ObjectReader(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) fail("not a JSON object");
  }
  void read(const char* key, std::int64_t& out) {
    const Json* v = find(key);
    if (v == nullptr) return;
    if (!v->is_number_integer() || (v->is_number_unsigned() && v->get<std::uint64_t>() >> 63 != 0))
      return fail_type(key, *v, "an integer");
    out = v->get<std::int64_t>();
  }
  void read(const char* key, double& out) {
    if (const Json* v = find(key)) v->is_number() ? void(out = v->get<double>()) : fail_type(key, *v, "a number");
  }
  void read(const char* key, bool& out) {
    if (const Json* v = find(key)) v->is_boolean() ? void(out = v->get<bool>()) : fail_type(key, *v, "true or false");
  }
  bool has(const char* key) const { return object_.is_object() && object_.contains(key); }
  const Json* find(const char* key) {
    if (!status_.ok()) return nullptr;
    const auto it = object_.find(key);
    if (it == object_.end()) {
      fail(std::string("key '") + key + "' is missing");
      return nullptr;
    }
    ++known_;
    return &*it;
  }
  void fail(const std::string& what) {
    if (status_.ok()) status_ = Status(Code::corrupt, where_ + ": " + what);
  }
  // Also an error when the object has keys that were not asked for.
  Status finish() {
    if (status_.ok() && object_.size() != known_) fail("it has keys that a model config does not have");
    return status_;
  }

 private:
  void fail_type(const char* key, const Json& value, const char* want) {
    fail(std::string("key '") + key + "': " + value.dump() + " is not " + want);
  }
  const Json& object_;
  std::string where_;
  std::size_t known_ = 0;
  Status status_;
};

}  // namespace

const char* to_string(Architecture architecture) { return architecture == Architecture::gpt2 ? "gpt2" : "llama"; }

bool ModelConfig::operator==(const ModelConfig& other) const { return to_json(*this) == to_json(other); }

Status ModelConfig::validate() const {
  Problems problems;
  for (const IntegerField& field : kIntegers)
    problems.require(this->*field.member >= 1 && this->*field.member <= field.limit,
                     std::string(field.key) + " = " + std::to_string(this->*field.member) + " must be in [1, " +
                         std::to_string(field.limit) + "]");
  if (!problems.status().ok()) return problems.status();  // what follows divides and multiplies
  problems.require(std::isfinite(norm_eps) && norm_eps > 0.0, "norm_eps must be finite and positive");
  problems.require(std::isfinite(init_std) && init_std >= 0.0, "init_std must be finite and not negative");
  architecture == Architecture::gpt2 ? check_gpt2(*this, problems) : check_llama(*this, problems);
  std::array<char, 32> count{};
  std::snprintf(count.data(), count.size(), "%.3g", parameter_count(*this));
  problems.require(parameter_count(*this) <= 0x1p50, std::string("these sizes make a model of ") + count.data() +
                                                         " parameters, more than 2^50: lower vocab_size, hidden_size, "
                                                         "num_layers, num_heads, head_dim or ffn_size");
  return problems.status();
}

Json to_json(const ModelConfig& config) {
  Json json = {{"architecture", to_string(config.architecture)}};
  for (const IntegerField& field : kIntegers) json[field.key] = config.*field.member;
  for (const auto& [key, member] : kDoubles) json[key] = config.*member;
  for (const auto& [key, member] : kFlags) json[key] = config.*member;
  if (config.long_rows) json[kLongRows] = true;
  json[kScaling] = {{"factor", config.rope_scaling.factor},
                    {"low_freq_factor", config.rope_scaling.low_freq_factor},
                    {"high_freq_factor", config.rope_scaling.high_freq_factor},
                    {"original_max_position", config.rope_scaling.original_max_position}};
  return json;
}

Result<ModelConfig> model_config_from_json(const Json& json, const std::string& where) {
  ModelConfig config;
  ObjectReader reader(json, where);
  for (const IntegerField& field : kIntegers) reader.read(field.key, config.*field.member);
  for (const auto& [key, member] : kDoubles) reader.read(key, config.*member);
  for (const auto& [key, member] : kFlags) reader.read(key, config.*member);
  if (reader.has(kLongRows)) reader.read(kLongRows, config.long_rows);
  if (const Json* architecture = reader.find("architecture")) {
    if (*architecture == "gpt2")
      config.architecture = Architecture::gpt2;
    else if (*architecture != "llama")
      reader.fail("key 'architecture': " + architecture->dump() + " is not \"gpt2\" or \"llama\"");
  }
  if (const Json* scaling = reader.find(kScaling)) {
    ObjectReader inner(*scaling, where + ": rope_scaling");
    inner.read("factor", config.rope_scaling.factor);
    inner.read("low_freq_factor", config.rope_scaling.low_freq_factor);
    inner.read("high_freq_factor", config.rope_scaling.high_freq_factor);
    inner.read("original_max_position", config.rope_scaling.original_max_position);
    STRATA_RETURN_IF_ERROR(inner.finish());
  }
  STRATA_RETURN_IF_ERROR(reader.finish());
  STRATA_RETURN_IF_ERROR(config.validate().with_context(where));
  return config;
}

Result<Json> parse_json(const std::string& text, const std::string& where) {
  const auto shallow = [&](int depth, Json::parse_event_t event, const Json&) {
    const bool opens = event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start;
    if (opens && depth >= kMaxJsonDepth)
      throw StatusError(
          Status(Code::corrupt, where + ": not JSON of this kind: nested deeper than " + std::to_string(kMaxJsonDepth)));
    return true;
  };
  try {
    return Json::parse(text, shallow);
  } catch (const Json::exception& error) {
    return Status(Code::corrupt, where + ": not valid JSON: " + error.what());
  } catch (const StatusError& error) {
    return error.status();
  }
}

}  // namespace strata
