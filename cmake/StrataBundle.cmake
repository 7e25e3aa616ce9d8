# Run by cmake --install: copies the shared libraries that `strata_bundled_program` needs into the folder `strata_bundle`, except
# those of the C library, which belong to the kernel and the loader of a machine, and the GPU's driver. One plain file each, under
# the name that is looked for.
file(GET_RUNTIME_DEPENDENCIES EXECUTABLES "${strata_bundled_program}" RESOLVED_DEPENDENCIES_VAR found UNRESOLVED_DEPENDENCIES_VAR missing
     PRE_EXCLUDE_REGEXES "^ld-linux" "^linux-vdso" "^lib(c|m|dl|rt|pthread|resolv|util)\\.so" "^libcuda\\.so")
if(missing)
  message(FATAL_ERROR "${strata_bundled_program} needs libraries that are not found on this machine: ${missing}")
endif()
foreach(library IN LISTS found)
  get_filename_component(name "${library}" NAME)
  file(REAL_PATH "${library}" file)
  message(STATUS "Installing: ${strata_bundle}/${name}")
  file(COPY "${file}" DESTINATION "${strata_bundle}")
  get_filename_component(real_name "${file}" NAME)
  if(NOT real_name STREQUAL name)
    file(RENAME "${strata_bundle}/${real_name}" "${strata_bundle}/${name}")
  endif()
  # One that says itself where to look would be looked after there only.
  unset(rpath)
  unset(runpath)
  file(READ_ELF "${strata_bundle}/${name}" RPATH rpath RUNPATH runpath)
  if(rpath OR runpath)
    file(RPATH_SET FILE "${strata_bundle}/${name}" NEW_RPATH "\$ORIGIN")
  endif()
endforeach()
