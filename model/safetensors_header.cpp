#include "model/safetensors_header.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "model/config.h"

namespace strata {
namespace {

using Json = nlohmann::json;

struct TypeRow {
  SafetensorsType type;
  const char* name;
  std::size_t size;
};

constexpr TypeRow kTypes[] = {
    {SafetensorsType::f64, "F64", 8},      {SafetensorsType::i64, "I64", 8},         {SafetensorsType::u64, "U64", 8},
    {SafetensorsType::f32, "F32", 4},      {SafetensorsType::i32, "I32", 4},         {SafetensorsType::u32, "U32", 4},
    {SafetensorsType::bf16, "BF16", 2},    {SafetensorsType::f16, "F16", 2},         {SafetensorsType::i16, "I16", 2},
    {SafetensorsType::u16, "U16", 2},      {SafetensorsType::i8, "I8", 1},           {SafetensorsType::u8, "U8", 1},
    {SafetensorsType::boolean, "BOOL", 1}, {SafetensorsType::f8_e4m3, "F8_E4M3", 1}, {SafetensorsType::f8_e5m2, "F8_E5M2", 1},
};

const TypeRow& row(SafetensorsType type) {
  for (const TypeRow& r : kTypes)
    if (r.type == type) return r;
  contract_violation("type", "not a safetensors type", std::source_location::current());
}

// numel * size, or nothing when it does not fit 63 bits or a dim is negative.
std::optional<std::uint64_t> byte_size(const std::vector<std::int64_t>& shape, std::size_t element) {
  if (std::any_of(shape.begin(), shape.end(), [](std::int64_t d) { return d < 0; })) return std::nullopt;
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  std::uint64_t bytes = element;
  constexpr std::uint64_t kMax = std::numeric_limits<std::int64_t>::max();
  for (const std::int64_t d : shape) {
    if (static_cast<std::uint64_t>(d) > kMax / bytes) return std::nullopt;
    bytes *= static_cast<std::uint64_t>(d);
  }
  return bytes;
}

// Remembers the keys of every open object, because a parsed object silently keeps the last of two equal keys. Throws where the
// text nests deeper than a header can: it may be 100 MB of brackets.
class DuplicateKeys {
 public:
  struct TooDeep {};
  bool operator()(int depth, Json::parse_event_t event, Json& parsed) {
    const bool opens = event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start;
    if (opens && depth >= kMaxJsonDepth) throw TooDeep();
    if (event == Json::parse_event_t::object_start) open_.emplace_back();
    if (event == Json::parse_event_t::object_end && !open_.empty()) open_.pop_back();
    if (event == Json::parse_event_t::key && !open_.empty()) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!open_.back().insert(key).second && !found) found = key;
    }
    return true;
  }
  std::optional<std::string> found;

 private:
  std::vector<std::set<std::string>> open_;
};

class HeaderParser {
 public:
  HeaderParser(std::uint64_t data_bytes, const std::string& path) : data_bytes_(data_bytes), path_(path) {}

  Result<SafetensorsHeader> parse(std::string_view text) {
    if (text.empty() || text.front() != '{') return corrupt("the header is not a JSON object");
    Json json;
    DuplicateKeys duplicates;
    try {
      json = Json::parse(text.begin(), text.end(), std::ref(duplicates));
    } catch (const Json::exception& error) {
      return corrupt("the header is not valid JSON: " + std::string(error.what()));
    } catch (const DuplicateKeys::TooDeep&) {
      return corrupt("the header nests deeper than " + std::to_string(kMaxJsonDepth));
    }
    if (duplicates.found) return corrupt("the header has the key '" + *duplicates.found + "' twice");
    SafetensorsHeader header;
    for (const auto& [name, value] : json.items()) {
      if (name == "__metadata__") {
        STRATA_RETURN_IF_ERROR(read_metadata(value, header));
      } else {
        STRATA_ASSIGN_OR_RETURN(SafetensorsInfo info, read_tensor(name, value));
        header.tensors.push_back(std::move(info));
      }
    }
    std::stable_sort(header.tensors.begin(), header.tensors.end(), [](const SafetensorsInfo& a, const SafetensorsInfo& b) {
      return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    STRATA_RETURN_IF_ERROR(check_coverage(header.tensors));
    return header;
  }

 private:
  Status corrupt(const std::string& what) const { return {Code::corrupt, path_ + ": " + what}; }

  Status read_metadata(const Json& value, SafetensorsHeader& header) const {
    if (!value.is_object()) return corrupt("__metadata__ is not an object");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) return corrupt("__metadata__ key '" + key + "' is not a string");
      header.metadata[key] = text.get<std::string>();
    }
    return {};
  }

