#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace strata {

// `strata config keys` and `strata config show CONFIG [section.key=value ...]`; see add_train_command.
void add_config_command(CLI::App& app, std::function<int()>& action);

}  // namespace strata
