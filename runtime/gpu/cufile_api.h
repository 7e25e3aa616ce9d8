// The part of cuFile's interface (GPUDirect Storage) that is used, declared here so that neither its header nor its library is
// needed to build. A test compares it with NVIDIA's header (tests/emulator/cufile_api_test.cpp).
#pragma once

#include <sys/types.h>

#include <cstddef>

namespace strata::cufile {

struct Error {
  int code = 0;       // CUfileOpError
  int cuda_code = 0;  // CUresult, where code is kCudaDriverError
};

inline constexpr int kSuccess = 0;
inline constexpr int kFirstCode = 5000;  // codes are larger; cuFileRead and cuFileWrite return them negative
inline constexpr int kCudaDriverError = 5011;
inline constexpr int kDriverAlreadyOpen = 5026;

inline constexpr int kTypeOfDescriptor = 1;  // CU_FILE_HANDLE_TYPE_OPAQUE_FD
struct Description {
  int type = kTypeOfDescriptor;
  union {
    int fd;
    void* other;
  } file = {};
  const void* operations = nullptr;
};

inline constexpr unsigned kSupportsNvme = 1u << 4;         // of status_flags: nvidia-fs
inline constexpr unsigned kAllowsCompatibility = 1u << 1;  // of control_flags
inline constexpr unsigned kSupportsPeerToPeer = 1u << 4;   // of feature_flags: the kernel's PCI P2PDMA
struct Properties {
  struct {
    unsigned major_version, minor_version;
    std::size_t poll_threshold, max_direct_io;
    unsigned status_flags, control_flags;
  } driver;
  unsigned feature_flags;
  unsigned max_device_cache, per_buffer_cache, max_pinned_memory, max_batch_io, max_batch_milliseconds;
};

using Handle = void*;

struct Functions {
  Error (*driver_open)() = nullptr;
  Error (*driver_close)() = nullptr;  // cuFileDriverClose_v2
  Error (*driver_properties)(Properties*) = nullptr;
  Error (*handle_register)(Handle*, Description*) = nullptr;
  void (*handle_deregister)(Handle) = nullptr;
  Error (*buffer_register)(const void*, std::size_t, int) = nullptr;
  Error (*buffer_deregister)(const void*) = nullptr;
  ssize_t (*read)(Handle, void*, std::size_t, off_t file_offset, off_t buffer_offset) = nullptr;
  ssize_t (*write)(Handle, const void*, std::size_t, off_t file_offset, off_t buffer_offset) = nullptr;
};

// "CU_FILE_IO_NOT_SUPPORTED"; a code that is not known as its number.
const char* name_of(int code);

}  // namespace strata::cufile
