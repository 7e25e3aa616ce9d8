// What every command of the program shares: how an error becomes a line and an exit code.
#pragma once

#include "runtime/status.h"

namespace strata {

// Prints "strata: error: <message>" to stderr unless ok; returns the exit code (0; 2 wrong configuration; 1 anything else).
int finish_command(const Status& status);

}  // namespace strata
