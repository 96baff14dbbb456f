# Every source in CPU_KERNEL_SOURCES is compiled once per instruction set into the namespace
# automodel::ops::cpu::<set> (cpu/isa.h); cpu/table.cpp picks one set at run time. To add a kernel, add its file here.
#
# The order of the sets is the link order, base first: when two sets hold the same inline function of a header (a
# std:: template, a Tensor accessor), the linker keeps the first copy, which must be one that every processor can run.
set(CPU_KERNEL_SOURCES
  set.cpp
  activation.cpp
  adam.cpp
  attention.cpp
  attention_backward.cpp
  attention_decode.cpp
  columns.cpp
  cross_entropy.cpp
  dropout.cpp
  elementwise.cpp
  embedding.cpp
  layer_norm.cpp
  matmul.cpp
  matmul_row.cpp
  moe.cpp
  reduce.cpp
  rms_norm.cpp
  rope.cpp
)
list(TRANSFORM CPU_KERNEL_SOURCES PREPEND cpu/)

# A product and a sum may become one fused operation: kernels promise tolerances, not the bits of an instruction set.
# (A property of the sources, because it has to come after the project's own -ffp-contract.)
set_source_files_properties(${CPU_KERNEL_SOURCES} PROPERTIES COMPILE_OPTIONS "-ffp-contract=fast;-fno-math-errno")

set(CPU_KERNEL_SETS base)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  list(APPEND CPU_KERNEL_SETS v3 v4 v4bf16)
  set(CPU_FLAGS_v3 -march=x86-64-v3)
  set(CPU_FLAGS_v4 -march=x86-64-v4 -mprefer-vector-width=512)
  set(CPU_FLAGS_v4bf16 ${CPU_FLAGS_v4} -mavx512bf16)
  set(CPU_KERNEL_DEFINITIONS AUTOMODEL_X86_SETS)
endif()

foreach(isa ${CPU_KERNEL_SETS})
  set(target automodel_kernels_${isa})
  add_library(${target} OBJECT ${CPU_KERNEL_SOURCES})
  target_compile_options(${target} PRIVATE ${CPU_FLAGS_${isa}})
  target_compile_definitions(${target} PRIVATE AUTOMODEL_ISA=${isa})
  target_link_libraries(${target} PRIVATE automodel_flags automodel_tensor OpenMP::OpenMP_CXX)
  list(APPEND CPU_KERNEL_OBJECTS $<TARGET_OBJECTS:${target}>)
endforeach()
