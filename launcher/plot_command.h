// `strata plot RUN_DIR`: the loss curve of a run as text.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace strata {

// As add_data_command.
void add_plot_command(CLI::App& app, std::function<int()>& action);

}  // namespace strata
