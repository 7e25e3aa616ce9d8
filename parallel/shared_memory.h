// Memory shared by processes of one host. It has no name in any file system (memfd), so nothing is left behind however its
// users die, and its size is not limited by how /dev/shm is mounted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "runtime/status.h"

namespace strata {

class SharedMemory {
 public:
  // How another process of the same user and process-id namespace finds the memory, as long as the creator keeps it findable.
  struct Address {
    std::int64_t pid = 0;
    std::int64_t descriptor = -1;
    std::uint64_t cookie = 0;  // random; guards against a process id that means another process over here
    std::uint64_t bytes = 0;   // usable bytes
  };

  // Zero-filled. Code::unsupported, here and in open(): processes cannot share memory on this host (a sandbox, containers that
  // do not see each other). Any other code is a failure.
  static Result<std::shared_ptr<SharedMemory>> create(std::size_t bytes);
  static Result<std::shared_ptr<SharedMemory>> open(const Address& address);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  // Page aligned.
  std::span<std::byte> bytes() const;
  Address address() const;
  // Closes the descriptor: the mapping stays, nobody else can open it any more.
  void hide();

 private:
  SharedMemory(int descriptor, void* base, std::size_t mapped);
  int descriptor_;
  void* base_;  // one page that holds the cookie, then the usable bytes
  std::size_t mapped_;
};

}  // namespace strata
