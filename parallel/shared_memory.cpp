#include "parallel/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <random>
#include <string>

namespace strata {

namespace {

constexpr std::size_t kPage = 4096;

void* map(int descriptor, std::size_t bytes) {
  return ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
}

// What the system does not let any process do, as opposed to what failed this time.
Status refused_or_failed(const std::string& operation, const std::string& where, int error) {
  const Status status = Status::from_errno(operation, where, error);
  const bool refused = error == ENOSYS || error == EPERM || error == EACCES || error == ENOENT;
  return refused ? Status(Code::unsupported, status.message()) : status;
}

Status not_ours(const std::string& path) {
  return {Code::unsupported, path + " is not the shared memory it should be: another process-id namespace?"};
}

std::uint64_t random_cookie() {
  std::random_device source;
  return (static_cast<std::uint64_t>(source()) << 32) | source() | 1u;
}

}  // namespace

SharedMemory::SharedMemory(int descriptor, void* base, std::size_t mapped)
    : descriptor_(descriptor), base_(base), mapped_(mapped) {}

SharedMemory::~SharedMemory() {
  hide();
  ::munmap(base_, mapped_);
}

void SharedMemory::hide() {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
}

std::span<std::byte> SharedMemory::bytes() const { return {static_cast<std::byte*>(base_) + kPage, mapped_ - kPage}; }

SharedMemory::Address SharedMemory::address() const {
  Address address{::getpid(), descriptor_, 0, mapped_ - kPage};
  std::memcpy(&address.cookie, base_, sizeof(address.cookie));
  return address;
}

Result<std::shared_ptr<SharedMemory>> SharedMemory::create(std::size_t bytes) {
  const std::size_t mapped = kPage + (bytes + kPage - 1) / kPage * kPage;
  const std::string where = std::to_string(mapped) + " bytes of shared memory";
  const int descriptor = ::memfd_create("strata", MFD_CLOEXEC);
  if (descriptor < 0) return refused_or_failed("memfd_create", where, errno);
  if (::ftruncate(descriptor, static_cast<off_t>(mapped)) != 0) {
    const int error = errno;
    ::close(descriptor);
    return Status::from_errno("ftruncate", where, error);
  }
  void* const base = map(descriptor, mapped);
  if (base == MAP_FAILED) {
    const int error = errno;
    ::close(descriptor);
    return Status::from_errno("mmap", where, error);
  }
  const std::uint64_t cookie = random_cookie();
  std::memcpy(base, &cookie, sizeof(cookie));
  return std::shared_ptr<SharedMemory>(new SharedMemory(descriptor, base, mapped));
}

Result<std::shared_ptr<SharedMemory>> SharedMemory::open(const Address& address) {
  const std::string path = "/proc/" + std::to_string(address.pid) + "/fd/" + std::to_string(address.descriptor);
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (descriptor < 0) return refused_or_failed("open of shared memory", path, errno);
  const std::size_t mapped = kPage + address.bytes;
  struct stat info = {};
  const bool fits = ::fstat(descriptor, &info) == 0 && static_cast<std::size_t>(info.st_size) == mapped;
  void* const base = fits ? map(descriptor, mapped) : MAP_FAILED;
  const int error = errno;
  ::close(descriptor);  // the mapping is enough
  if (!fits) return not_ours(path);
  if (base == MAP_FAILED) return Status::from_errno("mmap", path, error);
  std::shared_ptr<SharedMemory> memory(new SharedMemory(-1, base, mapped));
  if (memory->address().cookie != address.cookie) return not_ours(path);
  return memory;
}

}  // namespace strata
