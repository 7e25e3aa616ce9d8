// Import and export of Hugging Face folders. Mutations these catch: a swapped piece of a fused parameter, a missing transpose,
// a check left out, a shard boundary that loses a tensor.
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "support.h"

namespace {
std::vector<std::string>& flushed_paths() {
  static std::vector<std::string> paths;
  return paths;
}
}  // namespace

// In place of the C library's: notes which files are flushed.
extern "C" int fsync(int fd) {
  std::array<char, 4096> path{};
  if (::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path.data(), path.size() - 1) > 0)
    flushed_paths().emplace_back(path.data());
  return static_cast<int>(::syscall(SYS_fsync, fd));
}

namespace strata::testing {
namespace {

using Json = nlohmann::json;

// All parameters of a folder in memory.
class Weights {
 public:
  explicit Weights(const ModelConfig& config) {
    const std::unique_ptr<Model> model = make_model(config).value();
    for (int u = 0; u < model->unit_count(); ++u) {
      int p = 0;
      for (const ParamSpec& spec : model->unit(u).params())
        values_[{u, p++}].resize(static_cast<std::size_t>(spec.shape.numel()));
    }
  }
  ParamSink sink() {
    return [this](int u, int p, std::int64_t first, std::span<const float> v) {
      std::vector<float>& to = values_.at({u, p});
      std::int64_t& received = received_[{u, p}];
      EXPECT_EQ(first, received) << "slices ascend";
      received += static_cast<std::int64_t>(v.size());
      std::copy(v.begin(), v.end(), to.begin() + first);
      return Status();
    };
  }
  ParamSource source() {
    return [this](int u, int p, std::int64_t first, std::span<float> v) {
      const std::vector<float>& from = values_.at({u, p});
      std::copy_n(from.begin() + first, v.size(), v.begin());
      return Status();
    };
  }
  bool complete() const {
    for (const auto& [key, v] : values_)
      if (!received_.contains(key) || received_.at(key) != static_cast<std::int64_t>(v.size())) return false;
    return true;
  }

 private:
  std::map<std::pair<int, int>, std::vector<float>> values_;
  std::map<std::pair<int, int>, std::int64_t> received_;
};

std::set<std::string> names_in(const std::string& dir) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) names.insert(entry.path().filename());
  return names;
}

std::map<std::string, std::string> tensors_of(const std::string& dir) {
  std::map<std::string, std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    if (entry.path().extension() != ".safetensors") continue;
    const SafetensorsFile file = SafetensorsFile::open(entry.path()).value();
    for (const SafetensorsInfo& t : file.tensors()) {
      std::string bytes(t.bytes(), '\0');
      throw_if_error(file.read(t, 0, std::as_writable_bytes(std::span(bytes))));
      EXPECT_TRUE(out.try_emplace(t.name, to_string(t.type) + shape_string(t.shape) + bytes).second) << t.name;
    }
  }
  return out;
}

DType dtype_of(const std::string& dir) {
  return *to_dtype(SafetensorsFile::open(dir + "/model.safetensors").value().tensors().front().type);
}

class HfFolders : public ::testing::TestWithParam<std::string> {};

TEST_P(HfFolders, ImportThenExportGivesTheSameTensors) {
  const VectorCase c(GetParam());
  Weights weights(c.config);
  throw_if_error(import_hf(c.hf_dir, c.config, weights.sink()).status());
  EXPECT_TRUE(weights.complete());
  const TempDir dir;
  throw_if_error(export_hf(dir / "out", c.config, weights.source(), {.dtype = dtype_of(c.hf_dir), .tokenizer_from = {}}));
  EXPECT_EQ(tensors_of(dir / "out"), tensors_of(c.hf_dir));
  EXPECT_EQ(read_hf_config(dir / "out").value(), c.config);
}

