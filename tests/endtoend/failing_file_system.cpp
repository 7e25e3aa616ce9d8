// A file system that passes everything on to a folder, but for what it is told to do wrong.
//     strata_failing_file_system FOLDER MOUNTPOINT [async]
// async: direct I/O of io_uring is asynchronous, as FUSE would have it; the kernel then reports short writes as EIO.
// Says "mounted" when it is. Then every line of its input is one of these, answered by "done":
//   OPERATION WHEN FAULT   OPERATION: read, write, sync or any. WHEN: which of them, counted from 0, or /N for every N-th.
//   FAULT:
//     EIO, ENOSPC   fails, nothing moves
//     short         half of it moves
//     nothing       success, but nothing moves
//     flip          one bit of its first byte changes on the way
//     MS            takes that many milliseconds longer
//     hang          never returns: fails when released
//   release                ends what hangs
//   clear                  the same, and forgets rules and operations
//   report                 before "done" a line for every operation: "write BYTES OFFSET FAULT", and - for no fault
// It unmounts at the end of its input, so that it outlives nobody who started it.
#define FUSE_USE_VERSION 31
#include <dirent.h>
#include <fcntl.h>
#include <fuse.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

struct Rule {
  std::string operation, fault;
  long index = 0;
  bool every = false;
  long seen = 0;

  bool strikes(const std::string& what) {
    if (operation != what && operation != "any") return false;
    const long i = seen++;
    return every ? (i + 1) % index == 0 : i == index;
  }
};

int folder = -1;
const char* mountpoint = nullptr;
bool asynchronous = false;
std::mutex mutex;  // of all below
std::condition_variable released;
long releases = 0;
std::vector<Rule> rules;
std::vector<std::string> operations;

// What to do wrong; errors are negative numbers, as FUSE wants them.
struct Fault {
  int error = 0;
  bool half = false, nothing = false, flip = false;
};

Fault next_fault(const std::string& what, size_t bytes, off_t offset) {
  std::unique_lock lock(mutex);
  std::string name = "-";
  for (Rule& rule : rules) {
    if (rule.strikes(what) && name == "-") name = rule.fault;
  }
  operations.push_back(what + " " + std::to_string(bytes) + " " + std::to_string(offset) + " " + name);
  if (name == "hang") released.wait(lock, [now = releases] { return releases != now; });
  lock.unlock();
  if (name == "EIO" || name == "hang") return {.error = -EIO};
  if (name == "ENOSPC") return {.error = -ENOSPC};
  if (const int ms = std::atoi(name.c_str()); ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(ms));
  return {.half = name == "short", .nothing = name == "nothing", .flip = name == "flip"};
}

size_t wanted(const Fault& fault, size_t bytes) { return fault.nothing ? 0 : fault.half ? bytes / 2 : bytes; }

int result(int of_call) { return of_call == 0 ? 0 : -errno; }
const char* relative(const char* path) { return path[1] == '\0' ? "." : path + 1; }
int fd_of(const fuse_file_info* info) { return static_cast<int>(info->fh); }

void* start(fuse_conn_info* connection, fuse_config* config) {
  if (!asynchronous) connection->want &= ~static_cast<unsigned>(FUSE_CAP_ASYNC_DIO);
  config->use_ino = config->hard_remove = 1;
  config->entry_timeout = config->attr_timeout = config->negative_timeout = 0;
  std::cout << "mounted" << std::endl;
  return nullptr;
}

int get_attributes(const char* path, struct stat* info, fuse_file_info* file) {
  return result(file != nullptr ? ::fstat(fd_of(file), info) : ::fstatat(folder, relative(path), info, AT_SYMLINK_NOFOLLOW));
}

// The caller's direct I/O ends here: the kernel's buffers are not aligned as the folder's file system may demand. Without
// cache, or the kernel would itself continue what is short.
int create_file(const char* path, mode_t mode, fuse_file_info* file) {
  const int fd = ::openat(folder, relative(path), (file->flags & ~(O_DIRECT | O_APPEND)) | O_CLOEXEC, mode);
  if (fd < 0) return -errno;
  file->fh = static_cast<uint64_t>(fd);
  file->direct_io = 1;
  return 0;
}
int open_file(const char* path, fuse_file_info* file) { return create_file(path, 0, file); }
int close_file(const char*, fuse_file_info* file) { return result(::close(fd_of(file))); }

