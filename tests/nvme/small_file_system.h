// A file system with room for little, where the tests may mount.
#pragma once

#include <sys/mount.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>

#include "support.h"

namespace strata {

class SmallFileSystem {
 public:
  explicit SmallFileSystem(std::size_t bytes) {
    mounted_ = ::mount("tmpfs", folder_.path().c_str(), "tmpfs", 0, ("size=" + std::to_string(bytes)).c_str()) == 0;
    if (!mounted_) why_ = std::string("mount: ") + std::strerror(errno);
  }
  ~SmallFileSystem() {
    if (mounted_) ::umount2(folder_.path().c_str(), MNT_DETACH);
  }
  const std::optional<std::string>& why_not() const { return why_; }
  std::string file(const std::string& name) const { return folder_.file(name); }

 private:
  TempFolder folder_;
  bool mounted_ = false;
  std::optional<std::string> why_;
};

}  // namespace strata
