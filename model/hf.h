// Import of a Hugging Face folder and export of one that transformers loads. Values travel as f32, in slices, so that a
// model need not fit memory; f32, bf16 and f16 files survive import and export in their own dtype bit for bit (except that
// a NaN comes back as the canonical one).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "model/config.h"
#include "runtime/dtype.h"
#include "runtime/status.h"

namespace strata {

// The config of dir/config.json: see model_config_from_hf.
Result<ModelConfig> read_hf_config(const std::string& dir);

// Receives elements [first, first + values.size()) of parameter `param` of unit `unit` of make_model(config). Every parameter
// comes whole, in ascending slices. An error ends the import and is returned.
using ParamSink = std::function<Status(int unit, int param, std::int64_t first, std::span<const float> values)>;

// Reads dir/model.safetensors, or the shards that dir/model.safetensors.index.json names. All names, shapes and types are
// checked before the first value is delivered: a tensor that is missing (not_found), unexpected or of a type that is not
// f32, bf16 or f16 (unsupported), or misshaped (corrupt) is named together with its file. Buffers that old exports carry
// (causal masks, rotary frequencies) and the second copy of a tied head are passed over. The value is the dtype of all
// parameters' tensors; nothing where they differ.
Result<std::optional<DType>> import_hf(const std::string& dir, const ModelConfig& config, const ParamSink& sink);

// Fills elements [first, first + values.size()) of a parameter. Called in no particular order of parameters.
using ParamSource = std::function<Status(int unit, int param, std::int64_t first, std::span<float> values)>;

struct HfExportOptions {
  DType dtype = DType::bf16;  // f32, bf16 or f16
  // A Hugging Face folder whose tokenizer files and token ids (bos, eos, pad) go along; empty: none.
  std::string tokenizer_from;
  std::uint64_t max_shard_bytes = std::uint64_t{4} << 30;  // of tensor data in one file
  bool fsync = true;                                       // wait until the files and their names are on the device
};

// Writes safetensors (with an index when there are several), then config.json. `dir` is created; it must not hold a model yet,
// nor tokenizer files when some are to go along (invalid_argument). On error the files that this call made are removed, no
// others, and the folder has no config.json.
Status export_hf(const std::string& dir, const ModelConfig& config, const ParamSource& source, const HfExportOptions& options);

}  // namespace strata
