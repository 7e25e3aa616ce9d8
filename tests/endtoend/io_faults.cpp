// Preloaded into the program by test_io_faults.py: one operation on a state file goes wrong. Only what goes through pread and
// pwrite is seen: nvme.engine=threads.
//   STRATA_FAULT         KIND:INDEX, which operation (counted from 0) and what happens to it; KIND is one of
//     fail     EIO, nothing moves
//     full     ENOSPC, nothing moves
//     shorten  half of it moves
//     corrupt  one bit of its first byte changes on the way
//     hang     never returns
//     tear     half of it moves, then the process dies by SIGKILL
//     slow     takes 0.3 s
//   STRATA_FAULT_FILES   part of the path of the files that are meant, instead of "/state_rank_"
//   STRATA_FAULT_LIST    file that gets a line for every operation before it begins: "read BYTES OFFSET" or "write BYTES
//   OFFSET"
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

namespace {

using Read = ssize_t (*)(int, void*, size_t, off_t);
using Write = ssize_t (*)(int, const void*, size_t, off_t);

template <class Call>
Call real(const char* name) {
  return reinterpret_cast<Call>(::dlsym(RTLD_NEXT, name));
}

bool is_state_file(int fd) {
  char path[4096];
  const ssize_t n = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof path - 1);
  if (n <= 0) return false;
  path[n] = '\0';
  const char* wanted = std::getenv("STRATA_FAULT_FILES");
  return std::strstr(path, wanted != nullptr ? wanted : "/state_rank_") != nullptr;
}

void list(const char* what, size_t bytes, off_t offset) {
  const char* path = std::getenv("STRATA_FAULT_LIST");
  if (path == nullptr) return;
  const std::string line = std::string(what) + " " + std::to_string(bytes) + " " + std::to_string(offset) + "\n";
  const int fd = ::open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0 || ::write(fd, line.data(), line.size()) != static_cast<ssize_t>(line.size())) std::abort();
  ::close(fd);
}

// The fault of this operation, empty for none.
std::string next_fault(const char* what, int fd, size_t bytes, off_t offset) {
  if (!is_state_file(fd)) return "";
  static std::atomic<long> operations{0};
  const long operation = operations++;
  list(what, bytes, offset);
  const char* wish = std::getenv("STRATA_FAULT");
  if (wish == nullptr) return "";
  const char* colon = std::strchr(wish, ':');
  return std::atol(colon + 1) == operation ? std::string(wish, colon) : "";
}

// True: the call fails with errno.
bool fails(const std::string& fault) {
  if (fault == "hang") {
    for (;;) ::pause();
  }
  if (fault == "slow") std::this_thread::sleep_for(std::chrono::milliseconds(300));
  errno = fault == "full" ? ENOSPC : EIO;
  return fault == "full" || fault == "fail";
}

bool moves_half(const std::string& fault) { return fault == "shorten" || fault == "tear"; }

}  // namespace

extern "C" ssize_t pread(int fd, void* data, size_t bytes, off_t offset) {
  static const Read call = real<Read>("pread");
  const std::string fault = next_fault("read", fd, bytes, offset);
  if (fails(fault)) return -1;
  const ssize_t moved = call(fd, data, moves_half(fault) ? bytes / 2 : bytes, offset);
  if (fault == "tear") ::kill(::getpid(), SIGKILL);
  if (fault == "corrupt" && moved > 0) static_cast<char*>(data)[0] ^= 0x10;
  return moved;
}

extern "C" ssize_t pwrite(int fd, const void* data, size_t bytes, off_t offset) {
  static const Write call = real<Write>("pwrite");
  const std::string fault = next_fault("write", fd, bytes, offset);
  if (fails(fault)) return -1;
  char* changed = nullptr;  // as aligned as direct I/O demands
  if (fault == "corrupt") {
    changed = static_cast<char*>(std::aligned_alloc(4096, bytes));
    std::memcpy(changed, data, bytes);
    changed[0] ^= 0x10;
  }
  const ssize_t moved = call(fd, changed != nullptr ? changed : data, moves_half(fault) ? bytes / 2 : bytes, offset);
  if (fault == "tear") ::kill(::getpid(), SIGKILL);
  std::free(changed);
  return moved;
}
