#include "trainer/checkpoint/manifest.h"

#include <xxhash.h>

#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "model/config.h"
#include "model/text_file.h"

namespace strata {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "strata-checkpoint";
constexpr int kVersion = 2;

json shape_to_json(const Shape& shape) {
  json dims = json::array();
  for (int i = 0; i < shape.rank(); ++i) dims.push_back(shape[i]);
  return dims;
}

Shape shape_from_json(const json& dims) {
  const auto d = dims.get<std::vector<std::int64_t>>();
  switch (d.size()) {
    case 0: return {};
    case 1: return {d[0]};
    case 2: return {d[0], d[1]};
    case 3: return {d[0], d[1], d[2]};
    case 4: return {d[0], d[1], d[2], d[3]};
    default: throw std::invalid_argument("a shape has more than four dims");
  }
}

}  // namespace

std::string manifest_to_json(const Manifest& manifest) {
  json j = {{"format", kFormat},
            {"version", kVersion},
            {"step", manifest.step},
            {"samples", manifest.samples},
            {"seed", manifest.seed},
            {"world_size", manifest.world_size},
            {"seq_length", manifest.data.seq_length},
            {"samples_per_epoch", manifest.data.samples_per_epoch},
            {"hf_dtype", manifest.hf_dtype},
            {"optimizer", manifest.optimizer},
            {"states", manifest.states},
            {"choice_rule", manifest.choice_rule},
            {"choice", manifest.choice},
            {"freeze_rule", manifest.freeze_rule},
            {"trained", manifest.trained},
            {"model", manifest.model_json.empty() ? json() : json::parse(manifest.model_json)},
            {"parameters", json::array()},
            {"files", json::array()}};
  if (manifest.format != kF32States) j["state_dtype"] = to_string(manifest.format);
  if (!manifest.unit_distances.empty()) {
    j["unit_updates"] = manifest.unit_updates;
    j["unit_distances"] = manifest.unit_distances;
  }
  for (const CheckpointParam& p : manifest.params) {
    json param = {{"name", p.name}, {"shape", shape_to_json(p.shape)}};
    if (p.states >= 0) param["states"] = p.states;
    if (!p.memory.empty()) param["memory"] = p.memory;
    if (p.transposed) param["transposed"] = true;
    if (p.projections > 0) param["projections"] = p.projections;
    j["parameters"].push_back(std::move(param));
  }
  for (const CheckpointFile& f : manifest.files)
    j["files"].push_back({{"name", f.name}, {"bytes", f.bytes}, {"checksums", f.checksums}});
  return j.dump(1) + "\n";
}

Result<Manifest> manifest_from_json(const std::string& text, const std::string& path) {
  try {
    STRATA_ASSIGN_OR_RETURN(const json j, parse_json(text, path));
    if (j.at("format") != kFormat) return Status(Code::corrupt, path + ": not a checkpoint manifest (format)");
    if (j.at("version") != kVersion)
      return Status(Code::unsupported, path + ": checkpoint version " + j.at("version").dump() +
                                           "; this program reads version " + std::to_string(kVersion));
    Manifest m;
    j.at("step").get_to(m.step);
    j.at("samples").get_to(m.samples);
    j.at("seed").get_to(m.seed);
    j.at("world_size").get_to(m.world_size);
    j.at("seq_length").get_to(m.data.seq_length);
    j.at("samples_per_epoch").get_to(m.data.samples_per_epoch);
    j.at("hf_dtype").get_to(m.hf_dtype);
    j.at("optimizer").get_to(m.optimizer);
    j.at("states").get_to(m.states);
    const std::string format = j.value("state_dtype", std::string(to_string(kF32States)));
    if (!state_format_of(format)) return Status(Code::unsupported, path + ": this program has no state_dtype " + format);
    m.format = *state_format_of(format);
    j.at("choice_rule").get_to(m.choice_rule);
    j.at("choice").get_to(m.choice);
    m.freeze_rule = j.value("freeze_rule", std::string());
    m.trained = j.value("trained", std::vector<std::string>());
    m.unit_updates = j.value("unit_updates", std::vector<std::int64_t>());
    m.unit_distances = j.value("unit_distances", std::vector<double>());
    if (!j.at("model").is_null()) m.model_json = j.at("model").dump();
    for (const json& p : j.at("parameters"))
      m.params.push_back({p.at("name").get<std::string>(), shape_from_json(p.at("shape")), p.value("states", std::int64_t{-1}),
                          p.value("transposed", false), p.value("memory", std::vector<double>()),
                          p.value("projections", std::int64_t{0})});
    for (const json& f : j.at("files"))
      m.files.push_back({f.at("name").get<std::string>(), f.at("bytes").get<std::uint64_t>(),
                         f.at("checksums").get<std::vector<std::string>>()});
    return m;
  } catch (const std::exception& error) {
    return Status(Code::corrupt, path + ": damaged checkpoint manifest: " + error.what());
  }
}

Result<Manifest> read_manifest(const std::string& checkpoint_dir) {
  const std::string path = checkpoint_dir + "/manifest.json";
  Result<std::string> text = read_text_file(path);
  if (!text.ok()) return Status(Code::not_found, "no checkpoint at " + checkpoint_dir + ": " + text.status().message());
  return manifest_from_json(*text, path);
}

SafetensorsType stored_type(const StateFormat& format) {
  if (format == kEightBitStates) return SafetensorsType::u8;
  return format == kBf16States ? SafetensorsType::bf16 : SafetensorsType::f32;
}

std::string format_slice_name(const SliceName& name) {
  char sequence[24];
  std::snprintf(sequence, sizeof sequence, "%010lld", static_cast<long long>(name.sequence));
  return std::string(sequence) + "/" + name.state + "/" + std::to_string(name.first) + "/" + name.param;
}

Result<SliceName> parse_slice_name(const std::string& text) {
  SliceName name;
  const std::size_t a = text.find('/');
  const std::size_t b = a == std::string::npos ? a : text.find('/', a + 1);
  const std::size_t c = b == std::string::npos ? b : text.find('/', b + 1);
  const Status bad(Code::corrupt, "\"" + text + "\" is not the name of a checkpoint slice");
  if (c == std::string::npos || b == a + 1) return bad;
  const auto number = [&](std::size_t from, std::size_t to, std::int64_t* out) {
    const auto [end, error] = std::from_chars(text.data() + from, text.data() + to, *out);
    return error == std::errc() && end == text.data() + to && *out >= 0;
  };
  if (!number(0, a, &name.sequence) || !number(b + 1, c, &name.first)) return bad;
  name.state = text.substr(a + 1, b - a - 1);
  name.param = text.substr(c + 1);
  return name;
}

std::string checksum_hex(const void* data, std::size_t bytes) {
  char text[24];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(XXH3_64bits(data, bytes)));
  return text;
}

}  // namespace strata
