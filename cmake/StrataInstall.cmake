# cmake --install. Components: `program` (the program, the libraries that it needs, the recipes), `development` (libraries and
# headers for find_package(Strata)), and, only when it is named, `gpu_tests` (what tests/run_gpu runs on another machine).
include(CMakePackageConfigHelpers)

option(STRATA_BUNDLE "Install the shared libraries of the distribution beside the program, so that it runs where they are not installed" ON)

get_property(folders GLOBAL PROPERTY STRATA_FOLDERS)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/Strata)
foreach(folder IN LISTS folders)
  install(TARGETS strata_${folder} EXPORT StrataExports ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
  # Below their own folder, so that #include "runtime/status.h" means ours.
  install(DIRECTORY ${folder} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/strata COMPONENT development FILES_MATCHING PATTERN "*.h")
endforeach()
install(EXPORT StrataExports NAMESPACE Strata:: DESTINATION ${package_dir} COMPONENT development)

configure_package_config_file(cmake/StrataConfig.cmake.in ${PROJECT_BINARY_DIR}/StrataConfig.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/StrataConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/StrataConfig.cmake ${PROJECT_BINARY_DIR}/StrataConfigVersion.cmake cmake/StrataDependencies.cmake
        DESTINATION ${package_dir} COMPONENT development)

set(bundle_dir ${CMAKE_INSTALL_LIBDIR}/strata)
# Programs look for libraries beside them first. An RPATH, not a RUNPATH: it also holds for the libraries of the libraries.
function(strata_install_program target folder component)
  file(RELATIVE_PATH to_bundle /${folder} /${bundle_dir})
  set_target_properties(${target} PROPERTIES INSTALL_RPATH "$ORIGIN/${to_bundle}")
  target_link_options(${target} PRIVATE -Wl,--disable-new-dtags)
  install(TARGETS ${target} RUNTIME DESTINATION ${folder} COMPONENT ${component} ${ARGN})
  if(STRATA_BUNDLE)
    install(CODE "set(strata_bundled_program [[$<TARGET_FILE:${target}>]])
set(strata_bundle \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${bundle_dir}\")
include([[${PROJECT_SOURCE_DIR}/cmake/StrataBundle.cmake]])" COMPONENT ${component} ${ARGN})
  endif()
endfunction()

strata_install_program(strata ${CMAKE_INSTALL_BINDIR} program)
install(DIRECTORY configs DESTINATION ${CMAKE_INSTALL_DATADIR}/strata COMPONENT program)
install(PROGRAMS launcher/slurm/train.sbatch DESTINATION ${CMAKE_INSTALL_DATADIR}/strata/slurm COMPONENT program)
install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT program)

if(TARGET strata_tests)
  set(libexec ${CMAKE_INSTALL_LIBEXECDIR}/strata)
  foreach(test IN ITEMS test_runtime test_parallel test_optim test_model test_trainer)
    strata_install_program(${test} ${libexec} gpu_tests EXCLUDE_FROM_ALL)
  endforeach()
  install(DIRECTORY tests/vectors DESTINATION ${libexec}/tests COMPONENT gpu_tests EXCLUDE_FROM_ALL)
  install(PROGRAMS tests/run_gpu DESTINATION ${libexec} COMPONENT gpu_tests EXCLUDE_FROM_ALL)
  install(DIRECTORY bench/ DESTINATION ${CMAKE_INSTALL_DATADIR}/strata/bench COMPONENT gpu_tests EXCLUDE_FROM_ALL FILES_MATCHING PATTERN "*.py"
          PATTERN results EXCLUDE)
endif()
