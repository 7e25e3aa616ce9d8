// `strata data ...`: prepares token files, describes them, and measures the bigram baseline.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace strata {

// Adds the command and its subcommands to `app`. When the user chooses one of them, parsing sets `action` to what it should
// do; calling it returns the exit code of the process. `app` and `action` must outlive parsing.
void add_data_command(CLI::App& app, std::function<int()>& action);

}  // namespace strata
