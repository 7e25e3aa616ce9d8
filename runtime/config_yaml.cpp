#include "runtime/config_yaml.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <map>
#include <string_view>

namespace strata {
namespace {

constexpr int kMaxDepth = 16;             // sections within sections
constexpr std::size_t kMaxNodes = 20000;  // an alias of an alias of ... would multiply without end

class Flattener {
 public:
  Flattener(const std::string& name, bool with_lines) : name_(name), with_lines_(with_lines) {}

  void document(const YAML::Node& root) {
    if (!root.IsDefined() || root.IsNull()) return;
    if (!root.IsMap()) {
      problem(where(root), "expected a map of sections, found " + kind(root));
      return;
    }
    map(root, "", 0);
  }

  void value(const YAML::Node& node, const std::string& path, int depth) {
    if (++nodes_ > kMaxNodes || depth > kMaxDepth) {
      if (nodes_ <= kMaxNodes || !overflowed_) problem(where(node), "nested too deep or too large to be a configuration");
      overflowed_ = true;
      return;
    }
    if (node.IsMap() && node.size() > 0) return map(node, path, depth);
    YamlEntry entry{path, {}, where(node)};
    if (node.IsScalar()) {
      entry.value = scalar(node);
    } else if (node.IsSequence()) {
      entry.value.kind = ConfigValue::Kind::list;
      if (!items(node, path, entry.value)) return;
    } else {
      entry.value.kind = ConfigValue::Kind::empty;
    }
    out_.entries.push_back(std::move(entry));
  }

  void problem(const std::string& where, const std::string& what) { out_.problems.push_back(where + ": " + what); }
  std::string where(const YAML::Mark& mark) const {
    return with_lines_ && mark.line >= 0 ? fmt::format("{}:{}", name_, mark.line + 1) : name_;
  }
  YamlDocument take() { return std::move(out_); }

 private:
  std::string where(const YAML::Node& node) const { return where(node.Mark()); }

  static std::string kind(const YAML::Node& node) {
    return node.IsScalar()     ? fmt::format("\"{}\"", node.Scalar())
           : node.IsSequence() ? "a list"
           : node.IsMap()      ? "a map"
                               : "nothing";
  }

  static ConfigValue scalar(const YAML::Node& node) {
    ConfigValue value;
    value.text = node.Scalar();
    value.quoted = node.Tag() == "!";
    return value;
  }

  bool items(const YAML::Node& node, const std::string& path, ConfigValue& list) {
    for (const YAML::Node& item : node) {
      if (++nodes_ > kMaxNodes || !item.IsScalar()) {
        problem(where(item), fmt::format("{}: every item of the list must be a single value, found {}", path, kind(item)));
        return false;
      }
      list.items.push_back(scalar(item));
    }
    return true;
  }

  void map(const YAML::Node& node, const std::string& path, int depth) {
    std::map<std::string, std::string> first_seen;
    for (const auto& pair : node) {
      const YAML::Node& key = pair.first;
      if (!key.IsScalar() || key.Scalar().empty()) {
        problem(where(key), "a key must be a word, found " + kind(key));
        continue;
      }
      const std::string full = path.empty() ? key.Scalar() : path + "." + key.Scalar();
      const auto [seen, is_new] = first_seen.emplace(key.Scalar(), where(key));
      if (!is_new) {
        problem(where(key), fmt::format("{} is given twice, first at {}", full, seen->second));
        continue;
      }
      const std::size_t before = out_.entries.size();
      value(pair.second, full, depth + 1);
      // A value without a mark of its own (nothing after the colon) is where its key is.
      if (out_.entries.size() == before + 1 && out_.entries.back().path == full) out_.entries.back().where = where(key);
    }
  }

  const std::string& name_;
  bool with_lines_;
  std::size_t nodes_ = 0;
  bool overflowed_ = false;
  YamlDocument out_;
};

template <class Body>
YamlDocument guarded(Flattener& flattener, const Body& body) {
  try {
    body();
  } catch (const YAML::Exception& e) {
    flattener.problem(flattener.where(e.mark), "not valid YAML: " + e.msg);
  }
  return flattener.take();
}

bool reads_back_as_text(const std::string& text) {
  static constexpr std::string_view kSafe = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-";
  if (text.empty() || text.find_first_not_of(kSafe) != std::string::npos || text[0] == '-' || text == "." || text == "auto")
    return false;
  static const std::vector<std::string> kWords = {"null", "Null", "NULL", "~"};
  return std::find(kWords.begin(), kWords.end(), text) == kWords.end();
}

}  // namespace

YamlDocument read_yaml(const std::string& text, const std::string& name, bool with_lines) {
  Flattener flattener(name, with_lines);
  return guarded(flattener, [&] {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1)
      flattener.problem(flattener.where(documents[1].Mark()), "a second YAML document; one file is one configuration");
    if (!documents.empty()) flattener.document(documents[0]);
  });
}

YamlDocument read_yaml_value(const std::string& path, const std::string& text, const std::string& name) {
  Flattener flattener(name, false);
  return guarded(flattener, [&] { flattener.value(YAML::Load(text), path, 0); });
}

std::string yaml_scalar(const std::string& text) {
  if (reads_back_as_text(text)) return text;
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return out + "\"";
}

}  // namespace strata
