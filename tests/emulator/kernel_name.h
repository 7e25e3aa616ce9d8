// The name of a function by its address.
#pragma once

#include <string>

namespace strata::gpu_emulated {

// "gelu_forward_kernel<float, true>": from the program's own symbol table, which has local functions too; "at 0x..." where it
// was stripped. Any thread.
std::string kernel_name(const void* address);

}  // namespace strata::gpu_emulated
