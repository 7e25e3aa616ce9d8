#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace strata {

// `strata generate CHECKPOINT_DIR --prompt TEXT`; see add_train_command.
void add_generate_command(CLI::App& app, std::function<int()>& action);

}  // namespace strata
