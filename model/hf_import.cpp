#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "model/hf.h"
#include "model/hf_mapping.h"
#include "model/safetensors.h"
#include "model/text_file.h"

namespace strata {
namespace {

constexpr std::int64_t kSliceElements = std::int64_t{4} << 20;
constexpr const char* kIndex = "model.safetensors.index.json";

Result<nlohmann::json> read_json(const std::string& path) {
  STRATA_ASSIGN_OR_RETURN(const std::string text, read_text_file(path));
  return parse_json(text, path);
}

// The safetensors files of a folder as one set of tensors.
class HfFolder {
 public:
  static Result<HfFolder> open(const std::string& dir) {
    STRATA_ASSIGN_OR_RETURN(const std::vector<std::string> names, file_names(dir));
    HfFolder folder;
    for (const std::string& name : names) {
      STRATA_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::open(dir + "/" + name));
      folder.files_.push_back(std::move(file));
    }
    for (std::size_t f = 0; f < folder.files_.size(); ++f)
      for (const SafetensorsInfo& info : folder.files_[f].tensors()) {
        const auto [it, is_new] = folder.tensors_.try_emplace(info.name, Entry{f, &info});
        if (!is_new)
          return Status(Code::corrupt, folder.files_[f].path() + ": tensor '" + info.name + "' is also in " +
                                           folder.files_[it->second.file].path());
      }
    return folder;
  }

  struct Entry {
    std::size_t file = 0;
    const SafetensorsInfo* info = nullptr;
  };
  const std::map<std::string, Entry>& tensors() const { return tensors_; }
  const SafetensorsFile& file(const Entry& entry) const { return files_[entry.file]; }

 private:
  static Result<std::vector<std::string>> file_names(const std::string& dir) {
    std::error_code ignored;
    if (std::filesystem::exists(dir + "/model.safetensors", ignored)) return std::vector<std::string>{"model.safetensors"};
    const std::string index = dir + "/" + kIndex;
    if (!std::filesystem::exists(index, ignored))
      return Status(Code::not_found,
                    dir + ": neither model.safetensors nor " + kIndex +
                        " is there (weights in other formats have to be saved with safe_serialization=True first)");
    STRATA_ASSIGN_OR_RETURN(const nlohmann::json json, read_json(index));
    const auto map = json.is_object() ? json.find("weight_map") : json.end();
    if (map == json.end() || !map->is_object()) return Status(Code::corrupt, index + ": no weight_map");
    std::set<std::string> names;
    for (const auto& [tensor, file] : map->items()) {
      const std::string name = file.is_string() ? file.get<std::string>() : "";
      if (name.empty() || name.find('/') != std::string::npos)
        return Status(Code::corrupt, index + ": tensor '" + tensor + "': " + file.dump() + " is not a file of this folder");
      names.insert(name);
    }
    return std::vector<std::string>(names.begin(), names.end());
  }

  std::vector<SafetensorsFile> files_;  // entries point into them; vectors keep their elements when moved
  std::map<std::string, Entry> tensors_;
};

// GPT-2 folders exist with and without the prefix of the outer model.
std::string without_prefix(const std::string& name) {
  constexpr std::string_view kPrefix = "transformer.";
  return name.starts_with(kPrefix) ? name.substr(kPrefix.size()) : name;
}

// Every tensor of the mapping with its place in the files, checked.
class Importer {
 public:
  Importer(const std::string& dir, const ModelConfig& config, const HfFolder& folder)
      : dir_(dir), config_(config), folder_(folder) {}

  Status match(const std::vector<HfTensor>& mapping) {
    const bool gpt2 = config_.architecture == Architecture::gpt2;
    std::map<std::string, const HfFolder::Entry*> present;
    for (const auto& [name, entry] : folder_.tensors()) {
      const std::string key = gpt2 ? without_prefix(name) : name;
      if (!present.try_emplace(key, &entry).second)
        return {Code::corrupt, folder_.file(entry).path() + ": tensor '" + key + "' is there with and without its prefix"};
    }
    for (const HfTensor& tensor : mapping) {
      const auto it = present.find(gpt2 ? without_prefix(tensor.name) : tensor.name);
      if (it == present.end())
        return {Code::not_found, dir_ + ": tensor '" + tensor.name + "' " + shape_string(tensor.shape) + " is missing"};
      STRATA_RETURN_IF_ERROR(check(tensor, *it->second));
      found_.push_back(it->second);
      present.erase(it);
    }
    for (const auto& [key, entry] : present)
      if (!is_ignored_hf_tensor(config_, key))
        return {Code::unsupported, folder_.file(*entry).path() + ": tensor '" + entry->info->name + "' " +
                                       shape_string(entry->info->shape) + " belongs to no parameter of this model"};
    return {};
  }

