# STRATA_CUDA asks for the CUDA backend. The targets are the same with and without it; it adds sources: *.cu, and the .cpp files of
# folders named cuda. Sets STRATA_HAS_CUDA. No GPU and no driver are needed to build; without a toolkit the host backend is built
# and the program says so (strata --version, strata doctor).
option(STRATA_CUDA "Build the CUDA backend" OFF)
# Machine code for A100 and H100, PTX for what comes after.
set(STRATA_CUDA_ARCHITECTURES "80-real;90" CACHE STRING "Architectures of the CUDA backend, as CMAKE_CUDA_ARCHITECTURES")
set(STRATA_HAS_CUDA FALSE)
if(NOT STRATA_CUDA)
  return()
endif()

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(STATUS "no CUDA toolkit found (nvcc is not on the PATH; CUDACXX may name it): building the host backend only, and the program says so")
  return()
endif()
set(CMAKE_CUDA_ARCHITECTURES ${STRATA_CUDA_ARCHITECTURES})
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
if(CMAKE_VERSION VERSION_LESS 3.26)  # does not know that nvcc has C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(STRATA_HAS_CUDA TRUE)
message(STATUS "CUDA toolkit ${CUDAToolkit_VERSION}, architectures ${STRATA_CUDA_ARCHITECTURES}")

# Machine code is nearly a third of its size then; the driver unpacks what it loads.
set(STRATA_CUDA_COMPRESS "")
if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
  set(STRATA_CUDA_COMPRESS --compress-mode=size)
endif()

# No contraction, no flush to zero: the arithmetic is the host's (promise 1 of DESIGN).
function(strata_cuda_sources target)
  target_sources(${target} PRIVATE ${ARGN})
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr --fmad=false --ftz=false --prec-div=true
    --prec-sqrt=true ${STRATA_CUDA_COMPRESS} $<$<BOOL:${STRATA_WERROR}>:--Werror=all-warnings>>)
endfunction()
