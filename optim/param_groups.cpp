#include "optim/param_groups.h"

#include <fnmatch.h>

#include <algorithm>
#include <sstream>

#include "runtime/config.h"

namespace strata {

Result<GroupRule> parse_group_rule(const std::string& text) {
  const auto wrong = [&](const std::string& what) {
    return Status(
        Code::invalid_config,
        "\"" + text + "\": " + what + "; expected a pattern and lr_scale=NUMBER, weight_decay=NUMBER or projected=true|false");
  };
  std::istringstream words(text);
  GroupRule rule;
  words >> rule.params;
  if (rule.params.empty() || rule.params.find('=') != std::string::npos) return wrong("has no pattern");
  for (std::string word; words >> word;) {
    const std::size_t equals = word.find('=');
    const std::string key = word.substr(0, equals);
    if (key == "projected") {
      const std::string value = equals == std::string::npos ? "" : word.substr(equals + 1);
      if (rule.projected) return wrong(key + " is given twice");
      if (value != "true" && value != "false") return wrong("\"" + word + "\" is neither true nor false");
      rule.projected = value == "true";
      continue;
    }
    std::optional<double>* const value = key == "lr_scale"       ? &rule.lr_scale
                                         : key == "weight_decay" ? &rule.weight_decay
                                                                 : nullptr;
    if (equals == std::string::npos || value == nullptr) return wrong("\"" + word + "\" is no setting of a group");
    if (*value) return wrong(key + " is given twice");
    *value = parse_number(word.substr(equals + 1));
    if (!*value || **value < 0.0) return wrong("\"" + word + "\" is not a number that is at least 0");
  }
  if (!rule.lr_scale && !rule.weight_decay && !rule.projected) return wrong("says nothing");
  return rule;
}

ParamGroups::ParamGroups(double weight_decay, std::vector<GroupRule> rules) : rules_(std::move(rules)) {
  const auto add = [&](const GroupRule& rule) {
    for (const bool projected : {false, true})
      for (const bool decays : {false, true})
        groups_.push_back({.lr_scale = rule.lr_scale.value_or(1.0),
                           .weight_decay = rule.weight_decay.value_or(decays ? weight_decay : 0.0),
                           .projected = rule.projected.value_or(projected)});
  };
  for (const GroupRule& rule : rules_) add(rule);
  add({});
}

std::size_t ParamGroups::rule_of(const std::string& name) const {
  const auto matches = [&](const GroupRule& rule) { return fnmatch(rule.params.c_str(), name.c_str(), 0) == 0; };
  return static_cast<std::size_t>(std::find_if(rules_.begin(), rules_.end(), matches) - rules_.begin());
}

int ParamGroups::of(const std::string& name, const ParamNature& nature) const {
  return static_cast<int>(4 * rule_of(name) + (nature.projected ? 2 : 0) + (nature.decays ? 1 : 0));
}

std::vector<std::string> ParamGroups::unused(const std::vector<std::string>& names) const {
  std::vector<bool> used(rules_.size() + 1);
  for (const std::string& name : names) used[rule_of(name)] = true;
  std::vector<std::string> patterns;
  for (std::size_t i = 0; i < rules_.size(); ++i)
    if (!used[i]) patterns.push_back(rules_[i].params);
  return patterns;
}

}  // namespace strata
