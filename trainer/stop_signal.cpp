#include "trainer/stop_signal.h"

#include <atomic>
#include <csignal>

namespace strata {
namespace {

// A signal handler can reach nothing else.
std::atomic<int> received{0};
static_assert(std::atomic<int>::is_always_lock_free);

void on_signal(int signal) { received.store(signal); }

}  // namespace

void install_stop_signals() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGUSR1, &action, nullptr);
}

int stop_signal() { return received.load(); }
void clear_stop_signal() { received.store(0); }

}  // namespace strata
