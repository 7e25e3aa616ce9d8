// What every command of the program shares: how an error becomes a line and an exit code.
#pragma once

#include "runtime/status.h"
#include "trainer/environment.h"

namespace strata {

// Prints "strata: error: <message>" to stderr unless ok; returns the exit code (0; 2 wrong configuration; 1 anything else).
int finish_command(const Status& status);

// The same of a rank of a run. One speaks for all when all failed alike (a wrong config); a rank that failed alone speaks for
// itself.
int finish_rank(const Status& status, const Environment& environment);

// Of a run that a signal ended before its last step, its checkpoint saved: the same command goes on (sysexits' EX_TEMPFAIL).
inline constexpr int kStoppedExitCode = 75;

// The rank that mpirun or srun gave to this process, before MPI starts, is 0; so it is where there is none.
bool first_of_launch();

}  // namespace strata
