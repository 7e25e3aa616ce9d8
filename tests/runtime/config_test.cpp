#include "runtime/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

namespace strata {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

enum class Colour { red, green };

struct Options {
  std::int64_t count = 3;
  std::int64_t derived = 0;
  double rate = 0.5;
  bool flag = false;
  std::optional<bool> maybe;
  std::string name = "plain";
  std::vector<std::string> paths;
  std::vector<double> weights;
  std::uint64_t size = 4096;
  std::optional<std::uint64_t> budget;
  double timeout = 60.0;
  Colour colour = Colour::red;
};

// A schema and what it is bound to.
struct Bound {
  Options o;
  ConfigSchema schema;
  Bound() {
    schema.section("part", "A part.");
    schema.section("other", "Another.");
    schema.add("part.count", o.count, "How many.").at_least(1).at_most(100).alias("number").alias("outer.inner.count");
    schema.add("part.derived", o.derived, "Follows.").at_least(1).automatic("count");
    schema.add("part.rate", o.rate, "A rate.").greater_than(0).less_than(1);
    schema.add("part.flag", o.flag, "A flag.").alias("legacy", {{"yes", "true"}, {"no", "false"}});
    schema.add("part.maybe", o.maybe, "A flag or not.").automatic("decided later");
    schema.add("part.deep.name", o.name, "A name.").automatic("none");
    schema.add("part.paths", o.paths, "Paths.");
    schema.add("part.weights", o.weights, "Weights.").greater_than(0).automatic("measured");
    schema.add_bytes("other.size", o.size, "A size.").at_least(512);
    schema.add_bytes("other.budget", o.budget, "A budget.").automatic("all");
    schema.add_duration("other.timeout", o.timeout, "A time.").greater_than(0);
    schema.add_choice<Colour>("other.colour", o.colour,
                              {{"red", Colour::red}, {"green", Colour::green}, {"verde", Colour::green}}, "A colour.");
    schema.reject("ancient", "no longer known");
  }
  Status parse(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
    return schema.parse_text(yaml, "t.yaml", overrides);
  }
};

std::string problems_of(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  Bound b;
  const Status status = b.parse(yaml, overrides);
  EXPECT_EQ(status.code(), Code::invalid_config) << yaml;
  return status.message();
}

class ConfigFiles : public ::testing::Test {
 protected:
  ConfigFiles() : folder_(std::filesystem::temp_directory_path() / ("strata_config_test_" + std::to_string(getpid()))) {
    std::filesystem::create_directories(folder_ / "sub");
  }
  ~ConfigFiles() override { std::filesystem::remove_all(folder_); }
  std::string write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
    return (folder_ / name).string();
  }
  std::filesystem::path folder_;
};

TEST(Config, ReadsEveryType) {
  Bound b;
  const Status status = b.parse(
      "part: {count: 7, derived: 16Ki, rate: 0.25, flag: true, maybe: false, deep: {name: 'x y'}, paths: [a, b/c]}\n"
      "other: {size: 4MiB, budget: 1.5GB, timeout: 2min, colour: Verde}\n");
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(b.o.count, 7);
  EXPECT_EQ(b.o.derived, 16384);
  EXPECT_EQ(b.o.rate, 0.25);
  EXPECT_TRUE(b.o.flag);
  EXPECT_EQ(b.o.maybe, std::optional(false));
  EXPECT_EQ(b.o.name, "x y");
  EXPECT_THAT(b.o.paths, ElementsAre("a", "b/c"));
  EXPECT_EQ(b.o.size, 4u << 20);
  EXPECT_EQ(b.o.budget, 1500000000u);
  EXPECT_EQ(b.o.timeout, 120.0);
  EXPECT_EQ(b.o.colour, Colour::green);
}

TEST(Config, EmptyTextKeepsDefaults) {
  for (const char* yaml : {"", "\n# a comment\n", "part:\nother: {}\n", "---\n"}) {
    Bound b;
    EXPECT_TRUE(b.parse(yaml).ok()) << yaml;
    EXPECT_EQ(b.o.count, 3);
  }
}

