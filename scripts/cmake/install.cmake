# `cmake --install`: the program, and the rooms as a CMake package for other C++ programs. Headers keep the paths by
# which they include each other ("core/error.h"), below include/automodel.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(AUTOMODEL_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/automodel)

# automodel::automodel: all rooms.
add_library(automodel_rooms INTERFACE)
set_target_properties(automodel_rooms PROPERTIES EXPORT_NAME automodel)
target_link_libraries(automodel_rooms INTERFACE ${AUTOMODEL_ROOMS})

install(TARGETS automodel_flags automodel_rooms ${AUTOMODEL_ROOMS} EXPORT automodelTargets
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
foreach(target ${AUTOMODEL_ROOMS})
  string(REPLACE "automodel_" "" room ${target})
  # What is of the backends alone.
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/lib/${room} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/automodel
          FILES_MATCHING PATTERN "*.h" PATTERN "ops/cpu" EXCLUDE PATTERN "ops/meta" EXCLUDE PATTERN "ops/cuda" EXCLUDE
          PATTERN "tensor/cuda" EXCLUDE PATTERN "cuda/plugin" EXCLUDE)
endforeach()
if(TARGET automodel)
  install(TARGETS automodel RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

install(EXPORT automodelTargets NAMESPACE automodel:: DESTINATION ${AUTOMODEL_PACKAGE_DIR})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/automodelConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_SOURCE_DIR}/scripts/cmake/automodelConfig.cmake
              ${PROJECT_SOURCE_DIR}/scripts/cmake/dependencies.cmake
              ${PROJECT_BINARY_DIR}/automodelConfigVersion.cmake
        DESTINATION ${AUTOMODEL_PACKAGE_DIR})
