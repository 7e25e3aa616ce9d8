// Small text files, whole; and what makes a file survive a power failure.
#pragma once

#include <string>

#include "runtime/status.h"

namespace strata {

// Errors: not_found, io_error (path and errno; also a folder), corrupt: larger than 256 MiB, which no text file read here is.
Result<std::string> read_text_file(const std::string& path);
// Creates or truncates. A file that could not be written whole is removed. fsync: also waits until it is on the device.
Status write_text_file(const std::string& path, const std::string& text, bool fsync = false);

// Waits until the bytes of a file, or the list of names of a folder, are on the device.
Status flush_to_device(const std::string& path);

}  // namespace strata
