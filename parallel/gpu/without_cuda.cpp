// Compiled where the CUDA backend is not (cmake/StrataCuda.cmake).
#include "parallel/nccl_api.h"

namespace strata {

Result<std::shared_ptr<NcclApi>> load_nccl() {
  return Status(Code::unsupported, "this build has no NCCL; build with the preset cuda-release");
}

}  // namespace strata