TEST_P(HfFolders, ShardedExportIsImportedAgain) {
  const VectorCase c(GetParam());
  Weights weights(c.config), again(c.config);
  throw_if_error(import_hf(c.hf_dir, c.config, weights.sink()).status());
  const TempDir dir;
  HfExportOptions options{.dtype = dtype_of(c.hf_dir), .tokenizer_from = {}, .max_shard_bytes = 20000, .fsync = false};
  throw_if_error(export_hf(dir / "a", c.config, weights.source(), options));
  EXPECT_FALSE(std::filesystem::exists(dir / "a/model.safetensors"));
  EXPECT_TRUE(std::filesystem::exists(dir / "a/model.safetensors.index.json"));
  EXPECT_EQ(tensors_of(dir / "a"), tensors_of(c.hf_dir));
  throw_if_error(import_hf(dir / "a", c.config, again.sink()).status());
  EXPECT_TRUE(again.complete());
  options.max_shard_bytes = std::uint64_t{1} << 40;
  throw_if_error(export_hf(dir / "b", c.config, again.source(), options));
  EXPECT_EQ(tensors_of(dir / "b"), tensors_of(c.hf_dir));
}

INSTANTIATE_TEST_SUITE_P(Vectors, HfFolders, ::testing::ValuesIn(vector_case_names()),
                         [](const auto& test) { return test.param; });

// A folder whose tensors a test can change before it is written.
struct Folder {
  explicit Folder(const std::string& from) : config_text(read_bytes(from + "/config.json")) {
    const SafetensorsFile file = SafetensorsFile::open(from + "/model.safetensors").value();
    for (const SafetensorsInfo& t : file.tensors()) {
      tensors[t.name] = {t.type, t.shape, std::string(t.bytes(), '\0')};
      throw_if_error(file.read(t, 0, std::as_writable_bytes(std::span(tensors[t.name].bytes))));
    }
  }
  struct Entry {
    SafetensorsType type;
    std::vector<std::int64_t> shape;
    std::string bytes;
  };
  void add(const std::string& name, SafetensorsType type, std::vector<std::int64_t> shape) {
    std::size_t n = size_of(type);
    for (const std::int64_t d : shape) n *= static_cast<std::size_t>(d);
    tensors[name] = {type, std::move(shape), std::string(n, '\0')};
  }
  void write(const std::string& path) const {
    std::vector<SafetensorsDecl> declarations;
    for (const auto& [name, t] : tensors) declarations.push_back({name, t.type, t.shape});
    SafetensorsWriter writer = SafetensorsWriter::create(path, declarations, {}).value();
    for (const SafetensorsInfo& info : writer.tensors())
      throw_if_error(writer.append(info.name, std::as_bytes(std::span(tensors.at(info.name).bytes))));
    throw_if_error(writer.finish(false));
  }
  // Imports the folder as it is now.
  Status import(Weights* weights = nullptr) const {
    const TempDir dir;
    write(dir / "model.safetensors");
    const ModelConfig config = model_config_from_hf(Json::parse(config_text), "t").value();
    Weights own(config);
    return import_hf(dir.path(), config, (weights != nullptr ? *weights : own).sink()).status();
  }
  std::string config_text;
  std::map<std::string, Entry> tensors;
};

std::string folder_of(const char* name) { return std::string(STRATA_SOURCE_DIR) + "/tests/vectors/" + name + "/hf"; }

void expect_error(const Status& status, Code code, const std::string& tensor) {
  EXPECT_EQ(status.code(), code) << status.message();
  EXPECT_NE(status.message().find("'" + tensor + "'"), std::string::npos) << status.message();
}

TEST(HfImport, EveryMissingTensorIsNamed) {
  for (const char* name : {"gpt2", "llama_gqa_untied", "qwen2_bias", "qwen3_qk_norm"}) {
    const Folder whole(folder_of(name));
    for (const auto& [tensor, entry] : whole.tensors) {
      Folder folder = whole;
      folder.tensors.erase(tensor);
      expect_error(folder.import(), Code::not_found, tensor);
    }
  }
}

