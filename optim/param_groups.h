// Which hyper-parameters hold for which parameter, by its name.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/status.h"

namespace strata {

struct ParamGroup {
  double lr_scale = 1.0;  // multiplies the schedule's learning rate
  double weight_decay = 0.0;
  bool projected = false;  // optimizers that treat a part of the parameters in their own way (FRUGAL) do so with this one
  bool operator==(const ParamGroup&) const = default;
};

// What holds for parameters whose name matches. Absent: as for those that no rule matches.
struct GroupRule {
  std::string params;  // fnmatch(3) pattern of the whole name: * any characters, ? one, [ab] one of these
  std::optional<double> lr_scale = {}, weight_decay = {};
  std::optional<bool> projected = {};
  bool operator==(const GroupRule&) const = default;
};

// What a parameter is by its nature.
struct ParamNature {
  bool decays = true;      // all but norms and biases
  bool projected = false;  // weights of linear layers inside the model's blocks
};

// "PATTERN lr_scale=NUMBER weight_decay=NUMBER projected=true|false", one of these or more. Error invalid_config: what is
// wrong, with the text.
Result<GroupRule> parse_group_rule(const std::string& text);

class ParamGroups {
 public:
  // weight_decay: of parameters that decay by their nature (all but norms and biases) where no rule says otherwise.
  explicit ParamGroups(double weight_decay = 0.0, std::vector<GroupRule> rules = {});

  // The group of a parameter: by the first rule that matches.
  int of(const std::string& name, const ParamNature& nature) const;
  const ParamGroup& operator[](int group) const { return groups_[static_cast<std::size_t>(group)]; }
  const std::vector<GroupRule>& rules() const { return rules_; }
  // Patterns of the rules that come first for none of `names`: most likely a typing error.
  std::vector<std::string> unused(const std::vector<std::string>& names) const;

 private:
  std::size_t rule_of(const std::string& name) const;  // rules_.size(): none

  std::vector<GroupRule> rules_;
  std::vector<ParamGroup> groups_;  // for each rule, and for none, of each of the four natures
};

}  // namespace strata
