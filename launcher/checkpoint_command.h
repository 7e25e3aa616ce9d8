#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace strata {

// `strata checkpoint list|verify|digest DIR` and `strata model import|export`; see add_train_command.
void add_checkpoint_command(CLI::App& app, std::function<int()>& action);
void add_model_command(CLI::App& app, std::function<int()>& action);

}  // namespace strata