TEST(HfImport, EveryMisshapedTensorIsNamed) {
  for (const char* name : {"gpt2", "llama_gqa_untied"}) {
    const Folder whole(folder_of(name));
    for (const auto& [tensor, entry] : whole.tensors) {
      Folder folder = whole;
      std::vector<std::int64_t> shape = entry.shape;
      if (shape.size() == 2 && shape[0] != shape[1])
        std::swap(shape[0], shape[1]);
      else
        shape.push_back(1);
      folder.add(tensor, entry.type, shape);
      expect_error(folder.import(), Code::corrupt, tensor);
    }
  }
}

TEST(HfImport, ExtraTensorsAreNamed) {
  Folder folder(folder_of("llama_gqa_untied"));
  folder.add("model.layers.2.input_layernorm.weight", SafetensorsType::f32, {48});
  expect_error(folder.import(), Code::unsupported, "model.layers.2.input_layernorm.weight");
  Folder biased(folder_of("llama_gqa_untied"));
  biased.add("model.layers.0.self_attn.o_proj.bias", SafetensorsType::f32, {48});
  expect_error(biased.import(), Code::unsupported, "model.layers.0.self_attn.o_proj.bias");
}

TEST(HfImport, IntegerWeightsAreNamedBeforeAnyValueIsDelivered) {
  Folder folder(folder_of("llama_gqa_untied"));
  folder.add("model.norm.weight", SafetensorsType::i8, {48});
  const TempDir dir;
  folder.write(dir / "model.safetensors");
  int delivered = 0;
  const auto config = model_config_from_hf(Json::parse(folder.config_text), "t").value();
  const ParamSink count = [&](int, int, std::int64_t, std::span<const float>) {
    ++delivered;
    return Status();
  };
  const Status status = import_hf(dir.path(), config, count).status();
  expect_error(status, Code::unsupported, "model.norm.weight");
  EXPECT_EQ(delivered, 0);
}

TEST(HfImport, KnownBuffersAndTheSecondCopyOfATiedHeadArePassedOver) {
  Folder gpt2(folder_of("gpt2"));
  gpt2.add("transformer.h.0.attn.bias", SafetensorsType::u8, {1, 1, 160, 160});
  gpt2.add("transformer.h.1.attn.masked_bias", SafetensorsType::f32, {});
  gpt2.add("lm_head.weight", SafetensorsType::f32, {131, 48});
  EXPECT_TRUE(gpt2.import().ok()) << gpt2.import().message();
  Folder llama(folder_of("llama_tied_head80"));
  llama.add("model.layers.0.self_attn.rotary_emb.inv_freq", SafetensorsType::f32, {40});
  llama.add("lm_head.weight", SafetensorsType::bf16, {131, 48});
  EXPECT_TRUE(llama.import().ok()) << llama.import().message();
}

TEST(HfImport, Gpt2NamesNeedNoPrefix) {
  Folder folder(folder_of("gpt2"));
  std::map<std::string, Folder::Entry> bare;
  for (const auto& [name, entry] : folder.tensors) bare[name.substr(std::string("transformer.").size())] = entry;
  folder.tensors = bare;
  Weights weights(model_config_from_hf(Json::parse(folder.config_text), "t").value());
  EXPECT_TRUE(folder.import(&weights).ok());
  EXPECT_TRUE(weights.complete());
  folder.tensors["transformer.wte.weight"] = folder.tensors["wte.weight"];
  expect_error(folder.import(), Code::corrupt, "wte.weight");
}

