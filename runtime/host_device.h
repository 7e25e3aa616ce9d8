// STRATA_HOST_DEVICE: before a function that both a processor and a GPU execute. Nothing outside nvcc.
#pragma once

#if defined(__CUDACC__)
#define STRATA_HOST_DEVICE __host__ __device__
#else
#define STRATA_HOST_DEVICE
#endif
