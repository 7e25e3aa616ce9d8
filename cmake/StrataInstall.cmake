# cmake --install: libraries and headers for find_package(Strata), the program, and the recipes.
include(CMakePackageConfigHelpers)

get_property(folders GLOBAL PROPERTY STRATA_FOLDERS)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/Strata)
foreach(folder IN LISTS folders)
  install(TARGETS strata_${folder} EXPORT StrataExports ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  # Below their own folder, so that #include "runtime/status.h" means ours.
  install(DIRECTORY ${folder} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/strata FILES_MATCHING PATTERN "*.h")
endforeach()
install(EXPORT StrataExports NAMESPACE Strata:: DESTINATION ${package_dir})

configure_package_config_file(cmake/StrataConfig.cmake.in ${PROJECT_BINARY_DIR}/StrataConfig.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/StrataConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/StrataConfig.cmake ${PROJECT_BINARY_DIR}/StrataConfigVersion.cmake cmake/StrataDependencies.cmake
        DESTINATION ${package_dir})

set_target_properties(strata PROPERTIES INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
install(TARGETS strata RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY configs DESTINATION ${CMAKE_INSTALL_DATADIR}/strata)
install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