TEST(Config, UnknownKeyNamesNearestKeyAndLine) {
  EXPECT_EQ(problems_of("part:\n  count: 2\n  cuont: 3\n"), "t.yaml:3: unknown key part.cuont; did you mean part.count?");
  EXPECT_EQ(problems_of("count: 3"), "t.yaml:1: unknown key count; did you mean part.count?");
  EXPECT_EQ(problems_of("part: {numbr: 3}"), "t.yaml:1: unknown key part.numbr; did you mean part.count?");
  EXPECT_EQ(problems_of("oter: {size: 4KiB}"), "t.yaml:1: unknown key oter.size; did you mean other.size?");
  EXPECT_THAT(problems_of("part: {zzzzzzzz: 3}"), HasSubstr("the keys of part are part.count, part.derived"));
  EXPECT_THAT(problems_of("zzzzzzzz: 3"), HasSubstr("the sections are part, other"));
}

TEST(Config, WrongTypeSaysWhatWasFoundAndWhatIsExpected) {
  EXPECT_EQ(problems_of("part: {count: many}"), "t.yaml:1: part.count: expected an integer, found \"many\"");
  EXPECT_EQ(problems_of("part: {count: 1.5}"), "t.yaml:1: part.count: expected an integer, found \"1.5\"");
  EXPECT_EQ(problems_of("part: {count: '7'}"), "t.yaml:1: part.count: expected an integer, found \"7\" in quotes");
  EXPECT_EQ(problems_of("part: {count: [1, 2]}"), "t.yaml:1: part.count: expected an integer, found a list of 2");
  EXPECT_EQ(problems_of("part:\n  count:\n"), "t.yaml:2: part.count: expected an integer, found nothing");
  EXPECT_EQ(problems_of("part: {derived: x}"), "t.yaml:1: part.derived: expected an integer or auto, found \"x\"");
  EXPECT_EQ(problems_of("part: {flag: 1}"), "t.yaml:1: part.flag: expected true or false, found \"1\"");
  EXPECT_EQ(problems_of("part: {rate: nan}"), "t.yaml:1: part.rate: expected a number, found \"nan\"");
  EXPECT_EQ(problems_of("other: {colour: blue}"), "t.yaml:1: other.colour: expected one of red, green, found \"blue\"");
  EXPECT_EQ(problems_of("other: {size: 4G}"),
            "t.yaml:1: other.size: expected a size such as 512MiB, 4GiB or 4GB, found \"4G\"");
  EXPECT_THAT(problems_of("part: {count: {a: 1}}"),
              HasSubstr("part.count: expected an integer, found a section with the key part.count.a"));
  EXPECT_THAT(problems_of("part: 3"), HasSubstr("part: is a section; expected keys below it, found \"3\""));
  EXPECT_THAT(problems_of("part: {paths: [[a]]}"), HasSubstr("every item of the list must be a single value, found a list"));
}

TEST(Config, NumbersMayBeOneOrAList) {
  Bound b;
  EXPECT_EQ(b.parse("part: {weights: [1, 2.5, 1e3]}").message(), "");
  EXPECT_EQ(b.o.weights, (std::vector<double>{1, 2.5, 1000}));
  EXPECT_EQ(b.parse("part: {weights: 3}").message(), "");
  EXPECT_EQ(b.o.weights, std::vector<double>{3});
  EXPECT_EQ(b.parse("part: {weights: auto}").message(), "");
  EXPECT_TRUE(b.o.weights.empty());
  EXPECT_EQ(problems_of("part: {weights: [1, two]}"),
            "t.yaml:1: part.weights: expected a number or a list of numbers or auto, found a list of 2");
  EXPECT_THAT(problems_of("part: {weights: [1, 0]}"), HasSubstr("greater than 0"));
  EXPECT_THAT(problems_of("part: {weights: []}"), HasSubstr("expected a number or a list of numbers"));
}

TEST(Config, RangesAreCheckedAtTheirEdges) {
  for (const char* good :
       {"part: {count: 1}", "part: {count: 100}", "other: {size: 512}", "part: {derived: auto}", "part: {derived: 1}"}) {
    EXPECT_TRUE(Bound().parse(good).ok()) << good;
  }
  EXPECT_EQ(problems_of("part: {count: 0}"), "t.yaml:1: part.count: must be at least 1 and at most 100, found 0");
  EXPECT_THAT(problems_of("part: {count: 101}"), HasSubstr("found 101"));
  EXPECT_THAT(problems_of("part: {rate: 0}"), HasSubstr("must be greater than 0 and less than 1"));
  EXPECT_THAT(problems_of("part: {rate: 1.0}"), HasSubstr("must be greater than 0 and less than 1"));
  EXPECT_THAT(problems_of("other: {size: 511}"), HasSubstr("must be at least 512"));
  EXPECT_THAT(problems_of("part: {derived: -1}"), HasSubstr("must be at least 1"));
}

