# Third-party packages, each from the distribution. Read by the build and, installed, by find_package(Strata).
if(TARGET strata_yaml)
  return()
endif()

macro(strata_require package)
  if("${CMAKE_FIND_PACKAGE_NAME}" STREQUAL "Strata")
    find_dependency(${package} ${ARGN})
  else()
    find_package(${package} REQUIRED ${ARGN})
  endif()
endmacro()

strata_require(Threads)
strata_require(yaml-cpp)
strata_require(fmt)
strata_require(nlohmann_json)
strata_require(OpenSSL COMPONENTS Crypto)
strata_require(MPI COMPONENTS C)
strata_require(PkgConfig)
if(STRATA_HAS_CUDA)
  strata_require(CUDAToolkit)
endif()
pkg_check_modules(LIBURING REQUIRED IMPORTED_TARGET GLOBAL liburing)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET GLOBAL libxxhash)
# By hand: Debian's dnnl-config.cmake also demands OpenCL, which host GEMM does not use.
find_path(DNNL_INCLUDE_DIR dnnl.hpp REQUIRED)
find_library(DNNL_LIBRARY dnnl REQUIRED)

# name: what the folders link; the rest: what it stands for on this system
function(strata_dependency name)
  add_library(${name} INTERFACE IMPORTED GLOBAL)
  target_link_libraries(${name} INTERFACE ${ARGN})
endfunction()
strata_dependency(strata_yaml $<IF:$<TARGET_EXISTS:yaml-cpp::yaml-cpp>,yaml-cpp::yaml-cpp,yaml-cpp>)
strata_dependency(strata_uring PkgConfig::LIBURING)
strata_dependency(strata_xxhash PkgConfig::XXHASH)
strata_dependency(strata_dnnl ${DNNL_LIBRARY})
target_include_directories(strata_dnnl INTERFACE ${DNNL_INCLUDE_DIR})
# Static: a program that carries the CUDA backend starts where CUDA is not installed.
strata_dependency(strata_cudart $<$<BOOL:${STRATA_HAS_CUDA}>:CUDA::cudart_static> ${CMAKE_DL_LIBS})
# The C API only: the C++ bindings of OpenMPI are deprecated and would be linked by mpicxx.
strata_dependency(strata_mpi MPI::MPI_C)
target_compile_definitions(strata_mpi INTERFACE OMPI_SKIP_MPICXX=1 MPICH_SKIP_MPICXX=1)
