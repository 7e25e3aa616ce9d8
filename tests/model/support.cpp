#include "support.h"

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "runtime/rng.h"

namespace strata::testing {

TempDir::TempDir() {
  std::string pattern = (std::filesystem::temp_directory_path() / "strata_model_XXXXXX").string();
  const char* made = ::mkdtemp(pattern.data());
  STRATA_CHECK(made != nullptr, "mkdtemp " + pattern);
  path_ = made;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string read_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

Status load_weights(const std::string& hf_dir, const ModelConfig& config, ReferenceRun& run) {
  const ParamSink copy = [&](int unit, int param, std::int64_t first, std::span<const float> values) {
    std::copy(values.begin(), values.end(), run.param(unit, param).begin() + first);
    return Status();
  };
  return import_hf(hf_dir, config, copy).status();
}

std::vector<float> hf_values(const HfTensor& tensor, std::span<const float> param) {
  const auto ours = param.subspan(static_cast<std::size_t>(tensor.first), static_cast<std::size_t>(tensor.numel()));
  std::vector<float> out(ours.begin(), ours.end());
  if (tensor.transposed) transpose(ours, tensor.rows, tensor.columns, out);
  return out;
}

namespace {

// STRATA_TEST_TREE: where the tree's files lie on a machine that only has the test programs.
std::string vectors_root() {
  const char* tree = std::getenv("STRATA_TEST_TREE");
  return std::string(tree != nullptr ? tree : STRATA_SOURCE_DIR) + "/tests/vectors";
}

SafetensorsFile open_or_throw(const std::string& path) {
  Result<SafetensorsFile> file = SafetensorsFile::open(path);
  throw_if_error(file.status());
  return std::move(file).value();
}

}  // namespace

VectorCase::VectorCase(const std::string& name)
    : hf_dir(vectors_root() + "/" + name + "/hf"),
      config(read_hf_config(hf_dir).value()),
      model(make_model(config).value()),
      mapping(hf_mapping(config).value()),
      file(open_or_throw(vectors_root() + "/" + name + "/vectors.safetensors")),
      expected(nlohmann::json::parse(read_bytes(vectors_root() + "/" + name + "/expected.json"))) {}

ReferenceRun::Tokens VectorCase::batch(std::int64_t step) const {
  ReferenceRun::Tokens out;
  const auto read = [&](const char* tensor, std::vector<std::int32_t>& to) {
    const SafetensorsInfo& info = *file.find(tensor);
    out.B = info.shape[1];
    out.T = info.shape[2];
    to.resize(static_cast<std::size_t>(out.B * out.T));
    throw_if_error(file.read(info, static_cast<std::uint64_t>(step) * to.size() * 4, std::as_writable_bytes(std::span(to))));
  };
  read("tokens", out.tokens);
  read("targets", out.targets);
  return out;
}

std::int64_t VectorCase::counted(const ReferenceRun::Tokens& batch) {
  return std::count_if(batch.targets.begin(), batch.targets.end(), [](std::int32_t t) { return t >= 0; });
}

std::vector<float> VectorCase::values(const std::string& tensor) const {
  const SafetensorsInfo* info = file.find(tensor);
  STRATA_CHECK(info != nullptr, "no vector " + tensor);
  std::vector<float> out(static_cast<std::size_t>(info->numel()));
  throw_if_error(file.read_f32(*info, 0, out));
  return out;
}

std::vector<std::string> vector_case_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(vectors_root()))
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

double norm(std::span<const float> values) {
  double sum = 0.0;
  for (const float v : values) sum += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(sum);
}

double relative_difference(std::span<const float> a, std::span<const float> b) {
  STRATA_CHECK(a.size() == b.size(), "sizes");
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
  return std::sqrt(sum) / norm(b);
}

double cosine(std::span<const float> a, std::span<const float> b) {
  STRATA_CHECK(a.size() == b.size(), "sizes");
  double dot = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) dot += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return dot / (norm(a) * norm(b));
}

double max_difference(std::span<const float> a, std::span<const float> b) {
  STRATA_CHECK(a.size() == b.size(), "sizes");
  double worst = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(d <= worst)) worst = d;  // also takes a NaN
  }
  return worst;
}

double mean_loss(const std::vector<float>& loss, std::int64_t counted) {
  double sum = 0.0;
  for (const float v : loss) sum += static_cast<double>(v);
  return sum / static_cast<double>(counted);
}

ModelConfig tiny_gpt2() {
  ModelConfig c;
  c.architecture = Architecture::gpt2;
  c.vocab_size = 37;
  c.hidden_size = 24;
  c.num_layers = 2;
  c.num_heads = c.num_kv_heads = 3;
  c.head_dim = 8;
  c.ffn_size = 40;
  c.max_positions = 32;
  c.tie_embeddings = true;
  return c;
}

ModelConfig tiny_llama() {
  ModelConfig c = tiny_gpt2();
  c.architecture = Architecture::llama;
  c.num_heads = 4;
  c.num_kv_heads = 2;
  c.head_dim = 6;
  c.tie_embeddings = false;
  return c;
}

ReferenceRun::Tokens random_tokens(std::int64_t B, std::int64_t T, std::int64_t V, std::uint64_t seed) {
  const Philox draw(seed, stream_id("test tokens"));
  ReferenceRun::Tokens out;
  out.B = B;
  out.T = T;
  for (std::int64_t i = 0; i < 2 * B * T; ++i) {
    const auto token = static_cast<std::int32_t>(draw.u32(static_cast<std::uint64_t>(i)) % static_cast<std::uint32_t>(V));
    (i < B * T ? out.tokens : out.targets).push_back(token);
  }
  return out;
}

}  // namespace strata::testing
