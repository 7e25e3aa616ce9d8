#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace strata {

// `strata train CONFIG [section.key=value ...]` and `strata plan CONFIG [section.key=value ...] [--json]`.
// When one is given on the command line, parsing sets `action` to what runs it.
void add_train_command(CLI::App& app, std::function<int()>& action);
void add_plan_command(CLI::App& app, std::function<int()>& action);

}  // namespace strata
