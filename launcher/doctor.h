// `strata doctor`: what this machine offers, what is missing, and which feature each lack costs.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace strata {

struct DoctorOptions {
  bool json = false;
  std::vector<std::string> paths = {"."};  // folders whose O_DIRECT support is tried
};

// Prints the findings; a lack is a finding, never a failure. Returns the process's exit code, 0.
int run_doctor(const DoctorOptions& options);

// Adds `doctor`. When it is given on the command line, parsing sets `action` to what runs it.
void add_doctor_command(CLI::App& app, std::function<int()>& action);

}  // namespace strata
