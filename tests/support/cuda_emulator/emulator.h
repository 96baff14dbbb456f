// What ops/cuda/dialect.h gives under nvcc, for g++: put before a kernel source (-x c++ -include this file), it makes
// the source plain C++ whose kernels run on the host, one block after the other, on fibers. Shared memory of a dynamic
// size is exactly as long as asked for and filled with NaN, so that AddressSanitizer and wrong results tell of misuse.
#pragma once

#define AUTOMODEL_CUDA_EMULATOR 1

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/dtype.h"
#include "support/cuda_emulator/fibers.h"

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ static thread_local

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

// Where the running thread is.
inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace automodel::emulator {
struct Grid {
  dim3 blocks, threads;
  size_t shared = 0;
};
void run(const Grid& grid, const std::function<void()>& body);
void* shared_bytes();  // of the running block
}  // namespace automodel::emulator

// Functions of the device that kernels use by their CUDA names. ---------------------------------------------------

using std::max;
using std::min;

inline void __syncthreads(int line = __builtin_LINE()) {
  automodel::emulator::meet_block(line, false);
}
inline int __syncthreads_or(int value, int line = __builtin_LINE()) {
  return automodel::emulator::meet_block(line, value != 0);
}
inline void __syncwarp(uint32_t mask = 0xffffffffu, int line = __builtin_LINE()) {
  automodel::emulator::meet(mask, line, nullptr, 0);
}

template <class T>
T __shfl_sync(uint32_t mask, T value, int lane, int = 32, int line = __builtin_LINE()) {
  T result;
  std::memcpy(&result, automodel::emulator::meet(mask, line, &value, sizeof(T))[lane & 31].bytes, sizeof(T));
  return result;
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int distance, int width = 32, int line = __builtin_LINE()) {
  return __shfl_sync(mask, value, (automodel::emulator::current_thread() & 31) ^ distance, width, line);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, int distance, int width = 32, int line = __builtin_LINE()) {
  int lane = automodel::emulator::current_thread() & 31;
  return __shfl_sync(mask, value, lane < distance ? lane : lane - distance, width, line);
}
inline uint32_t __ballot_sync(uint32_t mask, bool value, int line = __builtin_LINE()) {
  const auto* slots = automodel::emulator::meet(mask, line, &value, sizeof(value));
  uint32_t votes = 0;
  for (uint32_t lane = 0; lane < 32; ++lane)
    if ((mask >> lane & 1) != 0 && slots[lane].bytes[0] != 0) votes |= uint32_t{1} << lane;
  return votes;
}
inline uint32_t __match_any_sync(uint32_t mask, int value, int line = __builtin_LINE()) {
  const auto* slots = automodel::emulator::meet(mask, line, &value, sizeof(value));
  uint32_t same = 0;
  for (uint32_t lane = 0; lane < 32; ++lane)
    if ((mask >> lane & 1) != 0 && std::memcmp(slots[lane].bytes, &value, sizeof(value)) == 0)
      same |= uint32_t{1} << lane;
  return same;
}

inline int __popc(uint32_t x) {
  return std::popcount(x);
}
inline int __ffs(uint32_t x) {
  return x == 0 ? 0 : std::countr_zero(x) + 1;
}
inline uint32_t __umulhi(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(uint64_t{a} * b >> 32);
}
inline float __uint_as_float(uint32_t x) {
  return std::bit_cast<float>(x);
}
inline uint32_t __float_as_uint(float x) {
  return std::bit_cast<uint32_t>(x);
}
inline int atomicAdd(int* at, int value) {
  int before = *at;
  *at += value;
  return before;
}

// Pieces of ops/cuda/dialect.h. -------------------------------------------------------------------------------------

namespace automodel::ops::cuda {

using emulator::Grid;

template <class... P, class... A>
void launch(void (*kernel)(P...), const Grid& grid, A... args) {
  emulator::run(grid, [&] { kernel(static_cast<P>(args)...); });
}

template <class T>
T* shared_memory() {
  return static_cast<T*>(emulator::shared_bytes());
}

inline void check_aligned(const void* p, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0) emulator::stop_kernel("a vector access that is not aligned");
}

inline bf16 round_bf16(float x) {
  return to_bf16(x);
}
inline uint32_t pack_bf16(float low, float high) {
  return to_bf16(low).bits | static_cast<uint32_t>(to_bf16(high).bits) << 16;
}
inline float exp2_fast(float x) {
  return std::exp2(x);
}

// Copies that arrive when they are waited for, so that a missing wait shows.
void copy_async_16(void* shared, const void* global, bool valid);
void copy_async_commit();
void copy_async_wait(int groups_left);
template <int kLeft>
void copy_async_wait() {
  copy_async_wait(kLeft);
}

void load_matrices(uint32_t (&to)[4], const void* row, int line = __builtin_LINE());
void load_matrices_transposed(uint32_t (&to)[4], const void* row, int line = __builtin_LINE());
void multiply_tile(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, int line = __builtin_LINE());

}  // namespace automodel::ops::cuda
