# What `strata --version`, benchmarks and logs say about the build. Run again at every build (cheap), so that the commit is
# the one that was compiled; the header changes, and two small files are compiled again, only when its content does.
if(CMAKE_SCRIPT_MODE_FILE)
  execute_process(COMMAND git describe --always --dirty --abbrev=12 --exclude=* WORKING_DIRECTORY ${SOURCE_DIR}
                  OUTPUT_VARIABLE STRATA_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  if(failed)
    set(STRATA_COMMIT "unknown")
  endif()
  file(CONFIGURE OUTPUT ${OUTPUT} CONTENT [=[
#pragma once
#define STRATA_COMMIT "@STRATA_COMMIT@"
#define STRATA_PRESET "@PRESET@"
#define STRATA_BUILD_TYPE "@BUILD_TYPE@"
]=] @ONLY)
  return()
endif()

set(STRATA_GENERATED_DIR ${PROJECT_BINARY_DIR}/generated)
cmake_path(GET PROJECT_BINARY_DIR FILENAME preset)  # presets build into build/<preset>
set(build_type ${CMAKE_BUILD_TYPE})
if(STRATA_SANITIZE)
  string(APPEND build_type "+${STRATA_SANITIZE}")
endif()
add_custom_target(strata_build_info BYPRODUCTS ${STRATA_GENERATED_DIR}/strata_build_info.h
  COMMAND ${CMAKE_COMMAND} -DSOURCE_DIR=${PROJECT_SOURCE_DIR} -DOUTPUT=${STRATA_GENERATED_DIR}/strata_build_info.h
          -DPRESET=${preset} -DBUILD_TYPE=${build_type} -P ${CMAKE_CURRENT_LIST_FILE}
  COMMENT "" VERBATIM)
add_dependencies(strata strata_build_info)
target_include_directories(strata PRIVATE ${STRATA_GENERATED_DIR})
