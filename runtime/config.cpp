#include "runtime/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>

#include "runtime/config_yaml.h"

namespace strata {
namespace {

using Kind = ConfigValue::Kind;

std::string section_of(const std::string& path) {
  const std::size_t dot = path.rfind('.');
  return dot == std::string::npos ? "" : path.substr(0, dot);
}

bool same_word(const std::string& a, const std::string& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

std::string text_yaml(const std::string& text) { return text == "auto" ? "\"auto\"" : yaml_scalar(text); }

template <class T, class Parser>
std::function<bool(const ConfigValue&)> scalar_setter(T& target, Parser parse) {
  return [&target, parse](const ConfigValue& value) {
    const auto parsed = parse(value.text);
    if (parsed) target = *parsed;
    return parsed.has_value();
  };
}

std::optional<bool> parse_bool(const std::string& text) {
  if (same_word(text, "true")) return true;
  if (same_word(text, "false")) return false;
  return std::nullopt;
}

std::optional<std::uint64_t> parse_unsigned(const std::string& text) {
  const std::optional<std::int64_t> value = parse_integer(text);
  return value && *value >= 0 ? std::optional(static_cast<std::uint64_t>(*value)) : std::nullopt;
}

// A double as YAML: shortest digits that read back to the same bits, always recognisable as a number.
std::string number_yaml(double value) { return fmt::format("{}", value); }

}  // namespace

std::string ConfigValue::describe() const {
  switch (kind) {
    case Kind::scalar: return fmt::format("\"{}\"{}", text, quoted ? " in quotes" : "");
    case Kind::list: return fmt::format("a list of {}", items.size());
    case Kind::empty: return "nothing";
  }
  return "?";
}

using Key = ConfigSchema::Key;

Key& Key::alias(const std::string& spelling, std::vector<std::pair<std::string, std::string>> values) {
  if (spelling.find('.') == std::string::npos && !section_of(path_).empty())
    aliases_.push_back({section_of(path_) + "." + spelling, values});
  aliases_.push_back({spelling, std::move(values)});
  return *this;
}
Key& Key::unit(const std::string& unit) {
  unit_ = unit;
  return *this;
}
Key& Key::at_least(double least) {
  least_ = least;
  return *this;
}
Key& Key::greater_than(double bound) {
  above_ = bound;
  return *this;
}
Key& Key::at_most(double most) {
  most_ = most;
  return *this;
}
Key& Key::less_than(double bound) {
  below_ = bound;
  return *this;
}
Key& Key::automatic(const std::string& meaning) {
  STRATA_CHECK(is_automatic_ != nullptr, path_ + ": this type has no value that could stand for auto");
  auto_meaning_ = meaning;
  return *this;
}

Key& Key::or_word(const std::string& word, bool& chosen) {
  STRATA_CHECK(!defaults_of_.empty(), path_ + ": names no file that a word could stand for");
  type_ += ", or " + word;
  instead_of_file_ = word;
  set_ = [word, &chosen](const ConfigValue& value) {
    chosen = value.text == word && !value.quoted;
    return !value.text.empty();
  };
  get_ = [word] { return word; };
  is_automatic_ = [&chosen] { return !chosen; };
  make_automatic_ = [&chosen] { chosen = false; };
  return *this;
}

bool Key::assign(const ConfigValue& value) const {
  if (value.kind == Kind::scalar && value.text == "auto" && !auto_meaning_.empty() && !(is_text_ && value.quoted)) {
    make_automatic_();
    return true;
  }
  if (value.kind == Kind::empty || (value.kind == Kind::list && !takes_list_)) return false;
  if (value.kind == Kind::scalar && value.quoted && !takes_quotes_) return false;
  return set_(value);
}

bool Key::in_range() const {
  if (!number_ || (!auto_meaning_.empty() && is_automatic_())) return true;
  const double x = number_();
  return (!least_ || x >= *least_) && (!above_ || x > *above_) && (!most_ || x <= *most_) && (!below_ || x < *below_);
}

std::string Key::expected() const { return type_ + (auto_meaning_.empty() ? "" : " or auto"); }

std::string Key::range() const {
  std::vector<std::string> parts;
  if (least_) parts.push_back(fmt::format("at least {}", *least_));
  if (above_) parts.push_back(fmt::format("greater than {}", *above_));
  if (most_) parts.push_back(fmt::format("at most {}", *most_));
  if (below_) parts.push_back(fmt::format("less than {}", *below_));
  return fmt::format("{}", fmt::join(parts, " and "));
}

std::string Key::yaml() const { return !auto_meaning_.empty() && is_automatic_() ? "auto" : get_(); }

std::string Key::reference_row() const {
  std::string meaning = doc_;
  if (!auto_meaning_.empty()) meaning += fmt::format(" `auto`: {}.", auto_meaning_);
  if (!unit_.empty()) meaning += fmt::format(" Unit: {}.", unit_);
  if (const std::string r = range(); !r.empty()) meaning += fmt::format(" Must be {}.", r);
  std::vector<std::string> spellings;
  for (const Alias& a : aliases_) {
    const bool short_form_follows = &a != &aliases_.back() && (&a + 1)->path == a.path.substr(section_of(a.path).size() + 1);
    if (!short_form_follows) spellings.push_back(fmt::format("`{}`", a.path));
  }
  if (!spellings.empty()) meaning += fmt::format(" Also: {}.", fmt::join(spellings, ", "));
  return fmt::format("| `{}` | {} | `{}` | {} |\n", path_, type_, yaml(), meaning);
}

ConfigSchema::ConfigSchema() = default;
ConfigSchema::~ConfigSchema() = default;

void ConfigSchema::section(const std::string& path, const std::string& doc) { sections_.emplace_back(path, doc); }
void ConfigSchema::reject(const std::string& path, const std::string& advice) { rejected_.emplace_back(path, advice); }

Key& ConfigSchema::add_key(const std::string& path, const std::string& type, const std::string& doc) {
  Key& key = keys_.emplace_back();
  key.path_ = path;
  key.type_ = type;
  key.doc_ = doc;
  return key;
}

Key& ConfigSchema::add(const std::string& path, bool& target, const std::string& doc) {
  Key& key = add_key(path, "true or false", doc);
  key.takes_quotes_ = false;
  key.set_ = scalar_setter(target, parse_bool);
  key.get_ = [&target] { return target ? "true" : "false"; };
  return key;
}

Key& ConfigSchema::add(const std::string& path, std::optional<bool>& target, const std::string& doc) {
  Key& key = add_key(path, "true or false", doc);
  key.takes_quotes_ = false;
  key.set_ = scalar_setter(target, parse_bool);
  key.get_ = [&target] { return target.value_or(false) ? "true" : "false"; };
  key.is_automatic_ = [&target] { return !target.has_value(); };
  key.make_automatic_ = [&target] { target.reset(); };
  return key;
}

Key& ConfigSchema::add(const std::string& path, std::int64_t& target, const std::string& doc) {
  Key& key = add_key(path, "an integer", doc);
  key.takes_quotes_ = false;
  key.set_ = scalar_setter(target, parse_integer);
  key.get_ = [&target] { return fmt::format("{}", target); };
  key.number_ = [&target] { return static_cast<double>(target); };
  key.is_automatic_ = [&target] { return target == 0; };
  key.make_automatic_ = [&target] { target = 0; };
  return key;
}

Key& ConfigSchema::add(const std::string& path, std::uint64_t& target, const std::string& doc) {
  Key& key = add_key(path, "an integer of at least 0", doc);
  key.takes_quotes_ = false;
  key.set_ = scalar_setter(target, parse_unsigned);
  key.get_ = [&target] { return fmt::format("{}", target); };
  key.number_ = [&target] { return static_cast<double>(target); };
  return key;
}

Key& ConfigSchema::add(const std::string& path, double& target, const std::string& doc) {
  Key& key = add_key(path, "a number", doc);
  key.takes_quotes_ = false;
  key.set_ = scalar_setter(target, parse_number);
  key.get_ = [&target] { return number_yaml(target); };
  key.number_ = [&target] { return target; };
  key.is_automatic_ = [&target] { return target == 0.0; };
  key.make_automatic_ = [&target] { target = 0.0; };
  return key;
}

Key& ConfigSchema::add(const std::string& path, std::optional<double>& target, const std::string& doc) {
  Key& key = add_key(path, "a number", doc);
  key.takes_quotes_ = false;
  key.set_ = scalar_setter(target, parse_number);
  key.get_ = [&target] { return number_yaml(target.value_or(0.0)); };
  key.number_ = [&target] { return target.value_or(0.0); };
  key.is_automatic_ = [&target] { return !target.has_value(); };
  key.make_automatic_ = [&target] { target.reset(); };
  return key;
}

Key& ConfigSchema::add(const std::string& path, std::string& target, const std::string& doc) {
  Key& key = add_key(path, "text", doc);
  key.is_text_ = true;
  key.set_ = [&target](const ConfigValue& value) {
    target = value.text;
    return true;
  };
  key.get_ = [&target] { return text_yaml(target); };
  key.is_automatic_ = [&target] { return target.empty(); };
  key.make_automatic_ = [&target] { target.clear(); };
  return key;
}

Key& ConfigSchema::add(const std::string& path, std::vector<std::string>& target, const std::string& doc) {
  Key& key = add_key(path, "a text or a list of texts", doc);
  key.takes_list_ = true;
  key.is_text_ = true;
  key.set_ = [&target](const ConfigValue& value) {
    target.clear();
    if (value.kind == Kind::scalar) target.push_back(value.text);
    for (const ConfigValue& item : value.items) target.push_back(item.text);
    return true;
  };
  key.get_ = [&target] {
    std::vector<std::string> items;
    for (const std::string& text : target) items.push_back(text_yaml(text));
    return fmt::format("[{}]", fmt::join(items, ", "));
  };
  key.is_automatic_ = [&target] { return target.empty(); };
  key.make_automatic_ = [&target] { target.clear(); };
  return key;
}

Key& ConfigSchema::add(const std::string& path, std::vector<double>& target, const std::string& doc) {
  Key& key = add_key(path, "a number or a list of numbers", doc);
  key.takes_list_ = true;
  key.takes_quotes_ = false;
  key.set_ = [&target](const ConfigValue& value) {
    target.clear();
    const std::vector<ConfigValue> items = value.kind == Kind::scalar ? std::vector<ConfigValue>{value} : value.items;
    for (const ConfigValue& item : items) {
      const std::optional<double> number = item.quoted ? std::nullopt : parse_number(item.text);
      if (!number) return false;
      target.push_back(*number);
    }
    return !target.empty();
  };
  key.get_ = [&target] {
    std::vector<std::string> items;
    for (const double number : target) items.push_back(number_yaml(number));
    return fmt::format("[{}]", fmt::join(items, ", "));
  };
  key.number_ = [&target] { return target.empty() ? 0.0 : *std::min_element(target.begin(), target.end()); };
  key.is_automatic_ = [&target] { return target.empty(); };
  key.make_automatic_ = [&target] { target.clear(); };
  return key;
}

Key& ConfigSchema::add_bytes(const std::string& path, std::uint64_t& target, const std::string& doc) {
  Key& key = add_key(path, "a size such as 512MiB, 4GiB or 4GB", doc);
  key.set_ = scalar_setter(target, parse_bytes);
  key.get_ = [&target] { return exact_bytes(target); };
  key.number_ = [&target] { return static_cast<double>(target); };
  return key;
}

Key& ConfigSchema::add_bytes(const std::string& path, std::optional<std::uint64_t>& target, const std::string& doc) {
  Key& key = add_key(path, "a size such as 512MiB, 4GiB or 4GB", doc);
  key.set_ = scalar_setter(target, parse_bytes);
  key.get_ = [&target] { return exact_bytes(target.value_or(0)); };
  key.number_ = [&target] { return static_cast<double>(target.value_or(0)); };
  key.is_automatic_ = [&target] { return !target.has_value(); };
  key.make_automatic_ = [&target] { target.reset(); };
  return key;
}

Key& ConfigSchema::add_byte_rate(const std::string& path, std::uint64_t& target, const std::string& doc) {
  Key& key = add_key(path, "a rate such as 500MB/s or 4GiB/s", doc);
  key.set_ = scalar_setter(target, parse_byte_rate);
  key.get_ = [&target] { return exact_bytes(target) + "/s"; };
  key.number_ = [&target] { return static_cast<double>(target); };
  key.is_automatic_ = [&target] { return target == 0; };
  key.make_automatic_ = [&target] { target = 0; };
  return key;
}

Key& ConfigSchema::add_duration(const std::string& path, double& target, const std::string& doc) {
  Key& key = add_key(path, "a time such as 90s, 1.5min or 2h (a plain number is seconds)", doc);
  key.set_ = scalar_setter(target, parse_duration);
  key.get_ = [&target] { return number_yaml(target) + "s"; };
  key.number_ = [&target] { return target; };
  key.is_automatic_ = [&target] { return target == 0.0; };
  key.make_automatic_ = [&target] { target = 0.0; };
  return key;
}

Key& ConfigSchema::add_defaults_file(const std::string& path, const std::string& section, const std::string& doc) {
  Key& key = add_key(path, "the path of a file", doc);
  key.is_text_ = true;
  key.defaults_of_ = section;
  key.set_ = [](const ConfigValue& value) { return !value.text.empty(); };
  key.is_automatic_ = [] { return true; };  // the name is not kept
  key.make_automatic_ = [] {};
  return key;
}

Key& ConfigSchema::add_words(const std::string& path, std::vector<std::pair<std::string, int>> words, std::function<int()> get,
                             std::function<void(int)> set, const std::string& doc) {
  std::vector<std::string> names;  // first spelling of each value
  std::vector<int> seen;
  for (const auto& [word, value] : words) {
    if (std::find(seen.begin(), seen.end(), value) != seen.end()) continue;
    seen.push_back(value);
    names.push_back(word);
  }
  Key& key = add_key(path, fmt::format("{}{}", names.size() > 1 ? "one of " : "", fmt::join(names, ", ")), doc);
  key.set_ = [words, set](const ConfigValue& given) {
    for (const auto& [word, value] : words) {
      if (!same_word(word, given.text)) continue;
      set(value);
      return true;
    }
    return false;
  };
  key.get_ = [words, get] {
    const auto it = std::find_if(words.begin(), words.end(), [value = get()](const auto& w) { return w.second == value; });
    STRATA_CHECK(it != words.end(), "a choice holds a value without a word");
    return it->first;
  };
  return key;
}

std::vector<std::string> ConfigSchema::keys() const {
  std::vector<std::string> out;
  for (const Key& key : keys_) out.push_back(key.path_);
  return out;
}

std::string ConfigSchema::dump() const {
  std::string out;
  std::string open;  // the section that lines are being written into
  for (const Key& key : keys_) {
    const std::string section = section_of(key.path_);
    std::size_t begin = 0;
    int depth = 0;
    while (begin < section.size()) {
      const std::size_t end = std::min(section.find('.', begin), section.size());
      const std::string prefix = section.substr(0, end);
      if (open != prefix && !open.starts_with(prefix + "."))
        out += std::string(static_cast<std::size_t>(depth) * 2, ' ') + section.substr(begin, end - begin) + ":\n";
      begin = end + 1;
      ++depth;
    }
    open = section;
    const std::string name = section.empty() ? key.path_ : key.path_.substr(section.size() + 1);
    out += fmt::format("{}{}: {}\n", std::string(static_cast<std::size_t>(depth) * 2, ' '), name, key.yaml());
  }
  return out;
}

std::string ConfigSchema::reference() const {
  std::string out;
  for (const auto& [section, doc] : sections_) {
    out += fmt::format("{}## {}\n\n{}\n\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n",
                       out.empty() ? "" : "\n", section, doc);
    for (const Key& key : keys_) {
      if (key.path_.starts_with(section + ".")) out += key.reference_row();
    }
  }
  return out;
}

}  // namespace strata
