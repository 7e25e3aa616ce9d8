// Between Hugging Face folders and checkpoints. One process; memory for one parameter at a time.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/status.h"

namespace strata {

// Writes <parent>/step_0 with the folder's weights and no optimizer state. long_rows: as ModelConfig's; a run that stores its
// weights the other way takes the checkpoint too.
Status import_checkpoint(const std::string& hf_dir, const std::string& parent, std::uint64_t seed, bool long_rows);
// Writes a folder that transformers loads. dtype: "f32", "bf16", "f16", or "" for what loses nothing: the dtype of the imported
// folder where no step has been trained since, else f32. tokenizer_from: a Hugging Face folder whose tokenizer files
// are copied, or empty. Error unsupported for a checkpoint of a program's own model.
Status export_checkpoint(const std::string& checkpoint_dir, const std::string& hf_dir, const std::string& dtype,
                         const std::string& tokenizer_from);

}  // namespace strata
