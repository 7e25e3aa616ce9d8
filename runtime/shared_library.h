// A library that is looked for when it is needed, so that the program starts where it is not installed.
#pragma once

#include <memory>
#include <string>

#include "runtime/status.h"

namespace strata {

// Stays loaded until the process ends: these libraries keep threads.
class SharedLibrary {
 public:
  // file: as the dynamic linker knows it ("libnccl.so.2"); looked for where it looks, then in /usr/local/cuda/lib64.
  // Error unsupported: what the linker said, and which package brings it (`package`).
  static Result<SharedLibrary> open(const std::string& file, const std::string& package);

  // Sets `function` to the symbol. Error unsupported: the library has none of that name (it is too old).
  template <class Function>
  Status find(const char* name, Function*& function) const {
    STRATA_ASSIGN_OR_RETURN(void* const symbol, find_symbol(name));
    function = reinterpret_cast<Function*>(symbol);
    return {};
  }

 private:
  SharedLibrary(std::shared_ptr<void> handle, std::string file) : handle_(std::move(handle)), file_(std::move(file)) {}
  Result<void*> find_symbol(const char* name) const;
  std::shared_ptr<void> handle_;
  std::string file_;
};

}  // namespace strata
