# find_package(automodel) brings automodel::automodel, everything of lib/, and one target per room: automodel::core, ...
cmake_minimum_required(VERSION 3.22)
include(${CMAKE_CURRENT_LIST_DIR}/dependencies.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/automodelTargets.cmake)
