// What a checkpoint folder holds: manifest.json and one safetensors file a rank. Slices are in global coordinates (parameter
// name, first element), so any layout loads into any other. Format: docs/checkpoint_format.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/safetensors.h"
#include "optim/state_format.h"
#include "runtime/status.h"
#include "runtime/tensor.h"

namespace strata {

// What is kept of each element: the parameter itself, and the optimizer's states under the names that it gives them.
inline constexpr const char* kParameterState = "p";
// Of a parameter whose projections the optimizer keeps: those of its matrices, one after the other.
inline constexpr const char* kProjectionState = "projection";

struct CheckpointParam {
  std::string name;
  Shape shape;                      // as it is stored
  std::int64_t states = -1;         // values of each of the optimizer's states; -1: one of each element
  bool transposed = false;          // ParamSpec::transposed
  std::vector<double> memory = {};  // of a matrix whose rows are updated together: OptimizerStore::row_memory()
  std::int64_t projections = 0;     // values of kProjectionState
  std::int64_t state_count() const { return states < 0 ? shape.numel() : states; }
  // Values of a state by its name.
  std::int64_t count(const std::string& state) const {
    return state == kParameterState ? shape.numel() : state == kProjectionState ? projections : state_count();
  }
};

struct CheckpointFile {
  std::string name;  // inside the folder
  std::uint64_t bytes = 0;
  std::vector<std::string> checksums;  // XXH3-64 of each tensor's bytes, hexadecimal, in file order
};

// What the numbers of samples refer to; zero: unknown (an import).
struct CheckpointData {
  std::uint64_t seq_length = 0;         // tokens
  std::uint64_t samples_per_epoch = 0;  // of the training data
};

struct Manifest {
  std::int64_t step = 0;      // updates done
  std::uint64_t samples = 0;  // samples consumed
  std::uint64_t seed = 0;     // of the data order and the initialisation
  int world_size = 1;         // that wrote it
  CheckpointData data;
  std::string optimizer;             // whose states are present (Optimizer::name()); empty: nobody's
  std::vector<std::string> states;   // its Optimizer::states(), in order
  StateFormat format = kF32States;   // of the states: its Optimizer::state_format()
  std::string choice_rule;           // its Optimizer::choice_rule()
  std::int64_t choice = -1;          // which of its choices the states are of; -1: they are zero
  std::string freeze_rule;           // FreezePolicy::rule() of the run; empty: it froze nothing
  std::vector<std::string> trained;  // names of the units that the last step trained, or the first will; empty: all
  // Of each unit, where the rule looks at distances (ActiveUnits::measures()): how often it was updated, and its distance.
  std::vector<std::int64_t> unit_updates = {};
  std::vector<double> unit_distances = {};
  std::string hf_dtype;                 // of an import whose tensors all have one: "f32", "bf16" or "f16"; else empty
  std::string model_json;               // ModelConfig as JSON; empty for a model made by a program
  std::vector<CheckpointParam> params;  // in unit order
  std::vector<CheckpointFile> files;
};

std::string manifest_to_json(const Manifest& manifest);
// Errors: corrupt, with path and what is missing or wrong.
Result<Manifest> manifest_from_json(const std::string& json, const std::string& path);
Result<Manifest> read_manifest(const std::string& checkpoint_dir);

// A stretch of one parameter's state as one tensor of a file. Names sort in file order: "<sequence>/<state>/<first>/<param>".
struct SliceName {
  std::int64_t sequence = 0;
  std::string state = kParameterState;
  std::int64_t first = 0;
  std::string param;
};
std::string format_slice_name(const SliceName& name);
Result<SliceName> parse_slice_name(const std::string& text);

// Type of the tensors that hold states of a format.
SafetensorsType stored_type(const StateFormat& format);

// XXH3-64 as 16 hexadecimal digits.
std::string checksum_hex(const void* data, std::size_t bytes);

}  // namespace strata
