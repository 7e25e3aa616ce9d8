// Reads checkpoints of any layout, in global coordinates.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/safetensors.h"
#include "model/unit.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/engine.h"

namespace strata {

class CheckpointReader {
 public:
  // Opens the manifest and every file's header, and checks that the slices cover every parameter's states exactly once. Does
  // not read the data.
  static Result<CheckpointReader> open(const std::string& checkpoint_dir);

  const std::string& path() const { return path_; }
  const Manifest& manifest() const { return manifest_; }
  std::size_t file_count() const { return files_.size(); }
  // Reads file i whole and compares every tensor's checksum. Error corrupt: file, tensor and what differs.
  Status verify_file(std::size_t i) const;
  // Elements [first, first + out.size()) of a parameter's state. The optimizer's states are zero where the checkpoint has those
  // of nobody.
  Status read(const std::string& param, const std::string& state, std::int64_t first, std::span<float> out) const;
  // The same of a state of the optimizer in the format that the manifest names; first: where one of its blocks begins. Writes
  // format.bytes(n).
  Status read_stored(const std::string& param, const std::string& state, std::int64_t first, std::int64_t n,
                     std::byte* out) const;
  // The same of a model's parameter, as the model stores it: transposed on the way where the checkpoint has it the other way.
  // That reads a run for each column, as long as the slice has rows. After same_parameters().
  Status read_parameter(const ParamSpec& spec, std::int64_t first, std::span<float> out) const;
  // SHA-256 over step, then name, shape, p and the states of every parameter, in manifest order: equal for equal states,
  // however they were cut. Reads everything.
  Result<std::string> digest() const;

 private:
  struct Stretch {
    std::int64_t count = 0;
    std::size_t file = 0;
    std::size_t tensor = 0;
  };
  using Stretches = std::map<std::int64_t, Stretch>;  // by first element
  Status index_file(std::size_t i);
  // Where elements [first, first + n) lie: read(file, tensor, its first element, where it is among them, how many).
  template <class Read>
  Status each_stretch(const Stretches& stretches, const std::string& param, std::int64_t first, std::int64_t n,
                      const Read& read) const;
  StateFormat format_of(const std::string& state) const {
    return state == kParameterState || state == kProjectionState ? kF32States : manifest_.format;
  }
  Status check_coverage() const;
  const Stretches* find(const std::string& param, const std::string& state) const;
  std::vector<std::string> states() const;  // kParameterState, the optimizer's, kProjectionState

  std::string path_;
  Manifest manifest_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::map<std::string, Stretches>> slices_;  // by parameter and state
};

// Whether the checkpoint's parameters are the model's, be they stored transposed or not. Error invalid_config names the first
// that differs.
Status same_parameters(const CheckpointReader& reader, const Model& model);

// Collective, blocking: the ranks verify all files between them, then each fills its records. Error invalid_config when the
// checkpoint's parameters are not the model's (names the first difference), or its states another optimizer's, or states of a
// parameter that the model stores the other way: only an import, which has none, is transposed.
Status load_checkpoint(Engine& engine, const Model& model, const CheckpointReader& reader);

// Whether two models given as JSON (Manifest::model_json) compute the same function. Error invalid_config naming the first
// field that differs; lengths and initialisation, which change nothing once trained, may. An empty text (a program's own model)
// is equal to any.
Status same_function(const std::string& checkpoint_json, const std::string& config_json, const std::string& checkpoint_dir);

// A checkpoint folder as the user may name it: the folder itself, a folder of step_<N> folders, or a run folder with
// checkpoints/. Gives the newest committed checkpoint; not_found says where it looked.
Result<std::string> find_checkpoint(const std::string& path);

}  // namespace strata
