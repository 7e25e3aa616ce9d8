// Turns at one folder: of everything on this host that takes them there, one at a time reads and one writes.
//
// The token is an empty file in the folder whose bytes are locked, one for each direction. The kernel keeps the locks, in
// memory: a holder that dies gives its turn back, what a killed run leaves says nothing, and a drive that hangs holds up nobody
// who only waits. Each object is a holder of its own, in whatever process or thread. (Where the file system shares locks
// between hosts, all of them take turns.)
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>

#include "nvme/io_engine.h"
#include "runtime/status.h"

namespace strata {

class TurnFile {
 public:
  static constexpr const char* kName = "strata_turns.lock";

  // Makes the file unless it is there. Errors: the folder cannot be written to, or its file system has no locks.
  static Result<std::unique_ptr<TurnFile>> open(const std::string& folder);
  // Holds no turn. The last to leave removes the file, unless leave_file() was called.
  ~TurnFile();
  TurnFile(const TurnFile&) = delete;
  TurnFile& operator=(const TurnFile&) = delete;

  // Waits for the turn to `way`. One of those who wait is next, and nobody overtakes it, whoever had the turn before included.
  // An error after `limit` without success names folder, direction and, where it can be seen, the process that has the turn;
  // time in which this process itself was stopped does not count. Any thread.
  Status take(IoRequest::Kind way, std::chrono::milliseconds limit);
  void give_back(IoRequest::Kind way);

  // The drive hangs: removing a name would wait for it.
  void leave_file() { leaves_file_ = true; }

  // Whoever needs several takes them in the order of these, so that nobody waits in a circle. Equal: the same turns.
  struct Identity {
    dev_t device = 0;
    ino_t inode = 0;
    bool operator==(const Identity&) const = default;
    bool operator<(const Identity& other) const { return device != other.device ? device < other.device : inode < other.inode; }
  };
  const Identity& identity() const { return identity_; }
  const std::string& path() const { return path_; }

  // Removes what a killed run left in `folder`, unless somebody uses it.
  static Status remove_stale(const std::string& folder);

 private:
  // Of the file: what is locked.
  using Byte = std::size_t;
  static constexpr std::size_t kBytes = 5;

  TurnFile(std::string path, int fd, const Identity& identity) : path_(std::move(path)), fd_(fd), identity_(identity) {}
  Result<bool> try_lock(Byte byte);
  Status wait_for(Byte byte, IoRequest::Kind way, std::chrono::milliseconds limit);
  void unlock(Byte byte);
  Status too_long(IoRequest::Kind way, std::chrono::milliseconds limit) const;

  std::string path_;
  int fd_;
  Identity identity_;
  bool leaves_file_ = false;
  std::array<std::atomic<bool>, kBytes> mine_{};  // the lock would not stop another thread that uses this object
};

}  // namespace strata
