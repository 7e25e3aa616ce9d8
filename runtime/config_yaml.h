// YAML text as a flat list of dotted keys. Used by ConfigSchema only; keeps the YAML library out of every other file.
#pragma once

#include <string>
#include <vector>

#include "runtime/config.h"

namespace strata {

struct YamlEntry {
  std::string path;  // "training.steps"
  ConfigValue value;
  std::string where;  // "my.yaml:12"
};

struct YamlDocument {
  std::vector<YamlEntry> entries;     // in the order of the text
  std::vector<std::string> problems;  // "my.yaml:12: ..."
};

// Lists may hold scalars only. Syntax errors, keys given twice in one map, several documents and absurd sizes are problems.
// with_lines false: `name` alone is the place of every entry (an override has no lines).
YamlDocument read_yaml(const std::string& text, const std::string& name, bool with_lines = true);
// One value in YAML notation under the key `path`: a scalar, a list or a map of further keys.
YamlDocument read_yaml_value(const std::string& path, const std::string& text, const std::string& name);
// `text` as a YAML scalar, in quotes where YAML would read it as something else.
std::string yaml_scalar(const std::string& text);

}  // namespace strata
