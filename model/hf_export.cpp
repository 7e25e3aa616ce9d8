#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "model/hf.h"
#include "model/hf_mapping.h"
#include "model/safetensors.h"
#include "model/text_file.h"

namespace strata {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kSliceElements = std::int64_t{4} << 20;
constexpr std::array kTokenizerFiles = {"tokenizer.json",  "tokenizer_config.json",   "vocab.json",
                                        "merges.txt",      "special_tokens_map.json", "added_tokens.json",
                                        "tokenizer.model", "chat_template.jinja"};
constexpr std::array kTokenIds = {"bos_token_id", "eos_token_id", "pad_token_id"};

const char* torch_name(DType dtype) {
  switch (dtype) {
    case DType::f32: return "float32";
    case DType::bf16: return "bfloat16";
    case DType::f16: return "float16";
    default: return nullptr;
  }
}

using Shard = std::vector<const HfTensor*>;

// By name, as many into each file as fit; a tensor larger than a file gets one of its own.
std::vector<Shard> cut_shards(const std::vector<HfTensor>& mapping, const HfExportOptions& options) {
  Shard sorted;
  for (const HfTensor& t : mapping) sorted.push_back(&t);
  std::sort(sorted.begin(), sorted.end(), [](const HfTensor* a, const HfTensor* b) { return a->name < b->name; });
  std::vector<Shard> shards;
  std::uint64_t bytes = 0;
  for (const HfTensor* t : sorted) {
    const std::uint64_t size = static_cast<std::uint64_t>(t->numel()) * size_of(options.dtype);
    if (shards.empty() || bytes + size > options.max_shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().push_back(t);
    bytes += size;
  }
  return shards;
}

std::string shard_name(std::size_t i, std::size_t count) {
  if (count == 1) return "model.safetensors";
  std::array<char, 64> name{};
  std::snprintf(name.data(), name.size(), "model-%05zu-of-%05zu.safetensors", i + 1, count);
  return name.data();
}

Status append_tensor(SafetensorsWriter& writer, const HfTensor& tensor, const ParamSource& source, std::vector<float>& values) {
  if (tensor.transposed) {
    values.resize(static_cast<std::size_t>(tensor.numel()));
    STRATA_RETURN_IF_ERROR(source(tensor.unit, tensor.param, tensor.first, values));
    std::vector<float> theirs(values.size());
    transpose(values, tensor.rows, tensor.columns, theirs);
    return writer.append_f32(tensor.name, theirs);
  }
  for (std::int64_t done = 0; done < tensor.numel(); done += kSliceElements) {
    values.resize(static_cast<std::size_t>(std::min(kSliceElements, tensor.numel() - done)));
    STRATA_RETURN_IF_ERROR(source(tensor.unit, tensor.param, tensor.first + done, values));
    STRATA_RETURN_IF_ERROR(writer.append_f32(tensor.name, values));
  }
  return {};
}

Status write_shard(const std::string& path, const Shard& shard, const HfExportOptions& options, const ParamSource& source) {
  std::vector<SafetensorsDecl> declarations;
  for (const HfTensor* t : shard) declarations.push_back({t->name, safetensors_type(options.dtype), t->shape});
  STRATA_ASSIGN_OR_RETURN(SafetensorsWriter writer,
                          SafetensorsWriter::create(path, std::move(declarations), {{"format", "pt"}}));
  std::vector<float> values;
  for (const HfTensor* t : shard) STRATA_RETURN_IF_ERROR(append_tensor(writer, *t, source, values));
  return writer.finish(options.fsync);
}

nlohmann::json make_index(const std::vector<Shard>& shards, DType dtype) {
  nlohmann::json json;
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < shards.size(); ++i)
    for (const HfTensor* t : shards[i]) {
      json["weight_map"][t->name] = shard_name(i, shards.size());
      total += static_cast<std::uint64_t>(t->numel()) * size_of(dtype);
    }
  json["metadata"]["total_size"] = total;
  return json;
}

// Holds what this export created, and removes it, last first, unless the export is complete.
class Cleanup {
 public:
  ~Cleanup() {
    std::error_code ignored;
    for (auto path = paths_.rbegin(); path != paths_.rend(); ++path) fs::remove(*path, ignored);
  }
  void add(const std::string& path) { paths_.push_back(path); }
  void keep() { paths_.clear(); }

