// Typed configuration: a schema of keys bound to the fields of a struct, read from YAML files and "key=value" overrides.
// Unknown keys, wrong types, values out of range and keys given twice are problems; a parse reports all of them at once,
// each with file:line (or the override it came from), what was found and what is expected.
//
//   ConfigSchema schema;
//   schema.section("training", "Length and size of the run.");
//   schema.add("training.steps", options.steps, "Updates to make.").at_least(1).alias("train_iters");
//   Status status = schema.parse_file("my.yaml", {"training.steps=10"});
//
// A file may name another one to inherit from, relative to itself: `base: other.yaml`. What a file says overrides its base;
// overrides are applied last and the last one of a key wins. Not thread-safe; bound fields must outlive the schema.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/status.h"

namespace strata {

// What a YAML file says for one key, before it has a type.
struct ConfigValue {
  enum class Kind { scalar, list, empty } kind = Kind::scalar;
  std::string text;                // scalar
  bool quoted = false;             // scalar written in quotes: text, never a number
  std::vector<ConfigValue> items;  // list; scalars only
  std::string describe() const;    // for messages: `"abc"`, `a list of 2`, `nothing`
};

class ConfigSchema {
 public:
  class Key {
   public:
    // Another spelling. "name" is accepted in the key's own section and at the top level, "a.b.name" only as that path.
    // `values` translates what is written there ({"true", "bf16"}); empty: taken as it is.
    Key& alias(const std::string& spelling, std::vector<std::pair<std::string, std::string>> values = {});
    Key& unit(const std::string& unit);
    Key& at_least(double least);  // numbers, bytes, durations
    Key& greater_than(double bound);
    Key& at_most(double most);
    Key& less_than(double bound);
    // The zero, empty or absent value is spelled `auto` and stands for `meaning`, which code above fills in.
    Key& automatic(const std::string& meaning);
    // Of add_defaults_file: `word`, without quotes, names no file but sets `chosen`; the last of words and files counts.
    Key& or_word(const std::string& word, bool& chosen);

   private:
    friend class ConfigSchema;
    struct Alias {
      std::string path;
      std::vector<std::pair<std::string, std::string>> values;
    };
    std::string path_, doc_, type_, unit_, auto_meaning_;
    std::vector<Alias> aliases_;
    std::optional<double> least_, above_, most_, below_;
    bool is_text_ = false;  // `auto` in quotes is text
    bool takes_list_ = false;
    std::string defaults_of_;                      // the section that the named file is about; empty: names no file
    std::string instead_of_file_;                  // a word that is no file's name
    bool takes_quotes_ = true;                     // a quoted scalar is acceptable
    std::function<bool(const ConfigValue&)> set_;  // false: not of this type
    std::function<std::string()> get_;             // as YAML
    std::function<double()> number_;               // for the range; empty: not a number
    std::function<bool()> is_automatic_;
    std::function<void()> make_automatic_;
    bool assign(const ConfigValue& value) const;
    bool in_range() const;
    std::string expected() const;
    std::string range() const;
    std::string yaml() const;
    std::string reference_row() const;
  };

  ConfigSchema();
  ~ConfigSchema();
  ConfigSchema(const ConfigSchema&) = delete;
  ConfigSchema& operator=(const ConfigSchema&) = delete;

  // Sections appear in the reference in the order of these calls.
  void section(const std::string& path, const std::string& doc);

