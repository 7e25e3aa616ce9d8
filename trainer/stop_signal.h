// SIGTERM and SIGUSR1 ask for a checkpoint and a clean end at the next step boundary.
#pragma once

namespace strata {

// Installs the handlers; call before MPI starts, whose launcher forwards these signals. Process-wide, idempotent.
void install_stop_signals();
// The signal that asked to stop, or 0. Any thread.
int stop_signal();
// Forgets it (tests; a program that trains several times).
void clear_stop_signal();

}  // namespace strata
