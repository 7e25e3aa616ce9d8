#include "runtime/shared_library.h"

#include <dlfcn.h>

namespace strata {

Result<SharedLibrary> SharedLibrary::open(const std::string& file, const std::string& package) {
  void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  std::string reason;
  if (handle == nullptr) {
    const char* said = dlerror();
    reason = said != nullptr ? said : file;
    handle = dlopen(("/usr/local/cuda/lib64/" + file).c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  }
  if (handle == nullptr)
    return Status(Code::unsupported, "cannot load a library: " + reason + "; install " + package + " or set LD_LIBRARY_PATH");
  return SharedLibrary(std::shared_ptr<void>(handle, [](void* h) { dlclose(h); }), file);
}

Result<void*> SharedLibrary::find_symbol(const char* name) const {
  void* symbol = dlsym(handle_.get(), name);
  if (symbol == nullptr) return Status(Code::unsupported, file_ + " has no " + name + ": it is too old");
  return symbol;
}

}  // namespace strata
