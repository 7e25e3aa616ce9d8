#include "launcher/config_command.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "launcher/command.h"
#include "trainer/config.h"

namespace strata {
namespace {

struct Options {
  std::string config;
  std::vector<std::string> overrides;
  int ranks = 0;
};

Status show(const Options& options) {
  STRATA_ASSIGN_OR_RETURN(Config config, load_config(options.config, options.overrides));
  if (options.ranks > 0) {
    STRATA_ASSIGN_OR_RETURN(config, resolve(config, WorldSize{options.ranks}));
  }
  std::fputs(dump(config).c_str(), stdout);
  return {};
}

}  // namespace

void add_config_command(CLI::App& app, std::function<int()>& action) {
  CLI::App* config = app.add_subcommand("config", "The configuration language");
  config->require_subcommand(1);

  CLI::App* keys = config->add_subcommand("keys", "Print every key with type, default and meaning (docs/config.md)");
  keys->callback([&action] {
    action = [] {
      std::fputs(config_reference().c_str(), stdout);
      return 0;
    };
  });

  CLI::App* shown = config->add_subcommand("show", "Print a configuration with all that it inherits, as YAML");
  const auto options = std::make_shared<Options>();
  shown->add_option("config", options->config, "YAML file")->required()->type_name("CONFIG.yaml");
  shown->add_option("overrides", options->overrides, "Values that replace the file's")->type_name("section.key=value");
  shown->add_option("--ranks", options->ranks, "Check it for this many ranks and fill in what is derived; 0: do not")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  shown->callback([options, &action] { action = [options] { return finish_command(show(*options)); }; });
}

}  // namespace strata
