// What the tests of model/ share: a scratch folder, and the stored vectors with the run that is compared against them.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/hf.h"
#include "model/hf_mapping.h"
#include "model/reference_run.h"
#include "model/safetensors.h"
#include "model/transformer.h"

namespace strata::testing {

// A folder of its own, removed at the end.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string read_bytes(const std::string& path);
void write_bytes(const std::string& path, const std::string& bytes);
// JSON arrays inside each other.
inline std::string nested(std::size_t levels) { return std::string(levels, '[') + std::string(levels, ']'); }

// Sets every parameter of the run from a Hugging Face folder.
Status load_weights(const std::string& hf_dir, const ModelConfig& config, ReferenceRun& run);
// The elements of the Hugging Face tensor inside our parameter's values, in the tensor's own order.
std::vector<float> hf_values(const HfTensor& tensor, std::span<const float> param);

// One folder of tests/vectors (written by tests/oracle/make_vectors.py).
struct VectorCase {
  explicit VectorCase(const std::string& name);
  ReferenceRun::Tokens batch(std::int64_t step) const;
  // Rows with a target.
  static std::int64_t counted(const ReferenceRun::Tokens& batch);
  std::vector<float> values(const std::string& tensor) const;

  std::string hf_dir;
  ModelConfig config;
  std::unique_ptr<Model> model;
  std::vector<HfTensor> mapping;
  SafetensorsFile file;
  nlohmann::json expected;
};
std::vector<std::string> vector_case_names();

double norm(std::span<const float> values);
// |a - b| / |b|
double relative_difference(std::span<const float> a, std::span<const float> b);
double cosine(std::span<const float> a, std::span<const float> b);
double max_difference(std::span<const float> a, std::span<const float> b);
// Sum of losses over the rows that count, divided by their number.
double mean_loss(const std::vector<float>& loss, std::int64_t counted);

// Small models of every kind, for tests that need no oracle.
ModelConfig tiny_gpt2();
ModelConfig tiny_llama();
ReferenceRun::Tokens random_tokens(std::int64_t B, std::int64_t T, std::int64_t V, std::uint64_t seed);

}  // namespace strata::testing