TEST(Config, KeysGivenTwiceAreErrorsAlsoThroughAliases) {
  EXPECT_EQ(problems_of("part:\n  count: 1\n  count: 2\n"), "t.yaml:3: part.count is given twice, first at t.yaml:2");
  EXPECT_EQ(problems_of("number: 1\npart: {count: 2}\n"), "t.yaml:2: part.count is given twice, first at t.yaml:1");
  EXPECT_THAT(problems_of("part: {count: 1}\npart: {rate: 0.1}\n"),
              HasSubstr("t.yaml:2: part is given twice, first at t.yaml:1"));
  EXPECT_THAT(problems_of("part: {number: 1}\nouter: {inner: {count: 5}}\n"),
              HasSubstr("part.count (here outer.inner.count) is given twice"));
}

TEST(Config, AllProblemsAreReportedAtOnce) {
  const std::string message = problems_of("part:\n  count: x\n  nmae: 1\nother: {size: 1}\n", {"part.rate=2", "nonsense"});
  EXPECT_THAT(message, AllOf(HasSubstr("5 problems"), HasSubstr("t.yaml:2"), HasSubstr("t.yaml:3"), HasSubstr("t.yaml:4"),
                             HasSubstr("argument \"part.rate=2\": part.rate: must be"),
                             HasSubstr("argument \"nonsense\": expected section.key=value")));
}

TEST(Config, AliasesAreReadAndTranslated) {
  Bound b;
  ASSERT_TRUE(b.parse("number: 9\nlegacy: yes\n").ok());
  EXPECT_EQ(b.o.count, 9);
  EXPECT_TRUE(b.o.flag);
  EXPECT_TRUE(Bound().parse("part: {number: 9}").ok());
  EXPECT_TRUE(Bound().parse("outer.inner.count: 9").ok());
  EXPECT_THAT(problems_of("legacy: perhaps"), HasSubstr("part.flag (here legacy): expected true or false"));
  EXPECT_EQ(problems_of("ancient: {thing: 1}"), "t.yaml:1: ancient.thing: no longer known");
}

TEST(Config, AutomaticStandsForTheDerivedValue) {
  Bound b;
  b.o.derived = 4;
  b.o.maybe = true;
  b.o.budget = 1;
  ASSERT_TRUE(b.parse("part: {derived: \"auto\", maybe: auto, deep: {name: auto}}\nother: {budget: auto}\n").ok());
  EXPECT_EQ(b.o.derived, 0);
  EXPECT_FALSE(b.o.maybe.has_value());
  EXPECT_EQ(b.o.name, "");
  EXPECT_FALSE(b.o.budget.has_value());
  ASSERT_TRUE(b.parse("part: {deep: {name: \"auto\"}}").ok());
  EXPECT_EQ(b.o.name, "auto") << "a text in quotes is a text";
  EXPECT_THAT(problems_of("part: {count: auto}"), HasSubstr("expected an integer, found"));
}

TEST(Config, OverridesWinAndTheLastOneOfAKeyCounts) {
  Bound b;
  ASSERT_TRUE(
      b.parse("part: {count: 5}", {"part.count=6", "part.paths=[x, y]", "part.deep.name=a=b", "other={size: 1KiB}", "number=8"})
          .ok());
  EXPECT_EQ(b.o.count, 8);
  EXPECT_THAT(b.o.paths, ElementsAre("x", "y"));
  EXPECT_EQ(b.o.name, "a=b");
  EXPECT_EQ(b.o.size, 1024u);
  EXPECT_THAT(problems_of("", {"part.cuont=1"}),
              HasSubstr("argument \"part.cuont=1\": unknown key part.cuont; did you mean part.count?"));
  EXPECT_THAT(problems_of("", {"part.paths=[a"}), HasSubstr("argument \"part.paths=[a\": not valid YAML"));
  EXPECT_THAT(problems_of("", {"=1"}), HasSubstr("expected section.key=value"));
  EXPECT_THAT(problems_of("", {"part.count="}), HasSubstr("found nothing"));
}

