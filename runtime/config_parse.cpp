// From YAML entries to fields: finding the key that is meant, inheritance, overrides, and a report of every problem.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>

#include "runtime/config.h"
#include "runtime/config_yaml.h"

namespace strata {
namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 20;
constexpr std::size_t kMaxBases = 32;

std::string leaf_of(const std::string& path) { return path.substr(path.rfind('.') + 1); }

bool is_below(const std::string& path, const std::string& section) { return path.starts_with(section + "."); }

Result<std::string> read_text(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error))
    return Status(Code::invalid_config, path + ": is a folder, not a configuration file");
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file)
    return Status(Code::invalid_config, fmt::format("{}: cannot be opened: {}", path, std::generic_category().message(errno)));
  std::string text(kMaxFileBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return Status(Code::invalid_config, path + ": cannot be read");
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > kMaxFileBytes)
    return Status(Code::invalid_config, fmt::format("{}: larger than {} bytes; not a configuration", path, kMaxFileBytes));
  return text;
}

}  // namespace

class ConfigSchema::Parse {
 public:
  explicit Parse(const ConfigSchema& schema) : schema_(schema) {
    for (const Key& key : schema.keys_) {
      STRATA_CHECK(known_.emplace(key.path_, Target{&key, nullptr}).second, "two keys are named " + key.path_);
    }
    for (const Key& key : schema.keys_) {
      for (const Key::Alias& alias : key.aliases_) {
        const auto [it, is_new] = known_.emplace(alias.path, Target{&key, &alias});
        STRATA_CHECK(is_new || it->second.key == &key, "two keys have the spelling " + alias.path);
      }
    }
  }

  void file(const std::string& path, const std::string& wanted_at) {
    std::error_code error;
    const std::string identity = std::filesystem::weakly_canonical(path, error).string();
    if (std::find(open_files_.begin(), open_files_.end(), identity) != open_files_.end() || open_files_.size() >= kMaxBases) {
      problems_.push_back(fmt::format("{}: base: {} inherits from itself", wanted_at, path));
      return;
    }
    Result<std::string> text = read_text(path);
    if (!text.ok()) {
      problems_.push_back(wanted_at.empty() ? text.status().message()
                                            : fmt::format("{}: base: {}", wanted_at, text.status().message()));
      return;
    }
    open_files_.push_back(identity);
    this->text(*text, path);
    open_files_.pop_back();
  }

  void text(const std::string& yaml, const std::string& name) {
    YamlDocument document = read_yaml(yaml, name);
    problems_.insert(problems_.end(), document.problems.begin(), document.problems.end());
    const auto is_base = [](const YamlEntry& entry) { return entry.path == "base"; };
    for (const YamlEntry& entry : document.entries) {
      if (is_base(entry)) inherit(entry, name);
    }
    std::erase_if(document.entries, is_base);
    std::map<const Key*, std::string> given;
    for (const YamlEntry& entry : document.entries) {
      if (const Key* key = apply(entry, &given); key && !key->defaults_of_.empty())
        name_defaults(*key, entry, std::filesystem::path(name).parent_path());
    }
  }

  void override_with(const std::string& argument) {
    const std::string where = fmt::format("argument \"{}\"", argument);
    const std::size_t equals = argument.find('=');
    if (equals == std::string::npos || equals == 0) {
      problems_.push_back(where + ": expected section.key=value");
      return;
    }
    const YamlDocument document = read_yaml_value(argument.substr(0, equals), argument.substr(equals + 1), where);
    problems_.insert(problems_.end(), document.problems.begin(), document.problems.end());
    for (const YamlEntry& entry : document.entries) {
      if (const Key* key = apply(entry, nullptr); key && !key->defaults_of_.empty()) name_defaults(*key, entry, {});
    }
  }

  Status finish() {
    for (const auto& [key, file] : defaults_) read_defaults(*key, file);
    if (problems_.empty()) return {};
    if (problems_.size() == 1) return {Code::invalid_config, problems_[0]};
    return {Code::invalid_config,
            fmt::format("{} problems in the configuration:\n  {}", problems_.size(), fmt::join(problems_, "\n  "))};
  }

 private:
  struct Target {
    const Key* key;
    const Key::Alias* alias;  // null: the canonical spelling
  };

  void inherit(const YamlEntry& entry, const std::string& name) {
    if (entry.value.kind != ConfigValue::Kind::scalar || entry.value.text.empty()) {
      problems_.push_back(
          fmt::format("{}: base: expected the path of one file, found {}", entry.where, entry.value.describe()));
      return;
    }
    file((std::filesystem::path(name).parent_path() / entry.value.text).string(), entry.where);
  }

  struct DefaultsFile {
    std::string path, wanted_at;
  };

  // The last one that is named counts, `auto` and the word instead of a file undo it.
  void name_defaults(const Key& key, const YamlEntry& entry, const std::filesystem::path& folder) {
    defaults_.erase(&key);
    const bool word = !entry.value.quoted && (entry.value.text == "auto" || entry.value.text == key.instead_of_file_);
    if (!word) defaults_[&key] = {(folder / entry.value.text).string(), entry.where};
  }

