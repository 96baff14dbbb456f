# The CUDA kernels: CUDA_KERNEL_SOURCES are for nvcc, or, with an emulator put before them, for the C++ compiler
# (tests/ops); CUDA_HOST_SOURCES need the headers of cudart and cuBLASLt. To add a kernel file, name it here.
set(CUDA_KERNEL_SOURCES
  activation.cu
  attention_backward.cu
  attention_decode.cu
  attention_f32.cu
  attention_forward.cu
  cross_entropy.cu
  dropout.cu
  elementwise.cu
  embedding.cu
  layer_norm.cu
  matmul_row.cu
  moe.cu
  optimizer.cu
  product.cu
  reduce.cu
  rms_norm.cu
  rope.cu
  route.cu
  sort.cu
)
set(CUDA_HOST_SOURCES algorithm_store.cpp matmul.cpp runtime.cpp table.cpp)
list(TRANSFORM CUDA_KERNEL_SOURCES PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
list(TRANSFORM CUDA_HOST_SOURCES PREPEND ${CMAKE_CURRENT_LIST_DIR}/)
# What nvcc needs for CUDA_KERNEL_SOURCES beside the standard; its own pragmas are unknown to the host compiler.
set(CUDA_KERNEL_OPTIONS --expt-relaxed-constexpr -Xcompiler=-Wno-unknown-pragmas)
