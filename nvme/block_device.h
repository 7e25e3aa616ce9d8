// What the kernel says about the drive below a file system.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <optional>

namespace strata {

// A number of the request queue of `device` (a stat's st_dev), e.g. "rotational". None: the file system is on no single drive
// that the kernel knows, or there is no such number.
std::optional<std::size_t> device_queue_number(dev_t device, const char* name);

}  // namespace strata
