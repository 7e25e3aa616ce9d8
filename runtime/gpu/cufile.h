// Files read into and written from a GPU's memory past the host, by cuFile (GPUDirect Storage), a library that is loaded at run
// time; no header of CUDA is needed.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "runtime/gpu/cufile_api.h"
#include "runtime/shared_library.h"
#include "runtime/status.h"

namespace strata {

// The library with its driver open. Any thread, several at a time; outlives its handles.
class CuFile {
 public:
  static constexpr const char* kLibrary = "libcufile.so.0";
  // prepare: called first, in the thread that then opens the driver. Errors unsupported: no such library, an old one, a driver
  // that does not open (its code by name), or does not within `timeout` (it looks at all devices of the machine; a thread is
  // then left to itself).
  static Result<std::shared_ptr<CuFile>> open(const std::string& library, std::function<Status()> prepare = {},
                                              std::chrono::milliseconds timeout = std::chrono::seconds(60));
  ~CuFile();  // closes the driver
  CuFile(const CuFile&) = delete;
  CuFile& operator=(const CuFile&) = delete;

  // To be said aloud: that transfers go, or may go, through host memory. Empty: they do not.
  const std::string& through_host() const { return through_host_; }

  // fd is open for direct I/O and stays open until the handle is deregistered. `path` is for the error.
  Result<cufile::Handle> register_file(int fd, const std::string& path);
  void deregister_file(cufile::Handle handle);
  // Device memory that transfers then name by its begin and an offset; without, they take longer.
  Status register_buffer(const std::byte* begin, std::size_t bytes);
  void deregister_buffer(const std::byte* begin);

  // Block. Bytes that were moved; -errno; or, below -cufile::kFirstCode, a code of cuFile. `begin`: of a registered buffer, or
  // of any device memory. The calling thread has the device (GpuDriver::use_on_this_thread).
  std::int64_t read(cufile::Handle handle, std::byte* begin, std::size_t bytes, std::uint64_t at, std::size_t offset) const;
  std::int64_t write(cufile::Handle handle, const std::byte* begin, std::size_t bytes, std::uint64_t at,
                     std::size_t offset) const;

  // "CU_FILE_IO_NOT_SUPPORTED (5008)", with the code of CUDA where that is what failed.
  static std::string describe(cufile::Error error);

 private:
  CuFile(SharedLibrary library, const cufile::Functions& functions) : library_(std::move(library)), f_(functions) {}
  Status start(const std::string& name, std::function<Status()> prepare, std::chrono::milliseconds timeout);

  SharedLibrary library_;
  cufile::Functions f_;
  bool opened_ = false;  // by this object
  std::string through_host_;
};

}  // namespace strata
