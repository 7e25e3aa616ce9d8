// A library with cuFile's interface over pread and pwrite: the emulated GPU's memory is the host's. The environment variable
// STRATA_FAKE_CUFILE asks for what goes wrong, as "what" or "what:N", from the N-th transfer of that kind on, counted since the
// driver was opened:
//   open, handle, buffer   the driver does not open, no file or no memory is registered
//   open hangs             until the wish ends
//   short                  every transfer moves a half
//   read EIO, write EIO    errno
//   read code, write code  cuFile's 5008
//   hang                   a read that ends when the wish does
//   compat, allowed        drives cannot reach the GPU; some may not
// What a user of the library must not do ends the process: it uses what is not registered, or leaves behind what is.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "runtime/gpu/cufile_api.h"

namespace {

using strata::cufile::Description;
using strata::cufile::Error;
using strata::cufile::Properties;

struct File {
  int fd = -1;
};

std::mutex mutex;
int users = 0;
std::set<File*> files;
std::map<const char*, std::size_t> buffers;  // bytes by begin
std::atomic<long> reads{0}, writes{0};

std::string wish() {
  const char* text = std::getenv("STRATA_FAKE_CUFILE");
  return text == nullptr ? "" : text;
}

// Whether it is asked for `what` to go wrong at the count-th transfer and all after it.
bool goes_wrong(const std::string& what, long count = 0) {
  const std::string wanted = wish();
  if (wanted == what) return true;
  return wanted.starts_with(what + ":") && count >= std::atol(wanted.c_str() + what.size() + 1);
}

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "fake cuFile: %s\n", what);
  std::abort();
}

int descriptor_of(void* handle) {
  const std::lock_guard lock(mutex);
  const auto found = files.find(static_cast<File*>(handle));
  require(found != files.end(), "a handle that is not registered");
  return (*found)->fd;
}

void check_memory(const char* begin, std::size_t bytes, off_t offset) {
  const std::lock_guard lock(mutex);
  require(offset >= 0, "a negative offset");
  if (const auto found = buffers.find(begin); found != buffers.end())
    return require(static_cast<std::size_t>(offset) + bytes <= found->second, "behind the end of a registered buffer");
  for (const auto& [first, size] : buffers)
    require(begin < first || begin >= first + size, "the inside of a registered buffer, named without its begin");
}

template <class Move>
ssize_t transfer(const char* kind, std::atomic<long>& count, void* handle, const char* begin, std::size_t bytes, off_t offset,
                 const Move& move) {
  const int fd = descriptor_of(handle);
  check_memory(begin, bytes, offset);
  const long before = count++;
  if (goes_wrong(std::string(kind) + " EIO", before)) {
    errno = EIO;
    return -1;
  }
  if (goes_wrong(std::string(kind) + " code", before)) return -5008;
  // A half of whole blocks; one alone moves whole.
  const std::size_t half = bytes / 2 / 4096 * 4096;
  return move(fd, goes_wrong("short") && half > 0 ? half : bytes);
}

}  // namespace

extern "C" {
// For tests: transfers so far.
long strata_fake_cufile_reads() { return reads; }
long strata_fake_cufile_writes() { return writes; }

Error cuFileDriverOpen() {
  if (goes_wrong("open")) return {5001, 0};
  if (goes_wrong("open hangs")) {
    while (goes_wrong("open hangs")) ::usleep(1000);
    return {5001, 0};
  }
  const std::lock_guard lock(mutex);
  if (++users == 1) reads = writes = 0;
  return {};
}
Error cuFileDriverClose_v2() {
  const std::lock_guard lock(mutex);
  require(users > 0, "the driver is closed more often than opened");
  if (--users == 0) require(files.empty() && buffers.empty(), "the driver is closed with files or buffers registered");
  return {};
}
Error cuFileDriverGetProperties(Properties* to) {
  *to = {};
  to->driver.major_version = 2;
  to->driver.status_flags = goes_wrong("compat") ? 0u : 1u << 4;
  to->driver.control_flags = goes_wrong("compat") || goes_wrong("allowed") ? 1u << 1 : 0u;
  return {};
}
Error cuFileHandleRegister(void** handle, Description* description) {
  if (goes_wrong("handle")) return {5008, 0};
  const std::lock_guard lock(mutex);
  const int fd = description->file.fd, flags = ::fcntl(fd, F_GETFL);
  require(users > 0, "a file is registered without a driver");
  require(description->type == 1 && flags >= 0, "a file is registered that is not open");
  if ((flags & O_DIRECT) == 0) return {5020, 0};
  for (const File* file : files)
    if (file->fd == fd) return {5028, 0};
  *handle = *files.insert(new File{fd}).first;
  return {};
}
void cuFileHandleDeregister(void* handle) {
  const int fd = descriptor_of(handle);
  require(::fcntl(fd, F_GETFL) >= 0, "a file is closed before its handle is deregistered");
  const std::lock_guard lock(mutex);
  files.erase(static_cast<File*>(handle));
  delete static_cast<File*>(handle);
}
Error cuFileBufRegister(const void* begin, std::size_t bytes, int /*flags*/) {
  if (goes_wrong("buffer")) return {5036, 0};
  const std::lock_guard lock(mutex);
  require(users > 0, "memory is registered without a driver");
  return {buffers.emplace(static_cast<const char*>(begin), bytes).second ? 0 : 5023, 0};
}
Error cuFileBufDeregister(const void* begin) {
  const std::lock_guard lock(mutex);
  return {buffers.erase(static_cast<const char*>(begin)) == 1 ? 0 : 5024, 0};
}
ssize_t cuFileRead(void* handle, void* begin, std::size_t bytes, off_t at, off_t offset) {
  if (goes_wrong("hang", reads)) {
    while (goes_wrong("hang", reads)) ::usleep(1000);
    errno = EIO;  // the memory may be gone
    return -1;
  }
  char* const base = static_cast<char*>(begin);
  return transfer("read", reads, handle, base, bytes, offset,
                  [=](int fd, std::size_t now) { return ::pread(fd, base + offset, now, at); });
}
ssize_t cuFileWrite(void* handle, const void* begin, std::size_t bytes, off_t at, off_t offset) {
  const char* const base = static_cast<const char*>(begin);
  return transfer("write", writes, handle, base, bytes, offset,
                  [=](int fd, std::size_t now) { return ::pwrite(fd, base + offset, now, at); });
}
}
