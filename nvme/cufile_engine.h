// IoEngine for a GPU's memory: threads that call cuFile (GPUDirect Storage), so that bytes go between drives and the GPU past
// the host. Files, format and errors are those of the other engines.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nvme/io_engine.h"
#include "runtime/gpu/cufile.h"
#include "runtime/gpu/driver.h"

namespace strata {

class BlockMover;

// Files and memory of one GPU as cuFile knows them, for any number of engines: it refuses to register either twice.
class CuFileFiles {
 public:
  // Opens the driver's library and registers `files`, which a shared_ptr owns each, are open for direct I/O, and stay open as
  // long as an engine of these files lives. buffers: device memory of later requests; where one is refused, its transfers take
  // longer and a note says so. Errors unsupported: what is missing, with the library, the file and cuFile's code by name.
  static Result<std::shared_ptr<CuFileFiles>> open(std::shared_ptr<GpuDriver> gpu, std::span<IoFile* const> files,
                                                   std::span<const std::span<std::byte>> buffers,
                                                   std::vector<std::string>* notes);
  // Requests to these files, of device memory. A transfer that hangs keeps its thread, the files and the GPU's driver.
  std::unique_ptr<IoEngine> make_engine(const IoEngineOptions& options) const;

 private:
  class Registered;
  explicit CuFileFiles(std::shared_ptr<Registered> registered);
  std::shared_ptr<Registered> registered_;
};

}  // namespace strata
