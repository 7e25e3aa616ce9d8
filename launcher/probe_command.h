// `strata probe`: measures this machine for a configuration, for device.hardware.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace strata {

void add_probe_command(CLI::App& app, std::function<int()>& action);

}  // namespace strata
