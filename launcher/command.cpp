#include "launcher/command.h"

#include <cstdio>

namespace strata {

int finish_command(const Status& status) {
  if (!status.ok()) std::fprintf(stderr, "strata: error: %s\n", status.message().c_str());
  return exit_code(status);
}

}  // namespace strata