TEST(Config, BadYamlNeverCrashesAndNamesTheLine) {
  EXPECT_THAT(problems_of("part:\n  count: [1\n"), HasSubstr("t.yaml:"));
  EXPECT_THAT(problems_of("part: {count: 1\nother: }{"), HasSubstr("not valid YAML"));
  EXPECT_THAT(problems_of("- a\n- b\n"), HasSubstr("expected a map of sections, found a list"));
  EXPECT_THAT(problems_of("text"), HasSubstr("expected a map of sections, found \"text\""));
  EXPECT_THAT(problems_of("part: {count: 1}\n---\npart: {count: 2}\n"), HasSubstr("a second YAML document"));
  EXPECT_THAT(problems_of("? [a, b]\n: 1\n"), HasSubstr("a key must be a word, found a list"));
  EXPECT_THAT(problems_of("part: &x {count: 1, deep: *y}\n"), HasSubstr("not valid YAML"));
  EXPECT_FALSE(Bound().parse(std::string(100000, '[')).ok());
  EXPECT_FALSE(Bound().parse("part: " + std::string(2000, '{')).ok());
  EXPECT_FALSE(Bound().parse(std::string("part: \0 \xff\xfe", 10)).ok());
}

TEST(Config, AliasesThatMultiplyAreRefused) {
  std::string yaml = "a0: &a0 {x: 1, y: 2}\n";
  for (int i = 1; i < 15; ++i) {
    const std::string below = "*a" + std::to_string(i - 1);
    yaml += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " {p: " + below + ", q: " + below + ", r: " + below +
            ", s: " + below + "}\n";
  }
  EXPECT_THAT(problems_of(yaml), HasSubstr("nested too deep or too large"));
}

TEST_F(ConfigFiles, BaseIsInheritedOverSeveralLevelsRelativeToTheFile) {
  write("root.yaml", "part: {count: 10, rate: 0.1, paths: [r1, r2]}\n");
  write("sub/middle.yaml", "base: ../root.yaml\npart: {count: 20, deep: {name: middle}}\n");
  const std::string top = write("top.yaml", "part: {paths: [t]}\nbase: sub/middle.yaml\n");
  Bound b;
  const Status status = b.schema.parse_file(top, {"part.rate=0.9"});
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(b.o.count, 20);
  EXPECT_EQ(b.o.rate, 0.9);
  EXPECT_EQ(b.o.name, "middle");
  EXPECT_THAT(b.o.paths, ElementsAre("t"));
}

TEST_F(ConfigFiles, BasesThatFormACycleOrDoNotExistAreErrors) {
  write("a.yaml", "\nbase: b.yaml\n");
  const std::string b_path = write("b.yaml", "base: ./sub/../a.yaml\n");
  EXPECT_THAT(Bound().schema.parse_file(b_path, {}).message(),
              AllOf(HasSubstr("a.yaml:2: base: "), HasSubstr("inherits from itself")));
  const std::string lost = write("lost.yaml", "base: nowhere.yaml\n");
  EXPECT_THAT(Bound().schema.parse_file(lost, {}).message(),
              AllOf(HasSubstr("lost.yaml:1: base: "), HasSubstr("nowhere.yaml: cannot be opened: No such file")));
  const std::string list = write("list.yaml", "base: [a.yaml, b.yaml]\n");
  EXPECT_THAT(Bound().schema.parse_file(list, {}).message(), HasSubstr("expected the path of one file, found a list of 2"));
}

// part.derived can be auto: the file gives it where nothing else does.
TEST_F(ConfigFiles, ADefaultsFileGivesWhatIsLeftAuto) {
  write("sub/parts.yaml", "derived: 7\nweights: 2.5\n");
  const std::string named = write("named.yaml", "part: {defaults: sub/parts.yaml}\n");
  const auto derived = [](const std::string& file, const std::vector<std::string>& overrides) {
    Bound b;
    b.schema.add_defaults_file("part.defaults", "part", "More of the part.").automatic("none");
    const Status status = b.schema.parse_file(file, overrides);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_THAT(b.schema.dump(), HasSubstr("defaults: auto"));
    return std::pair(b.o.derived, b.o.weights);
  };
  using Parts = std::pair<std::int64_t, std::vector<double>>;
  EXPECT_EQ(derived(named, {}), Parts(7, {2.5}));
  EXPECT_EQ(derived(named, {"part.derived=9"}), Parts(9, {2.5}));
  EXPECT_EQ(derived(named, {"part.defaults=auto"}), Parts(0, {}));
  EXPECT_EQ(derived(write("sub/inherits.yaml", "base: ../named.yaml\npart: {derived: 3}\n"), {}), Parts(3, {2.5}));
  const std::string other = write("sub/other.yaml", "derived: 8\n");
  EXPECT_EQ(derived(named, {"part.defaults=" + other}), Parts(8, {}));
}