  // After match().
  std::optional<DType> common_dtype() const {
    const SafetensorsType first = found_.front()->info->type;
    const bool same =
        std::all_of(found_.begin(), found_.end(), [first](const HfFolder::Entry* entry) { return entry->info->type == first; });
    return same ? to_dtype(first) : std::nullopt;
  }

  // After match() with the same mapping.
  Status deliver(const std::vector<HfTensor>& mapping, const ParamSink& sink) const {
    std::vector<float> values;
    for (std::size_t i = 0; i < mapping.size(); ++i) {
      const HfTensor& tensor = mapping[i];
      STRATA_RETURN_IF_ERROR(tensor.transposed ? deliver_transposed(tensor, *found_[i], values, sink)
                                               : deliver_rows(tensor, *found_[i], values, sink));
    }
    return {};
  }

 private:
  Status check(const HfTensor& tensor, const HfFolder::Entry& entry) const {
    const SafetensorsInfo& info = *entry.info;
    const std::string where = folder_.file(entry).path() + ": tensor '" + info.name + "'";
    if (info.shape != tensor.shape)
      return {Code::corrupt,
              where + " has shape " + shape_string(info.shape) + ", the config asks for " + shape_string(tensor.shape)};
    const auto dtype = to_dtype(info.type);
    if (!dtype || *dtype == DType::i32)
      return {Code::unsupported, where + " is " + to_string(info.type) + ", not F32, BF16 or F16"};
    return {};
  }

  Status deliver_rows(const HfTensor& tensor, const HfFolder::Entry& entry, std::vector<float>& values,
                      const ParamSink& sink) const {
    for (std::int64_t done = 0; done < tensor.numel(); done += kSliceElements) {
      values.resize(static_cast<std::size_t>(std::min(kSliceElements, tensor.numel() - done)));
      STRATA_RETURN_IF_ERROR(folder_.file(entry).read_f32(*entry.info, done, values));
      STRATA_RETURN_IF_ERROR(sink(tensor.unit, tensor.param, tensor.first + done, values));
    }
    return {};
  }

  Status deliver_transposed(const HfTensor& tensor, const HfFolder::Entry& entry, std::vector<float>& values,
                            const ParamSink& sink) const {
    values.resize(static_cast<std::size_t>(tensor.numel()));
    STRATA_RETURN_IF_ERROR(folder_.file(entry).read_f32(*entry.info, 0, values));
    std::vector<float> ours(values.size());
    transpose(values, tensor.columns, tensor.rows, ours);
    return sink(tensor.unit, tensor.param, tensor.first, ours);
  }

  const std::string& dir_;
  const ModelConfig& config_;
  const HfFolder& folder_;
  std::vector<const HfFolder::Entry*> found_;
};

}  // namespace

Result<ModelConfig> read_hf_config(const std::string& dir) {
  const std::string path = dir + "/config.json";
  STRATA_ASSIGN_OR_RETURN(const nlohmann::json json, read_json(path));
  return model_config_from_hf(json, path);
}

Result<std::optional<DType>> import_hf(const std::string& dir, const ModelConfig& config, const ParamSink& sink) {
  STRATA_ASSIGN_OR_RETURN(const std::vector<HfTensor> mapping, hf_mapping(config));
  STRATA_ASSIGN_OR_RETURN(const HfFolder folder, HfFolder::open(dir));
  Importer importer(dir, config, folder);
  STRATA_RETURN_IF_ERROR(importer.match(mapping));
  STRATA_RETURN_IF_ERROR(importer.deliver(mapping, sink));
  return importer.common_dtype();
}

}  // namespace strata
