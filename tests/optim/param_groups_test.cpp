// Mutations that must fail: the last rule that matches counts; a rule's decay ignored for norms; a pattern that matches a part.
#include "optim/param_groups.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace strata {
namespace {

using ::testing::HasSubstr;

GroupRule rule(const std::string& text) {
  const Result<GroupRule> parsed = parse_group_rule(text);
  EXPECT_TRUE(parsed.ok()) << parsed.status().message();
  return parsed.ok() ? *parsed : GroupRule{};
}

TEST(ParamGroupsTest, WithoutRulesOnlyWhatDecaysByItsNatureDoes) {
  const ParamGroups groups(0.1);
  EXPECT_EQ(groups[groups.of("layers.0.attn.q.weight", {.decays = true})], (ParamGroup{.weight_decay = 0.1}));
  EXPECT_EQ(groups[groups.of("norm.weight", {.decays = false})], ParamGroup{});
}

TEST(ParamGroupsTest, TheFirstRuleThatMatchesTheWholeNameCounts) {
  const ParamGroups groups(0.1, {rule("layers.?.attn.* lr_scale=0.5"), rule("*.attn.q.* lr_scale=2 weight_decay=0.3"),
                                 rule("norm weight_decay=0.2"), rule("norm.* weight_decay=0.4")});
  EXPECT_EQ(groups[groups.of("layers.0.attn.q.weight", {.decays = true})], (ParamGroup{.lr_scale = 0.5, .weight_decay = 0.1}));
  EXPECT_EQ(groups[groups.of("layers.0.attn.q.bias", {.decays = false})], (ParamGroup{.lr_scale = 0.5}));
  EXPECT_EQ(groups[groups.of("layers.10.attn.q.weight", {.decays = true})], (ParamGroup{.lr_scale = 2.0, .weight_decay = 0.3}));
  EXPECT_EQ(groups[groups.of("norm.weight", {.decays = false})], (ParamGroup{.weight_decay = 0.4}))
      << "a rule may make a norm decay";
  EXPECT_EQ(groups[groups.of("head.weight", {.decays = true})], (ParamGroup{.weight_decay = 0.1}));
}

TEST(ParamGroupsTest, KnowsTheRulesThatNobodyNeeds) {
  const ParamGroups groups(0.1, {rule("*.weight lr_scale=1"), rule("a.* lr_scale=2"), rule("b.bias lr_scale=3")});
  EXPECT_EQ(groups.unused({"a.weight", "b.bias"}), std::vector<std::string>{"a.*"});
  EXPECT_TRUE(groups.unused({"a.weight", "a.bias", "b.bias"}).empty());
}

TEST(ParamGroupsTest, SaysWhatIsWrongWithAText) {
  const auto problem = [](const std::string& text) {
    const Result<GroupRule> parsed = parse_group_rule(text);
    return parsed.ok() ? std::string() : parsed.status().message();
  };
  EXPECT_THAT(problem(""), HasSubstr("has no pattern"));
  EXPECT_THAT(problem("lr_scale=2"), HasSubstr("has no pattern"));
  EXPECT_THAT(problem("a.*"), HasSubstr("\"a.*\": says nothing"));
  EXPECT_THAT(problem("a.* lr=2"), HasSubstr("\"lr=2\" is no setting of a group"));
  EXPECT_THAT(problem("a.* b.* lr_scale=2"), HasSubstr("\"b.*\" is no setting"));
  EXPECT_THAT(problem("a.* lr_scale=fast"), HasSubstr("is not a number that is at least 0"));
  EXPECT_THAT(problem("a.* weight_decay=-1"), HasSubstr("is not a number that is at least 0"));
  EXPECT_THAT(problem("a.* lr_scale=1 lr_scale=2"), HasSubstr("lr_scale is given twice"));
}

}  // namespace
}  // namespace strata