  // `path` is the canonical, dotted spelling; `target` holds the default.
  Key& add(const std::string& path, bool& target, const std::string& doc);
  Key& add(const std::string& path, std::optional<bool>& target, const std::string& doc);
  Key& add(const std::string& path, std::int64_t& target, const std::string& doc);
  Key& add(const std::string& path, std::uint64_t& target, const std::string& doc);
  Key& add(const std::string& path, double& target, const std::string& doc);
  Key& add(const std::string& path, std::optional<double>& target, const std::string& doc);
  Key& add(const std::string& path, std::string& target, const std::string& doc);
  Key& add(const std::string& path, std::vector<std::string>& target, const std::string& doc);
  Key& add(const std::string& path, std::vector<double>& target, const std::string& doc);  // lower bounds hold for every item
  // "4GiB", "512MiB", "1.5GB" or a number of bytes.
  Key& add_bytes(const std::string& path, std::uint64_t& target, const std::string& doc);
  Key& add_bytes(const std::string& path, std::optional<std::uint64_t>& target, const std::string& doc);
  // Bytes a second: "4GiB/s", "500MB/s" or a number.
  Key& add_byte_rate(const std::string& path, std::uint64_t& target, const std::string& doc);
  // "90", "90s", "1.5min", "2h", "500ms"; stored in seconds.
  Key& add_duration(const std::string& path, double& target, const std::string& doc);
  // A file with keys of `section`, written without it: each gives the value of a key that is `auto` when all else is read. The
  // section's keys hold single values and can be `auto`. A relative path is relative to the file that names it, of an override
  // to the working folder. dump() writes what the file gave, not its name.
  Key& add_defaults_file(const std::string& path, const std::string& section, const std::string& doc);
  // One of several words, upper and lower case alike; the first spelling of a value is the one that dump() writes.
  template <class E>
  Key& add_choice(const std::string& path, E& target, const std::vector<std::pair<std::string, E>>& choices,
                  const std::string& doc) {
    std::vector<std::pair<std::string, int>> words;
    for (const auto& [word, value] : choices) words.emplace_back(word, static_cast<int>(value));
    return add_words(
        path, std::move(words), [&target] { return static_cast<int>(target); },
        [&target](int value) { target = static_cast<E>(value); }, doc);
  }
  // The same, or `auto`: nothing.
  template <class E>
  Key& add_choice(const std::string& path, std::optional<E>& target, const std::vector<std::pair<std::string, E>>& choices,
                  const std::string& doc) {
    std::vector<std::pair<std::string, int>> words;
    for (const auto& [word, value] : choices) words.emplace_back(word, static_cast<int>(value));
    Key& key = add_words(
        path, std::move(words), [&target] { return static_cast<int>(target.value()); },
        [&target](int value) { target = static_cast<E>(value); }, doc);
    key.is_automatic_ = [&target] { return !target.has_value(); };
    key.make_automatic_ = [&target] { target.reset(); };
    return key;
  }
  // A key known from elsewhere that has no counterpart; using it is an error that says `advice`.
  void reject(const std::string& path, const std::string& advice);

  // On an error the bound fields hold a mixture: discard them.
  Status parse_file(const std::string& path, const std::vector<std::string>& overrides);
  Status parse_text(const std::string& yaml, const std::string& name, const std::vector<std::string>& overrides);

  std::vector<std::string> keys() const;
  // YAML of all keys with the fields' present values; parses back to the same.
  std::string dump() const;
  // Markdown: every section and key with type, present value as its default, range, other spellings and meaning.
  std::string reference() const;

 private:
  class Parse;
  Key& add_key(const std::string& path, const std::string& type, const std::string& doc);
  Key& add_words(const std::string& path, std::vector<std::pair<std::string, int>> words, std::function<int()> get,
                 std::function<void(int)> set, const std::string& doc);

  std::vector<std::pair<std::string, std::string>> sections_;
  std::deque<Key> keys_;  // stable addresses: callers chain on Key&
  std::vector<std::pair<std::string, std::string>> rejected_;
};

// Typed readings of one scalar, for other text formats too (command-line flags). Empty: not such a value.
std::optional<std::int64_t> parse_integer(const std::string& text);  // 12, -3, 1_000, 1e6, 16Ki, 16Mi, 1Gi
std::optional<double> parse_number(const std::string& text);         // finite
std::optional<std::uint64_t> parse_bytes(const std::string& text);
std::optional<std::uint64_t> parse_byte_rate(const std::string& text);  // parse_bytes, and "/s"
std::optional<double> parse_duration(const std::string& text);          // seconds, finite
std::string exact_bytes(std::uint64_t bytes);                           // exact: "4GiB" where it divides, else the number
// Insertions, deletions, substitutions and swaps of neighbours that turn a into b.
int edit_distance(const std::string& a, const std::string& b);

}  // namespace strata
