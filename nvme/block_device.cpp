#include "nvme/block_device.h"

#include <sys/sysmacros.h>

#include <fstream>
#include <string>

namespace strata {

std::optional<std::size_t> device_queue_number(dev_t device, const char* name) {
  const std::string base = "/sys/dev/block/" + std::to_string(major(device)) + ":" + std::to_string(minor(device));
  for (const char* queue : {"/queue/", "/../queue/"}) {  // of a disk, of a partition's disk
    std::ifstream file(base + queue + name);
    if (std::size_t number = 0; file >> number) return number;
  }
  return std::nullopt;
}

}  // namespace strata
