// A preallocated file of blocks, opened for direct I/O where the file system has it. Only owns and describes the file: an
// IoEngine moves the bytes.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "nvme/io_engine.h"
#include "runtime/status.h"

namespace strata {

struct BlockFileOptions {
  bool direct = true;  // false: through the page cache
  // Writes zeros once, so that training overwrites extents that exist and runs at the same speed from its first step, and so
  // that a device that promised more space than it has says so now.
  bool prewrite = true;
  // For another process to let go of the file. One that was killed does so only when its last transfer has landed, which its
  // successor must wait for in any case.
  std::chrono::milliseconds lock_wait{5000};
  std::chrono::milliseconds timeout{60'000};  // without any progress: then the device counts as hanging
};

// Move-only. Every error names path, operation, size and errno.
class BlockFile {
 public:
  // Creates `path` (or takes over what is there) with `bytes` (whole 4096-byte blocks) of allocated space, for this process
  // alone: a file that another run has open is refused. What needs more space than there is fails here, says both numbers and
  // leaves no file behind. A device that hangs is an error too; what is in flight then goes on in a thread that is left alone.
  static Result<BlockFile> create(const std::string& path, std::uint64_t bytes, const BlockFileOptions& options);

  BlockFile(BlockFile&& other) noexcept { swap(other); }
  BlockFile& operator=(BlockFile&& other) noexcept {
    BlockFile tmp(std::move(other));
    swap(tmp);
    return *this;
  }
  ~BlockFile() = default;

  // For requests; its address stays when the BlockFile is moved.
  IoFile& io() const { return *io_; }
  int fd() const { return io_->fd; }
  const std::string& path() const { return io_->path; }
  std::uint64_t bytes() const { return bytes_; }
  // Of buffers, offsets and sizes; divides 4096. 1 for buffered files.
  std::size_t alignment() const { return alignment_; }
  // Why the file is buffered although direct I/O was asked for: to be said aloud. Empty otherwise.
  const std::string& why_buffered() const { return why_buffered_; }
  bool direct() const { return direct_; }
  // The largest request the device takes in one piece; larger ones are split by the kernel. 0: unknown.
  std::size_t max_transfer() const { return max_transfer_; }

  // Removes the name and frees the space: at once, although an io_uring that knows the file holds it for some time after its
  // end.
  void remove();

 private:
  // Steps that were done, for whoever waits.
  using Progress = std::atomic<std::uint64_t>;
  BlockFile() = default;
  static Result<BlockFile> make(const std::string& path, std::uint64_t bytes, const BlockFileOptions& options,
                                Progress& progress);
  void swap(BlockFile& other) noexcept;
  Status open_locked(const BlockFileOptions& options, Progress& progress);
  Status open_descriptor(bool direct);
  Status lock(std::chrono::steady_clock::time_point deadline, Progress& progress) const;
  bool has_its_name() const;
  Status describe();
  void fall_back_to_buffered(const std::string& why);
  Status probe_direct();
  Status require_space(std::uint64_t bytes) const;
  Status allocate(std::uint64_t bytes, bool prewrite, Progress& progress);
  Status prewrite(std::uint64_t bytes, Progress& progress) const;
  Status error_of(const std::string& operation, std::uint64_t bytes, int error) const;
  Status space_error(std::uint64_t bytes, int error) const;

  std::shared_ptr<IoFile> io_;  // null after a move; closed by its last owner
  std::uint64_t bytes_ = 0;
  std::size_t alignment_ = 1;
  std::size_t max_transfer_ = 0;
  bool direct_ = false;
  std::string why_buffered_;
};

}  // namespace strata
