// Processes of a test's own: forked, so that what is shared between ranks is shared between processes. Their bodies start no
// threads (the ThreadSanitizer allows none after a fork).
#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <new>
#include <stdexcept>

namespace strata {

// Memory that forked processes have in common.
template <class T>
class SharedBetweenProcesses {
 public:
  SharedBetweenProcesses() {
    void* memory = ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    value_ = new (memory) T();
  }
  ~SharedBetweenProcesses() { ::munmap(value_, sizeof(T)); }
  SharedBetweenProcesses(const SharedBetweenProcesses&) = delete;
  SharedBetweenProcesses& operator=(const SharedBetweenProcesses&) = delete;
  T* operator->() const { return value_; }

 private:
  T* value_ = nullptr;
};

// Runs `body` in a process of its own, which ends with what it returns.
class ChildProcess {
 public:
  explicit ChildProcess(const std::function<int()>& body) : pid_(::fork()) {
    if (pid_ < 0) throw std::runtime_error("fork");
    if (pid_ > 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    std::_Exit(body());
  }
  ~ChildProcess() {
    if (pid_ > 0) end_with(SIGKILL);
  }
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  void send(int signal) const { ::kill(pid_, signal); }
  // Exit code; -1: a signal ended it.
  int wait() {
    int state = 0;
    ::waitpid(pid_, &state, 0);
    pid_ = -1;
    return WIFEXITED(state) ? WEXITSTATUS(state) : -1;
  }
  void end_with(int signal) {
    send(signal);
    (void)wait();
  }

 private:
  pid_t pid_;
};

}  // namespace strata