  // A list of integers in [0, 2^63).
  static std::optional<std::vector<std::int64_t>> read_integers(const Json& object, const char* key) {
    const auto it = object.find(key);
    if (it == object.end() || !it->is_array()) return std::nullopt;
    std::vector<std::int64_t> out;
    for (const Json& d : *it) {
      if (!d.is_number_unsigned()) return std::nullopt;
      if (d.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return std::nullopt;
      out.push_back(d.get<std::int64_t>());
    }
    return out;
  }

  Result<SafetensorsInfo> read_tensor(const std::string& name, const Json& value) const {
    const std::string tensor = "tensor '" + name + "'";
    if (!value.is_object()) return corrupt(tensor + ": its header entry is not an object");
    const auto dtype = value.find("dtype");
    if (dtype == value.end() || !dtype->is_string()) return corrupt(tensor + ": no dtype");
    const auto type_row = std::find_if(std::begin(kTypes), std::end(kTypes),
                                       [&](const TypeRow& r) { return dtype->get_ref<const std::string&>() == r.name; });
    if (type_row == std::end(kTypes))
      return Status(Code::unsupported, path_ + ": " + tensor + ": unknown dtype " + dtype->dump());
    auto shape = read_integers(value, "shape");
    if (!shape) return corrupt(tensor + ": shape is not a list of non-negative integers");
    const auto offsets = read_integers(value, "data_offsets");
    if (!offsets || offsets->size() != 2) return corrupt(tensor + ": data_offsets is not a pair of non-negative integers");
    SafetensorsInfo info{name, type_row->type, std::move(*shape), static_cast<std::uint64_t>((*offsets)[0]),
                         static_cast<std::uint64_t>((*offsets)[1])};
    STRATA_RETURN_IF_ERROR(check_range(info));
    return info;
  }

  Status check_range(const SafetensorsInfo& info) const {
    const std::string where =
        "tensor '" + info.name + "': data_offsets [" + std::to_string(info.begin) + ", " + std::to_string(info.end) + "]";
    if (info.begin > info.end) return corrupt(where + " end before they begin");
    if (info.end > data_bytes_)
      return corrupt(where + " reach beyond the file, which has " + std::to_string(data_bytes_) + " bytes of data");
    const auto want = byte_size(info.shape, size_of(info.type));
    if (!want || *want != info.bytes())
      return corrupt(where + " hold " + std::to_string(info.bytes()) + " bytes, but shape " + shape_string(info.shape) +
                     " of " + to_string(info.type) + " needs " + (want ? std::to_string(*want) : "more than 2^63"));
    return {};
  }

  Status check_coverage(const std::vector<SafetensorsInfo>& tensors) const {
    std::uint64_t position = 0;
    for (const SafetensorsInfo& t : tensors) {
      if (t.begin != position)
        return corrupt("tensor '" + t.name + "' begins at data offset " + std::to_string(t.begin) +
                       (t.begin < position ? ", inside the tensor before it, which ends at "
                                           : ", behind a hole: the tensor before it ends at ") +
                       std::to_string(position));
      position = t.end;
    }
    if (position != data_bytes_)
      return corrupt("the header describes " + std::to_string(position) + " bytes of data, the file has " +
                     std::to_string(data_bytes_));
    return {};
  }

  std::uint64_t data_bytes_;
  const std::string& path_;
};

}  // namespace

std::size_t size_of(SafetensorsType type) { return row(type).size; }
const char* to_string(SafetensorsType type) { return row(type).name; }

SafetensorsType safetensors_type(DType dtype) {
  switch (dtype) {
    case DType::f32: return SafetensorsType::f32;
    case DType::bf16: return SafetensorsType::bf16;
    case DType::f16: return SafetensorsType::f16;
    case DType::i32: return SafetensorsType::i32;
  }
  contract_violation("dtype", "not a dtype", std::source_location::current());
}

std::optional<DType> to_dtype(SafetensorsType type) {
  switch (type) {
    case SafetensorsType::f32: return DType::f32;
    case SafetensorsType::bf16: return DType::bf16;
    case SafetensorsType::f16: return DType::f16;
    case SafetensorsType::i32: return DType::i32;
    default: return std::nullopt;
  }
}

std::int64_t SafetensorsInfo::numel() const { return static_cast<std::int64_t>(bytes() / size_of(type)); }

std::string shape_string(std::span<const std::int64_t> shape) {
  std::string s = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + "]";
}

Result<SafetensorsHeader> parse_safetensors_header(std::string_view text, std::uint64_t data_bytes, const std::string& path) {
  return HeaderParser(data_bytes, path).parse(text);
}

Result<std::vector<SafetensorsInfo>> layout_safetensors(std::vector<SafetensorsDecl> tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const SafetensorsDecl& a, const SafetensorsDecl& b) {
    const std::size_t size_a = size_of(a.type), size_b = size_of(b.type);
    return size_a != size_b ? size_a > size_b : a.name < b.name;
  });
  std::vector<SafetensorsInfo> out;
  std::set<std::string_view> names;
  std::uint64_t position = 0;
  for (const SafetensorsDecl& t : tensors) {
    if (!names.insert(t.name).second || t.name == "__metadata__")
      return Status(Code::invalid_argument, "tensor name '" + t.name + "' cannot be used (again) in one safetensors file");
    const auto bytes = byte_size(t.shape, size_of(t.type));
    if (!bytes || *bytes > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) - position)
      return Status(Code::invalid_argument, "tensor '" + t.name + "': shape " + shape_string(t.shape) + " is not possible");
    out.push_back({t.name, t.type, t.shape, position, position + *bytes});
    position += *bytes;
  }
  return out;
}

std::string print_safetensors_header(const std::vector<SafetensorsInfo>& tensors,
                                     const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (!metadata.empty()) json["__metadata__"] = metadata;
  for (const SafetensorsInfo& t : tensors)
    json[t.name] = {{"dtype", to_string(t.type)}, {"shape", t.shape}, {"data_offsets", {t.begin, t.end}}};
  // Names that are not UTF-8 cannot be stored as they are; they are replaced rather than thrown about.
  std::string text = json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

}  // namespace strata
