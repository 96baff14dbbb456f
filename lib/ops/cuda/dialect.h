// The parts of CUDA that kernels use through functions of ours: launches, shared memory, roundings, asynchronous copies
// and the tensor cores' matrices. Kernel sources include this and are then either CUDA or, for tests without a device,
// plain C++ with these same functions from an emulator put before them.
//
// Matrix fragments are those of PTX mma.sync.m16n8k16 (bf16 with f32 sums): lane l holds of A [16][16] in word i rows
// l/4 + 8 (i % 2), columns 2 (l%4) + {0, 1} + 8 (i / 2); of B, given as its transpose [8][16], rows l/4, the same
// columns, + 8 in the second word; of C [16][8] rows l/4 + 8 (i / 2), columns 2 (l%4) + i % 2.
#pragma once

#ifndef AUTOMODEL_CUDA_EMULATOR

// nvcc puts the CUDA runtime before every source.
#include <cstdint>

#include "core/dtype.h"
#include "ops/cuda/runtime.h"

namespace automodel::ops::cuda {

struct Grid {
  dim3 blocks, threads;
  size_t shared = 0;  // bytes of shared_memory()
};

template <class... P, class... A>
void launch(void (*kernel)(P...), const Grid& grid, A... args) {
  if (grid.shared > 48 * 1024) allow_shared_memory(reinterpret_cast<const void*>(kernel), grid.shared);
  kernel<<<grid.blocks, grid.threads, grid.shared, static_cast<cudaStream_t>(stream())>>>(static_cast<P>(args)...);
  check_launch();
}

// The block's memory of the size that its launch asked for.
template <class T>
__device__ __forceinline__ T* shared_memory() {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  return reinterpret_cast<T*>(shared_bytes);
}

__device__ __forceinline__ void check_aligned(const void*, size_t) {}

__device__ __forceinline__ bf16 round_bf16(float x) {
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
// Two numbers in a word, the first in its lower half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
// 2^x within 2 units in the last place; 0 for results below the smallest normal number.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes from global to shared memory, or zeros when not valid (then `global` is not read). They are there for the
// thread after the wait for their group, for others after a barrier behind that.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until at most kLeft groups of this thread are on their way.
template <int kLeft>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

// Four 8 x 8 matrices of bf16 from shared memory; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

// c += a b.
__device__ __forceinline__ void multiply_tile(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace automodel::ops::cuda

#endif