TEST_F(ConfigFiles, AWordMayStandForADefaultsFile) {
  write("parts.yaml", "derived: 7\n");
  const std::string file = write("file.yaml", "part: {defaults: parts.yaml}\n");
  const std::string word = write("word.yaml", "base: file.yaml\npart: {defaults: measure}\n");
  const auto chosen = [](const std::string& config, const std::vector<std::string>& overrides) {
    Bound b;
    bool measure = false;
    b.schema.add_defaults_file("part.defaults", "part", "More.").or_word("measure", measure).automatic("none");
    const Status status = b.schema.parse_file(config, overrides);
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_THAT(b.schema.dump(), HasSubstr(measure ? "defaults: measure" : "defaults: auto"));
    return std::pair(measure, b.o.derived);
  };
  using Chosen = std::pair<bool, std::int64_t>;
  EXPECT_EQ(chosen(file, {}), Chosen(false, 7));
  EXPECT_EQ(chosen(word, {}), Chosen(true, 0));
  EXPECT_EQ(chosen(word, {"part.defaults=auto"}), Chosen(false, 0));
  EXPECT_EQ(chosen(word, {"part.defaults=" + (folder_ / "parts.yaml").string()}), Chosen(false, 7));
  write("measure", "derived: 8\n");
  EXPECT_EQ(chosen(write("quoted.yaml", "part: {defaults: 'measure'}\n"), {}), Chosen(false, 8));
}

TEST_F(ConfigFiles, ADefaultsFileThatIsWrongIsAnErrorWithItsLine) {
  const auto problem = [](const std::string& file) {
    Bound b;
    b.schema.add_defaults_file("part.defaults", "part", "More of the part.").automatic("none");
    return b.schema.parse_file(file, {}).message();
  };
  EXPECT_EQ(problem(write("lost.yaml", "part:\n  defaults: sub/nowhere.yaml\n")),
            (folder_ / "lost.yaml:2: part.defaults: ").string() +
                (folder_ / "sub/nowhere.yaml: cannot be opened: No such file or directory").string());
  EXPECT_THAT(problem(write("list.yaml", "part: {defaults: [a, b]}\n")),
              HasSubstr("part.defaults: expected the path of a file or auto, found a list of 2"));
  EXPECT_THAT(problem(write("folder.yaml", "part: {defaults: sub}\n")), HasSubstr("sub: is a folder"));
  write("bad.yaml", "\nderive: 1\ncount: 500\nrate: fast\n");
  EXPECT_THAT(problem(write("named.yaml", "part: {defaults: bad.yaml, rate: 0.25}\n")),
              AllOf(HasSubstr("3 problems"), HasSubstr("bad.yaml:2: unknown key part.derive; did you mean part.derived?"),
                    HasSubstr("bad.yaml:3: part.count: must be at least 1 and at most 100, found 500"),
                    HasSubstr("bad.yaml:4: part.rate: expected a number, found \"fast\"")));
}

TEST_F(ConfigFiles, UnreadableFilesAreErrors) {
  EXPECT_THAT(Bound().schema.parse_file((folder_ / "none.yaml").string(), {}).message(),
              HasSubstr("cannot be opened: No such file"));
  EXPECT_THAT(Bound().schema.parse_file(folder_.string(), {}).message(), HasSubstr("is a folder"));
  EXPECT_THAT(Bound().schema.parse_file("/dev/zero", {}).message(), HasSubstr("larger than"));
}

TEST(Config, DumpParsesBackToTheSame) {
  Bound a;
  a.o = {42,
         0,
         1.0 / 3.0,
         true,
         std::nullopt,
         "auto",
         {"a b", "", "null", "it's \"q\" \\ \n\x01", "~", "-x", "3", "#c", "é"},
         {1.0 / 3.0, 2},
         3u << 20,
         5,
         0.1,
         Colour::green};
  const std::string yaml = a.schema.dump();
  Bound b;
  const Status status = b.parse(yaml);
  ASSERT_TRUE(status.ok()) << status.message() << yaml;
  EXPECT_EQ(b.schema.dump(), yaml);
  EXPECT_EQ(b.o.rate, a.o.rate);
  EXPECT_EQ(b.o.timeout, a.o.timeout);
  EXPECT_EQ(b.o.paths, a.o.paths);
  EXPECT_EQ(b.o.weights, a.o.weights);
  EXPECT_EQ(b.o.name, "auto");
  EXPECT_EQ(b.o.derived, 0);
  EXPECT_THAT(yaml, AllOf(HasSubstr("part:\n  count: 42\n  derived: auto\n"),
                          HasSubstr("  deep:\n    name: \"auto\"\n  paths:"), HasSubstr("  size: 3MiB\n")));
}

