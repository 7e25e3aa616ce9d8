// What a kernel may use of a GPU, by name. gpu/kernels/*.cu are written against this header alone, so that the same source runs
// on a GPU and, in the tests, on the emulator (tests/emulator/gpu_emulated.h has the same names with checks behind them).
//
// Rules that the emulator enforces: every thread of a block takes part in sync_block(); every lane of a warp takes part in a
// shuffle, sync_warp, mma or ldmatrix; between two barriers no word of shared memory is written by one thread and touched by
// another (lanes of one warp may, with sync_warp between them); indices into shared arrays are in range.
//
// Everything that must give the host's bits uses the *_rn operations, which are never contracted.
#pragma once

#if defined(__CUDACC__)
#include "runtime/gpu/device_cuda.h"
#else
#include "tests/emulator/gpu_emulated.h"
#endif
