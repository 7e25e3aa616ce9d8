#include "trainer/checkpoint/hf_checkpoint.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "model/hf.h"
#include "model/text_file.h"
#include "model/transformer.h"
#include "trainer/checkpoint/atomic_dir.h"
#include "trainer/checkpoint/load.h"
#include "trainer/checkpoint/save.h"

namespace strata {
namespace {

// Parameters arrive whole, in ascending slices, in the order of the Hugging Face files. Each becomes a file of its own, since
// one file's order must be known when it is begun.
class ImportSink {
 public:
  ImportSink(const Model& model, std::string folder) : model_(model), folder_(std::move(folder)) {}

  Status add(int unit, int param, std::int64_t first, std::span<const float> values) {
    const ParamSpec spec = model_.unit(unit).params()[static_cast<std::size_t>(param)];
    if (first == 0) STRATA_RETURN_IF_ERROR(begin(spec));
    hash_.insert(hash_.end(), values.begin(), values.end());
    STRATA_RETURN_IF_ERROR(writer_->append(tensor_, std::as_bytes(values)));
    if (first + static_cast<std::int64_t>(values.size()) == spec.shape.numel()) return end();
    return {};
  }
  const std::vector<CheckpointFile>& files() const { return files_; }

 private:
  Status begin(const ParamSpec& spec) {
    char name[48];
    std::snprintf(name, sizeof name, "param_%05zu.safetensors", files_.size());
    files_.push_back({name, 0, {}});
    tensor_ = format_slice_name({.param = spec.name});
    STRATA_ASSIGN_OR_RETURN(
        SafetensorsWriter writer,
        SafetensorsWriter::create(folder_ + "/" + name, {{tensor_, SafetensorsType::f32, {spec.shape.numel()}}}, {}));
    writer_ = std::make_unique<SafetensorsWriter>(std::move(writer));
    hash_.clear();
    return {};
  }
  Status end() {
    files_.back().bytes = writer_->file_bytes();
    files_.back().checksums = {checksum_hex(hash_.data(), hash_.size() * sizeof(float))};
    STRATA_RETURN_IF_ERROR(writer_->finish(true));
    writer_.reset();
    return {};
  }

  const Model& model_;
  std::string folder_;
  std::vector<CheckpointFile> files_;
  std::unique_ptr<SafetensorsWriter> writer_;
  std::string tensor_;
  std::vector<float> hash_;  // the parameter so far, for its checksum
};

Status write_import(const std::string& hf_dir, const ModelConfig& config, const Model& model, const std::string& target,
                    std::uint64_t seed) {
  ImportSink sink(model, temporary_path(target));
  const ParamSink receive = [&](int unit, int param, std::int64_t first, std::span<const float> values) {
    return sink.add(unit, param, first, values);
  };
  STRATA_ASSIGN_OR_RETURN(const std::optional<DType> dtype, import_hf(hf_dir, config, receive));
  Manifest manifest;
  if (dtype) manifest.hf_dtype = to_string(*dtype);
  manifest.seed = seed;
  manifest.model_json = to_json(config).dump();
  manifest.params = checkpoint_params(model);
  manifest.files = sink.files();
  STRATA_RETURN_IF_ERROR(write_text_file(temporary_path(target) + "/manifest.json", manifest_to_json(manifest)));
  return commit_atomic_dir(target);
}

}  // namespace

Status import_checkpoint(const std::string& hf_dir, const std::string& parent, std::uint64_t seed, bool long_rows) {
  STRATA_ASSIGN_OR_RETURN(ModelConfig config, read_hf_config(hf_dir));
  config.long_rows = long_rows;
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, make_model(config));
  const std::string target = parent + "/step_0";
  STRATA_RETURN_IF_ERROR(begin_atomic_dir(target));
  const Status status = write_import(hf_dir, config, *model, target, seed);
  if (!status.ok()) (void)discard_atomic_dir(target);
  return status;
}

Status export_checkpoint(const std::string& checkpoint_dir, const std::string& hf_dir, const std::string& dtype,
                         const std::string& tokenizer_from) {
  STRATA_ASSIGN_OR_RETURN(const std::string found, find_checkpoint(checkpoint_dir));
  STRATA_ASSIGN_OR_RETURN(const CheckpointReader reader, CheckpointReader::open(found));
  if (reader.manifest().model_json.empty())
    return {Code::unsupported, found + " holds a program's own model; only gpt2 and llama models have a Hugging Face form"};
  STRATA_ASSIGN_OR_RETURN(const nlohmann::json json, parse_json(reader.manifest().model_json, found + "/manifest.json"));
  STRATA_ASSIGN_OR_RETURN(const ModelConfig config, model_config_from_json(json, found + "/manifest.json"));
  STRATA_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, make_model(config));
  STRATA_RETURN_IF_ERROR(same_parameters(reader, *model));
  for (std::size_t i = 0; i < reader.file_count(); ++i) STRATA_RETURN_IF_ERROR(reader.verify_file(i));
  const ParamSource source = [&](int unit, int param, std::int64_t first, std::span<float> values) {
    return reader.read_parameter(model->unit(unit).params()[static_cast<std::size_t>(param)], first, values);
  };
  HfExportOptions options;
  const std::string wanted = !dtype.empty() ? dtype : reader.manifest().hf_dtype;
  options.dtype = wanted == to_string(DType::bf16) ? DType::bf16 : wanted == to_string(DType::f16) ? DType::f16 : DType::f32;
  options.tokenizer_from = tokenizer_from;
  return export_hf(hf_dir, config, source, options);
}

}  // namespace strata
