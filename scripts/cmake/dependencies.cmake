# The libraries from the distribution (scripts/setup installs them) that the rooms link. Read when the project is
# configured and, installed beside the package's files, by every program that does find_package(automodel).
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(YAML_CPP REQUIRED IMPORTED_TARGET yaml-cpp)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(MPI REQUIRED IMPORTED_TARGET ompi-c)
# oneDNN's own CMake package asks for OpenCL headers that its C++ API does not need here.
find_library(DNNL_FILE dnnl REQUIRED)
find_path(DNNL_INCLUDE_DIR oneapi/dnnl/dnnl.hpp REQUIRED)
if(NOT TARGET automodel_dnnl)
  add_library(automodel_dnnl UNKNOWN IMPORTED)
  set_target_properties(automodel_dnnl PROPERTIES IMPORTED_LOCATION ${DNNL_FILE}
                                                  INTERFACE_INCLUDE_DIRECTORIES ${DNNL_INCLUDE_DIR})
endif()