 private:
  std::vector<std::string> paths_;
};

// What a model folder holds already that an export would write or leave beside its own files; empty: nothing.
Result<std::string> find_in_the_way(const std::string& dir, bool with_tokenizer) {
  std::error_code error;
  fs::directory_iterator entries(dir, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    const std::string name = entries->path().filename();
    if (name == "config.json" || name == "model.safetensors.index.json" || name.ends_with(".safetensors")) return name;
    if (with_tokenizer && std::find(kTokenizerFiles.begin(), kTokenizerFiles.end(), name) != kTokenizerFiles.end()) return name;
  }
  if (error) return Status::from_errno("list folder", dir, error.value());
  return std::string();
}

Status prepare_folder(const std::string& dir, const std::string& tokenizer_from) {
  std::error_code error;
  fs::create_directories(dir, error);
  if (error) return Status::from_errno("create folder", dir, error.value());
  if (!tokenizer_from.empty()) {
    if (!fs::is_directory(tokenizer_from, error))
      return {Code::not_found, tokenizer_from + ": no such folder to take tokenizer files from"};
    if (fs::equivalent(dir, tokenizer_from, error))
      return {Code::invalid_argument,
              dir + " is also the folder that the tokenizer files come from: export into another folder"};
  }
  STRATA_ASSIGN_OR_RETURN(const std::string name, find_in_the_way(dir, !tokenizer_from.empty()));
  if (name.empty()) return {};
  return {Code::invalid_argument, dir + "/" + name + " is there already: export into a folder that holds no model"};
}

Status copy_tokenizer(const std::string& from, const std::string& to, const HfExportOptions& options, nlohmann::json& config,
                      Cleanup& cleanup) {
  std::error_code error;
  for (const char* name : kTokenizerFiles) {
    if (!fs::exists(from + "/" + name, error)) continue;
    const std::string target = to + "/" + name;
    fs::copy_file(from + "/" + name, target, fs::copy_options::none, error);
    if (error != std::errc::file_exists) cleanup.add(target);  // also half a copy; never another's file
    if (error) return Status::from_errno("copy of " + from + "/" + name, target, error.value());
    if (options.fsync) STRATA_RETURN_IF_ERROR(flush_to_device(target));
  }
  const Result<std::string> text = read_text_file(from + "/config.json");
  if (!text.ok()) return text.status().code() == Code::not_found ? Status() : text.status();
  STRATA_ASSIGN_OR_RETURN(const nlohmann::json theirs, parse_json(*text, from + "/config.json"));
  for (const char* key : kTokenIds)
    if (theirs.is_object() && theirs.contains(key)) config[key] = theirs[key];
  return {};
}

}  // namespace

Status export_hf(const std::string& dir, const ModelConfig& config, const ParamSource& source, const HfExportOptions& options) {
  if (torch_name(options.dtype) == nullptr) return {Code::invalid_argument, "export writes f32, bf16 or f16"};
  STRATA_ASSIGN_OR_RETURN(nlohmann::json hf_config, model_config_to_hf(config, torch_name(options.dtype)));
  STRATA_ASSIGN_OR_RETURN(const std::vector<HfTensor> mapping, hf_mapping(config));
  STRATA_RETURN_IF_ERROR(prepare_folder(dir, options.tokenizer_from));
  Cleanup cleanup;
  if (!options.tokenizer_from.empty())
    STRATA_RETURN_IF_ERROR(copy_tokenizer(options.tokenizer_from, dir, options, hf_config, cleanup));
  const std::vector<Shard> shards = cut_shards(mapping, options);
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string path = dir + "/" + shard_name(i, shards.size());
    STRATA_RETURN_IF_ERROR(write_shard(path, shards[i], options, source));
    cleanup.add(path);
  }
  const auto write_json = [&](const char* name, const nlohmann::json& json) {
    STRATA_RETURN_IF_ERROR(write_text_file(dir + "/" + name, json.dump(2) + "\n", options.fsync));
    cleanup.add(dir + "/" + name);
    return Status();
  };
  if (shards.size() > 1) STRATA_RETURN_IF_ERROR(write_json("model.safetensors.index.json", make_index(shards, options.dtype)));
  // config.json makes the folder a model: it comes when all else is on the device.
  if (options.fsync) STRATA_RETURN_IF_ERROR(flush_to_device(dir));
  STRATA_RETURN_IF_ERROR(write_json("config.json", hf_config));
  if (options.fsync) {
    STRATA_RETURN_IF_ERROR(flush_to_device(dir));
    STRATA_RETURN_IF_ERROR(flush_to_device(fs::canonical(dir).parent_path()));
  }
  cleanup.keep();
  return {};
}

}  // namespace strata