TEST(Config, ReferenceListsKeysWithTypeDefaultRangeAndSpellings) {
  Bound b;
  EXPECT_THAT(b.schema.keys(),
              ElementsAre("part.count", "part.derived", "part.rate", "part.flag", "part.maybe", "part.deep.name", "part.paths",
                          "part.weights", "other.size", "other.budget", "other.timeout", "other.colour"));
  const std::string text = b.schema.reference();
  EXPECT_THAT(text, HasSubstr("## part\n\nA part.\n"));
  EXPECT_THAT(text, HasSubstr("| `part.count` | an integer | `3` | How many. Must be at least 1 and at most 100. Also: "
                              "`number`, `outer.inner.count`. |\n"));
  EXPECT_THAT(text, HasSubstr("| `part.derived` | an integer | `auto` | Follows. `auto`: count. Must be at least 1. |\n"));
  EXPECT_THAT(text, Not(HasSubstr("part.number")));
}

TEST(Config, ClashingKeysAreAContractViolation) {
  ConfigSchema schema;
  std::int64_t a = 0, b = 0;
  schema.add("x.a", a, "").alias("same");
  schema.add("x.b", b, "").alias("same");
  EXPECT_THROW((void)schema.parse_text("", "t", {}), ContractViolation);
}

TEST(ConfigValues, Integers) {
  EXPECT_EQ(parse_integer("0"), 0);
  EXPECT_EQ(parse_integer("-7"), -7);
  EXPECT_EQ(parse_integer("+7"), 7);
  EXPECT_EQ(parse_integer("1_000_000"), 1000000);
  EXPECT_EQ(parse_integer("1e6"), 1000000);
  EXPECT_EQ(parse_integer("16Mi"), 16 << 20);
  EXPECT_EQ(parse_integer("9223372036854775807"), std::numeric_limits<std::int64_t>::max());
  for (const char* bad :
       {"", " ", "x", "1x", "1.5", "0x10", "_1", "1_", "1__0", "--1", "9223372036854775808", "1e400", "inf", "1e-1", "1 2"}) {
    EXPECT_FALSE(parse_integer(bad)) << bad;
  }
}

TEST(ConfigValues, NumbersBytesAndDurations) {
  EXPECT_EQ(parse_number("1e-3"), 1e-3);
  EXPECT_EQ(parse_number(" -2.5 "), -2.5);
  for (const char* bad : {"", "nan", "inf", "1e999", "1,5", "2s"}) EXPECT_FALSE(parse_number(bad)) << bad;
  EXPECT_EQ(parse_bytes("0"), 0u);
  EXPECT_EQ(parse_bytes("512"), 512u);
  EXPECT_EQ(parse_bytes("4 KiB"), 4096u);
  EXPECT_EQ(parse_bytes("1.5gib"), 1610612736u);
  EXPECT_EQ(parse_bytes("2TB"), 2000000000000u);
  EXPECT_EQ(parse_bytes("28.032PB"), 28032000000000000u);
  EXPECT_EQ(parse_bytes("1024PiB"), std::uint64_t{1} << 60);
  EXPECT_FALSE(parse_bytes("1025PiB"));
  for (const char* bad : {"", "4G", "-1", "KiB", "1e30", "4 GiBs"}) EXPECT_FALSE(parse_bytes(bad)) << bad;
  EXPECT_EQ(parse_duration("90"), 90.0);
  EXPECT_EQ(parse_duration("1.5min"), 90.0);
  EXPECT_EQ(parse_duration("500ms"), 0.5);
  EXPECT_EQ(parse_duration("2h"), 7200.0);
  EXPECT_FALSE(parse_duration("2d"));
  EXPECT_FALSE(parse_duration("1e308h")) << "the product is infinite";
  EXPECT_EQ(parse_duration("1e308s"), 1e308);
  EXPECT_EQ(exact_bytes(std::uint64_t{3} << 30), "3GiB");
  EXPECT_EQ(exact_bytes(1000), "1000");
  EXPECT_EQ(exact_bytes(0), "0");
}

TEST(ConfigValues, EditDistanceCountsSwapsOnce) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("abc", ""), 3);
  EXPECT_EQ(edit_distance("abc", "abd"), 1);
  EXPECT_EQ(edit_distance("abc", "acb"), 1);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
}

}  // namespace
}  // namespace strata
