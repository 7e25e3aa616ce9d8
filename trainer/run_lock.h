// Keeps a second run out of a run folder: two would write and delete each other's checkpoints.
#pragma once

#include <chrono>
#include <string>

#include "runtime/status.h"

namespace strata {

// An exclusive lock on <folder>/.lock for as long as the object lives; the kernel releases it when the process dies.
// On a file system without locks nothing is promised.
class RunLock {
 public:
  // Waits up to `wait` for a process that is just ending. io_error, naming the folder and the process that holds it.
  static Result<RunLock> take(const std::string& folder, std::chrono::milliseconds wait = std::chrono::seconds(10));
  ~RunLock();
  RunLock(RunLock&& other) noexcept;
  RunLock& operator=(RunLock&& other) noexcept;

 private:
  explicit RunLock(int fd) : fd_(fd) {}
  int fd_ = -1;
};

}  // namespace strata