  void read_defaults(const Key& names, const DefaultsFile& file) {
    const Result<std::string> text = read_text(file.path);
    if (!text.ok()) {
      problems_.push_back(fmt::format("{}: {}: {}", file.wanted_at, names.path_, text.status().message()));
      return;
    }
    YamlDocument document = read_yaml(*text, file.path);
    problems_.insert(problems_.end(), document.problems.begin(), document.problems.end());
    for (YamlEntry& entry : document.entries) {
      entry.path = names.defaults_of_ + "." + entry.path;
      const auto found = known_.find(entry.path);
      const std::string own = found == known_.end() ? "auto" : found->second.key->yaml();
      const Key* key = apply(entry, nullptr);  // also to find what is wrong with a value that is not used
      if (key && own != "auto") key->assign({ConfigValue::Kind::scalar, own, false, {}});
    }
  }

  // The key that got its value, null if none did. given: where each key was set in this file; null: a later value simply wins.
  const Key* apply(const YamlEntry& entry, std::map<const Key*, std::string>* given) {
    const auto found = known_.find(entry.path);
    if (found == known_.end()) {
      if (entry.value.kind == ConfigValue::Kind::empty && is_section(entry.path)) return nullptr;
      problems_.push_back(fmt::format("{}: {}", entry.where, explain_unknown(entry)));
      return nullptr;
    }
    const Key& key = *found->second.key;
    const std::string spelled = found->second.alias ? fmt::format("{} (here {})", key.path_, entry.path) : key.path_;
    if (given) {
      const auto [first, is_new] = given->emplace(&key, entry.where);
      if (!is_new) problems_.push_back(fmt::format("{}: {} is given twice, first at {}", entry.where, spelled, first->second));
      if (!is_new) return nullptr;
    }
    if (!key.assign(translated(found->second, entry.value))) {
      problems_.push_back(
          fmt::format("{}: {}: expected {}, found {}", entry.where, spelled, key.expected(), entry.value.describe()));
    } else if (!key.in_range()) {
      problems_.push_back(fmt::format("{}: {}: must be {}, found {}", entry.where, spelled, key.range(), entry.value.text));
    } else {
      return &key;
    }
    return nullptr;
  }

  static ConfigValue translated(const Target& target, const ConfigValue& value) {
    if (!target.alias || target.alias->values.empty()) return value;
    for (const auto& [theirs, ours] : target.alias->values) {
      if (value.kind == ConfigValue::Kind::scalar && value.text == theirs) return {ConfigValue::Kind::scalar, ours, false, {}};
    }
    return {ConfigValue::Kind::empty, "", false, {}};
  }

  bool is_section(const std::string& path) const {
    const auto next = known_.lower_bound(path + ".");
    return next != known_.end() && is_below(next->first, path);
  }

  std::string explain_unknown(const YamlEntry& entry) const {
    for (const auto& [path, advice] : schema_.rejected_) {
      if (entry.path == path || is_below(entry.path, path)) return fmt::format("{}: {}", entry.path, advice);
    }
    for (const auto& [path, target] : known_) {
      if (is_below(entry.path, path))
        return fmt::format("{}: expected {}, found a section with the key {}", path, target.key->expected(), entry.path);
    }
    if (is_section(entry.path))
      return fmt::format("{}: is a section; expected keys below it, found {}", entry.path, entry.value.describe());
    if (const std::string near = nearest(entry.path); !near.empty())
      return fmt::format("unknown key {}; did you mean {}?", entry.path, near);
    return fmt::format("unknown key {}; {}", entry.path, section_keys(entry.path));
  }

  // The canonical key whose spelling is closest; the same word in another section counts as close. Empty: nothing is.
  std::string nearest(const std::string& path) const {
    const std::string leaf = leaf_of(path);
    int best_cost = static_cast<int>(std::max<std::size_t>(leaf.size() / 3, 1)) * 2 + 1;
    std::string best;
    for (const auto& [spelling, target] : known_) {
      const bool same_section = path.size() - leaf.size() == spelling.size() - leaf_of(spelling).size() &&
                                path.starts_with(spelling.substr(0, path.size() - leaf.size()));
      const int by_leaf = 2 * edit_distance(leaf, leaf_of(spelling)) + (same_section ? 0 : 1);
      const int cost = std::min(by_leaf, 2 * edit_distance(path, spelling));
      if (cost >= best_cost) continue;
      best_cost = cost;
      best = target.key->path_;
    }
    return best;
  }

  std::string section_keys(const std::string& path) const {
    const std::size_t dot = path.rfind('.');
    const std::string section = dot == std::string::npos ? "" : path.substr(0, dot);
    std::vector<std::string> names;
    for (const Key& key : schema_.keys_) {
      if (!section.empty() && is_below(key.path_, section)) names.push_back(key.path_);
    }
    if (!names.empty()) return fmt::format("the keys of {} are {}", section, fmt::join(names, ", "));
    for (const auto& [name, doc] : schema_.sections_) names.push_back(name);
    return fmt::format("the sections are {}", fmt::join(names, ", "));
  }

  const ConfigSchema& schema_;
  std::map<std::string, Target> known_;  // by every spelling
  std::vector<std::string> open_files_;  // the chain of bases being read
  std::map<const Key*, DefaultsFile> defaults_;
  std::vector<std::string> problems_;
};

Status ConfigSchema::parse_file(const std::string& path, const std::vector<std::string>& overrides) {
  Parse parse(*this);
  parse.file(path, "");
  for (const std::string& argument : overrides) parse.override_with(argument);
  return parse.finish();
}

Status ConfigSchema::parse_text(const std::string& yaml, const std::string& name, const std::vector<std::string>& overrides) {
  Parse parse(*this);
  parse.text(yaml, name);
  for (const std::string& argument : overrides) parse.override_with(argument);
  return parse.finish();
}

}  // namespace strata
