// Which kernels this process has run. Thread-safe.
#pragma once

namespace strata::gpu_emulated {

// kernel: the address of its function. When the process ends well, the names (kernel_name.h) are written to the file that the
// environment variable STRATA_LAUNCHED_KERNELS names, one a line, for tests/fake_cuda/launched_test.py.
void note_launch(const void* kernel);

}  // namespace strata::gpu_emulated
