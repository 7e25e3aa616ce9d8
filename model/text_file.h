// Small text files, whole.
#pragma once

#include <string>

#include "runtime/status.h"

namespace strata {

// Errors: not_found, io_error (path and errno), corrupt: larger than 256 MiB, which no text file read here is.
Result<std::string> read_text_file(const std::string& path);
// Creates or truncates. A file that could not be written whole is removed.
Status write_text_file(const std::string& path, const std::string& text);

}  // namespace strata