TEST(HfImport, WrongIndexesAreErrors) {
  const TempDir dir;
  const ModelConfig config = read_hf_config(folder_of("gpt2")).value();
  Weights weights(config);
  const auto status = [&](const std::string& index) {
    write_bytes(dir / "model.safetensors.index.json", index);
    return import_hf(dir.path(), config, weights.sink()).status();
  };
  EXPECT_EQ(import_hf(dir.path(), config, weights.sink()).status().code(), Code::not_found);
  EXPECT_EQ(import_hf(dir / "none", config, weights.sink()).status().code(), Code::not_found);
  EXPECT_EQ(status("{").code(), Code::corrupt);
  EXPECT_EQ(status("[]").code(), Code::corrupt);
  EXPECT_EQ(status("{}").code(), Code::corrupt);
  EXPECT_EQ(status(R"({"weight_map":{"a":1}})").code(), Code::corrupt);
  EXPECT_EQ(status(R"({"weight_map":{"a":"../x.safetensors"}})").code(), Code::corrupt);
  EXPECT_EQ(status(R"({"weight_map":{"a":"x.safetensors"}})").code(), Code::not_found);
  EXPECT_EQ(status(R"({"weight_map":{"a":)" + nested(200'000) + "}}").code(), Code::corrupt);
  EXPECT_EQ(status(R"({"weight_map":)" + nested(200'000) + "}").code(), Code::corrupt);
  EXPECT_EQ(read_hf_config(dir.path()).status().code(), Code::not_found);
  const Folder folder(folder_of("gpt2"));
  folder.write(dir / "x.safetensors");
  folder.write(dir / "y.safetensors");
  const Status twice = status(R"({"weight_map":{"a":"x.safetensors","b":"y.safetensors"}})");
  EXPECT_EQ(twice.code(), Code::corrupt);
  EXPECT_NE(twice.message().find("is also in"), std::string::npos) << twice.message();
}

TEST(HfImport, ASinksErrorEndsTheImport) {
  const VectorCase c("gpt2");
  int calls = 0;
  const ParamSink third_fails = [&](int, int, std::int64_t, std::span<const float>) {
    return ++calls == 3 ? Status(Code::io_error, "enough") : Status();
  };
  EXPECT_EQ(import_hf(c.hf_dir, c.config, third_fails).status().message(), "enough");
  EXPECT_EQ(calls, 3);
}

TEST(HfExport, TokenizerFilesAndTokenIdsGoAlong) {
  const VectorCase c("gpt2");
  Weights weights(c.config);
  throw_if_error(import_hf(c.hf_dir, c.config, weights.sink()).status());
  const TempDir dir;
  std::filesystem::create_directory(dir / "from");
  write_bytes(dir / "from/tokenizer.json", "{}");
  write_bytes(dir / "from/merges.txt", "a b");
  write_bytes(dir / "from/config.json", R"({"eos_token_id":[1,2],"hidden_size":3})");
  throw_if_error(export_hf(dir / "out", c.config, weights.source(), {.dtype = DType::bf16, .tokenizer_from = dir / "from"}));
  EXPECT_EQ(read_bytes(dir / "out/tokenizer.json"), "{}");
  EXPECT_EQ(read_bytes(dir / "out/merges.txt"), "a b");
  const Json json = Json::parse(read_bytes(dir / "out/config.json"));
  EXPECT_EQ(json["eos_token_id"], Json({1, 2}));
  EXPECT_FALSE(json.contains("hidden_size"));
  EXPECT_EQ(json["torch_dtype"], "bfloat16");
}

TEST(HfExport, AFolderThatHoldsAModelIsRefusedAndUntouched) {
  const VectorCase c("gpt2");
  Weights weights(c.config);
  const TempDir dir;
  write_bytes(dir / "config.json", "mine");
  EXPECT_EQ(export_hf(dir.path(), c.config, weights.source(), {}).code(), Code::invalid_argument);
  EXPECT_EQ(read_bytes(dir / "config.json"), "mine");
  EXPECT_FALSE(std::filesystem::exists(dir / "model.safetensors"));
}

// What the user had in the folder stays, byte for byte, whether the export is refused or fails.
TEST(HfExport, TheUsersTokenizerAndWeightsAreRefusedAndUntouched) {
  const VectorCase c("gpt2");
  Weights weights(c.config);
  for (const char* name : {"tokenizer.json", "merges.txt", "other.safetensors", "model.safetensors.index.json"}) {
    const TempDir dir;
    std::filesystem::create_directories(dir / "from");
    std::filesystem::create_directories(dir / "out");
    write_bytes(dir / "from/tokenizer.json", "theirs");
    write_bytes(dir / "out" + "/" + name, "mine");
    const Status status =
        export_hf(dir / "out", c.config, weights.source(), {.dtype = DType::f32, .tokenizer_from = dir / "from"});
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_NE(status.message().find(dir / "out" + "/" + name), std::string::npos) << status.message();
    EXPECT_EQ(read_bytes(dir / "out" + "/" + name), "mine");
    EXPECT_EQ(names_in(dir / "out"), std::set<std::string>{name});
  }
}

TEST(HfExport, ATokenizerThatIsNotReplacedSurvivesAFailure) {
  const VectorCase c("gpt2");
  const TempDir dir;
  write_bytes(dir / "tokenizer.json", "mine");
  const ParamSource failing = [](int, int, std::int64_t, std::span<float>) { return Status(Code::io_error, "gone"); };
  EXPECT_EQ(export_hf(dir.path(), c.config, failing, {.dtype = DType::f32, .tokenizer_from = {}}).message(), "gone");
  EXPECT_EQ(read_bytes(dir / "tokenizer.json"), "mine");
  EXPECT_EQ(names_in(dir.path()), std::set<std::string>{"tokenizer.json"});
}

TEST(HfExport, OneFolderCannotBeSourceOfTheTokenizerAndTarget) {
  const VectorCase c("gpt2");
  Weights weights(c.config);
  const TempDir dir;
  write_bytes(dir / "tokenizer.json", "mine");
  std::filesystem::create_directory_symlink(dir.path(), dir / "alias");
  for (const std::string& from : {dir.path(), dir / ".", dir / "alias"}) {
    const Status status = export_hf(dir.path(), c.config, weights.source(), {.dtype = DType::f32, .tokenizer_from = from});
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_NE(status.message().find("another folder"), std::string::npos) << status.message();
  }
  EXPECT_EQ(read_bytes(dir / "tokenizer.json"), "mine");
}

TEST(HfExport, EveryFileAndTheFolderReachTheDeviceAndConfigComesLast) {
  const VectorCase c("gpt2");
  Weights weights(c.config);
  const TempDir dir;
  std::filesystem::create_directory(dir / "from");
  write_bytes(dir / "from/tokenizer.json", "{}");
  HfExportOptions options{.dtype = DType::f32, .tokenizer_from = dir / "from", .max_shard_bytes = 20000};
  flushed_paths().clear();
  throw_if_error(export_hf(dir / "out", c.config, weights.source(), options));
  const std::vector<std::string> flushed = std::move(flushed_paths());
  const std::string out = std::filesystem::canonical(dir / "out");
  for (const std::string& name : names_in(out))
    EXPECT_EQ(std::count(flushed.begin(), flushed.end(), out + "/" + name), 1) << name;
  const std::vector<std::string> end = {out, out + "/config.json", out, std::filesystem::canonical(dir.path())};
  ASSERT_GE(flushed.size(), end.size());
  EXPECT_EQ(std::vector<std::string>(flushed.end() - 4, flushed.end()), end);
  flushed_paths().clear();
  options.fsync = false;
  throw_if_error(export_hf(dir / "quick", c.config, weights.source(), options));
  EXPECT_TRUE(flushed_paths().empty());
}

TEST(HfExport, FailuresLeaveNoModelBehind) {
  const VectorCase c("gpt2");
  Weights weights(c.config);
  const TempDir dir;
  int calls = 0;
  const ParamSource failing = [&](int u, int p, std::int64_t first, std::span<float> v) {
    return ++calls == 9 ? Status(Code::io_error, "gone") : weights.source()(u, p, first, v);
  };
  EXPECT_EQ(export_hf(dir.path(), c.config, failing,
                      {.dtype = DType::f32, .tokenizer_from = {}, .max_shard_bytes = 20000, .fsync = false})
                .message(),
            "gone");
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  EXPECT_EQ(export_hf(dir.path(), c.config, weights.source(), {.dtype = DType::f32, .tokenizer_from = dir / "none"}).code(),
            Code::not_found);
  write_bytes(dir / "file", "");
  EXPECT_EQ(export_hf(dir / "file", c.config, weights.source(), {}).code(), Code::io_error);
}

}  // namespace
}  // namespace strata::testing