int read_file(const char*, char* data, size_t bytes, off_t offset, fuse_file_info* file) {
  const Fault fault = next_fault("read", bytes, offset);
  if (fault.error != 0) return fault.error;
  const ssize_t moved = ::pread(fd_of(file), data, wanted(fault, bytes), offset);
  if (fault.flip && moved > 0) data[0] ^= 0x10;
  return moved < 0 ? -errno : static_cast<int>(moved);
}

int write_file(const char*, const char* data, size_t bytes, off_t offset, fuse_file_info* file) {
  const Fault fault = next_fault("write", bytes, offset);
  if (fault.error != 0) return fault.error;
  std::string copy(data, wanted(fault, bytes));
  if (fault.flip) copy[0] ^= 0x10;
  const ssize_t moved = ::pwrite(fd_of(file), copy.data(), copy.size(), offset);
  return moved < 0 ? -errno : static_cast<int>(moved);
}

int sync_file(const char*, int, fuse_file_info* file) {
  const Fault fault = next_fault("sync", 0, 0);
  return fault.error != 0 ? fault.error : result(::fsync(fd_of(file)));
}

int truncate_file(const char* path, off_t bytes, fuse_file_info* file) {
  if (file != nullptr) return result(::ftruncate(fd_of(file), bytes));
  const int fd = ::openat(folder, relative(path), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  const int done = result(::ftruncate(fd, bytes));
  ::close(fd);
  return done;
}

int allocate(const char*, int mode, off_t offset, off_t bytes, fuse_file_info* file) {
  return result(::fallocate(fd_of(file), mode, offset, bytes));
}

int read_folder(const char* path, void* buffer, fuse_fill_dir_t add, off_t, fuse_file_info*, fuse_readdir_flags) {
  const int fd = ::openat(folder, relative(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* opened = fd < 0 ? nullptr : ::fdopendir(fd);
  if (opened == nullptr) return -errno;
  while (const dirent* entry = ::readdir(opened)) add(buffer, entry->d_name, nullptr, 0, fuse_fill_dir_flags{});
  return result(::closedir(opened));
}

int make_folder(const char* path, mode_t mode) { return result(::mkdirat(folder, relative(path), mode)); }
int remove_file(const char* path) { return result(::unlinkat(folder, relative(path), 0)); }
int remove_folder(const char* path) { return result(::unlinkat(folder, relative(path), AT_REMOVEDIR)); }
int move_file(const char* from, const char* to, unsigned flags) {
  return result(::renameat2(folder, relative(from), folder, relative(to), flags));
}
int get_space(const char*, struct statvfs* info) { return result(::fstatvfs(folder, info)); }

// False: not understood.
bool obey(const std::string& line) {
  const std::lock_guard lock(mutex);
  if (line == "report") {
    for (const std::string& operation : operations) std::cout << operation << "\n";
    return true;
  }
  if (line == "release" || line == "clear") {
    ++releases;
    released.notify_all();
    if (line == "release") return true;
    rules.clear();
    operations.clear();
    return true;
  }
  std::istringstream words(line);
  Rule rule;
  std::string when;
  words >> rule.operation >> when >> rule.fault;
  rule.every = when.starts_with("/");
  rule.index = std::atol(when.c_str() + (rule.every ? 1 : 0));
  if (rule.fault.empty() || (rule.every && rule.index <= 0)) return false;
  rules.push_back(rule);
  return true;
}

void take_orders() {
  for (std::string line; std::getline(std::cin, line);) std::cout << (obey(line) ? "done" : "what?") << std::endl;
  ::umount2(mountpoint, MNT_DETACH);
  ::_exit(0);  // what hangs, hangs no longer
}

}  // namespace

int main(int argc, char** argv) {
  asynchronous = argc == 4 && std::string(argv[3]) == "async";
  if ((argc != 3 && !asynchronous) || (folder = ::open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0) {
    std::cerr << "strata_failing_file_system FOLDER MOUNTPOINT [async]\n";
    return 2;
  }
  mountpoint = ::realpath(argv[2], nullptr);
  fuse_operations calls{};
  calls.init = start;
  calls.getattr = get_attributes;
  calls.create = create_file;
  calls.open = open_file;
  calls.release = close_file;
  calls.read = read_file;
  calls.write = write_file;
  calls.fsync = sync_file;
  calls.truncate = truncate_file;
  calls.fallocate = allocate;
  calls.readdir = read_folder;
  calls.mkdir = make_folder;
  calls.unlink = remove_file;
  calls.rmdir = remove_folder;
  calls.rename = move_file;
  calls.statfs = get_space;
  std::thread(take_orders).detach();
  char foreground[] = "-f";
  char* words[] = {argv[0], foreground, argv[2], nullptr};
  return fuse_main(3, words, &calls, nullptr);
}
