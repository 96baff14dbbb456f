// What kernels are made of: numbers in registers, 128 bits at a time where the memory allows; sums of warps and blocks
// in an order that is always the same; loops over elements and rows.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "ops/cuda/dialect.h"
#include "ops/cuda/runtime.h"
#include "ops/kernels.h"

#define AM_DEVICE __device__ __forceinline__

namespace automodel::ops::cuda {

inline constexpr uint32_t kAllLanes = 0xffffffffu;
inline constexpr int kWarpSize = 32;

// Numbers. ----------------------------------------------------------------------------------------------------------

AM_DEVICE float widen(float x) {
  return x;
}
AM_DEVICE float widen(bf16 x) {
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}
template <class T>
AM_DEVICE T narrow(float x) {
  if constexpr (sizeof(T) == sizeof(float))
    return x;
  else
    return round_bf16(x);
}
// x as it would be read back after a store of type T.
template <class T>
AM_DEVICE float rounded_to(float x) {
  return widen(narrow<T>(x));
}

template <class T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Chunk {
  T x[N];
};

template <int N, class T>
AM_DEVICE void load(const T* from, float (&x)[N]) {
  using C = Chunk<T, N>;
  check_aligned(from, alignof(C));
  C chunk = *reinterpret_cast<const C*>(from);
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = widen(chunk.x[i]);
}
template <int N, class T>
AM_DEVICE void store(T* to, const float (&x)[N]) {
  using C = Chunk<T, N>;
  check_aligned(to, alignof(C));
  C chunk;
#pragma unroll
  for (int i = 0; i < N; ++i) chunk.x[i] = narrow<T>(x[i]);
  *reinterpret_cast<C*>(to) = chunk;
}
template <int N, class T>
AM_DEVICE void copy_chunk(T* to, const T* from) {
  using C = Chunk<T, N>;
  check_aligned(from, alignof(C));
  check_aligned(to, alignof(C));
  *reinterpret_cast<C*>(to) = *reinterpret_cast<const C*>(from);
}

// Warps and blocks. -------------------------------------------------------------------------------------------------

AM_DEVICE int lane_index() {
  return static_cast<int>(threadIdx.x) % kWarpSize;
}
AM_DEVICE int warp_index() {
  return static_cast<int>(threadIdx.x) / kWarpSize;
}

struct Sum {
  template <class V>
  AM_DEVICE V operator()(V a, V b) const {
    return a + b;
  }
};
struct Larger {
  template <class V>
  AM_DEVICE V operator()(V a, V b) const {
    return a > b ? a : b;
  }
};

// Every lane gets the result over the `kWidth` lanes of its group, each of which takes part.
template <int kWidth = kWarpSize, class V, class F = Sum>
AM_DEVICE V warp_reduce(V x, F f = {}) {
#pragma unroll
  for (int distance = kWidth / 2; distance > 0; distance /= 2) x = f(x, __shfl_xor_sync(kAllLanes, x, distance));
  return x;
}

// The same over a block of whole warps along x; every thread of it must call.
template <class V, class F = Sum>
AM_DEVICE V block_reduce(V x, F f = {}) {
  __shared__ V of_warps[32];
  x = warp_reduce(x, f);
  __syncthreads();  // an earlier result has been read
  if (lane_index() == 0) of_warps[warp_index()] = x;
  __syncthreads();
  V result = of_warps[0];
  for (int w = 1; w < static_cast<int>(blockDim.x) / kWarpSize; ++w) result = f(result, of_warps[w]);
  return result;
}

// Host: types and geometry. -----------------------------------------------------------------------------------------

template <class T>
T* ptr(const Tensor& t) {
  return static_cast<T*>(t.raw());
}

// f(T{}) with T the compute type of a tensor: float or bf16.
template <class F>
void with_type(const Tensor& t, F&& f) {
  if (t.dtype() == DType::kBF16)
    f(bf16{});
  else
    f(float{});
}

inline bool aligned_16(std::initializer_list<const void*> pointers) {
  for (const void* p : pointers)
    if (reinterpret_cast<uintptr_t>(p) % 16 != 0) return false;
  return true;
}

inline int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
inline int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}
inline int64_t larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}
inline unsigned extent(int64_t n) {
  return static_cast<unsigned>(n);
}

// One block of `threads` for each of n units of work, or fewer that take several (strides of gridDim.x).
inline Grid blocks_for(int64_t units, int64_t threads, size_t shared = 0) {
  return {dim3(extent(smaller(units, 64 * multiprocessors()))), dim3(extent(threads)), shared};
}
// Threads of a block for rows of `chunks` loads, at most kMostThreads: the bound of a kernel that is launched so.
inline constexpr int kMostThreads = 512;
inline int64_t threads_for(int64_t chunks) {
  return smaller(divide_up(larger(chunks, 1), kWarpSize) * kWarpSize, kMostThreads);
}

// f(Lanes<n>) with n numbers for each lane of a warp that takes `width` of type T: more than one where it stays busy
// and `places`, addresses and strides in elements, are multiples of n numbers.
template <int N>
struct Lanes {};
struct Place {
  const void* address;
  int64_t stride;
};
template <class T, class F>
void with_warp_width(int64_t width, std::initializer_list<Place> places, F&& f) {
  auto fits = [&](int64_t n) {
    if (width % n != 0 || width < n * kWarpSize) return false;
    for (Place p : places)
      if (reinterpret_cast<uintptr_t>(p.address) % (static_cast<size_t>(n) * sizeof(T)) != 0 || p.stride % n != 0)
        return false;
    return true;
  };
  if (fits(4)) return f(Lanes<4>{});
  if (fits(2)) return f(Lanes<2>{});
  f(Lanes<1>{});
}

// Loops over elements and rows. -------------------------------------------------------------------------------------

template <int N, class F>
__global__ void __launch_bounds__(256) each_kernel(int64_t n, F f) {
  int64_t thread = blockIdx.x * int64_t{blockDim.x} + threadIdx.x, all = gridDim.x * int64_t{blockDim.x};
  for (int64_t i = thread; i < n / N; i += all) f(i * N, Lanes<N>{});
  if constexpr (N > 1)
    for (int64_t i = n / N * N + thread; i < n; i += all) f(i, Lanes<1>{});
}

// f(i, Lanes<k>) for elements i .. i + k: k = N, and 1 for a rest, where `aligned`, else 1.
template <int N, class F>
void each(int64_t n, bool aligned, const F& f) {
  if (n == 0) return;
  constexpr int64_t kThreads = 256;
  if (aligned)
    launch(each_kernel<N, F>, blocks_for(divide_up(divide_up(n, N), kThreads), kThreads), n, f);
  else
    launch(each_kernel<1, F>, blocks_for(divide_up(n, kThreads), kThreads), n, f);
}

template <int N, class F>
__global__ void __launch_bounds__(256) each_row_kernel(int64_t rows, int64_t cols, F f) {
  int64_t all_rows = gridDim.y * int64_t{blockDim.y}, all_cols = gridDim.x * int64_t{blockDim.x};
  for (int64_t row = blockIdx.y * int64_t{blockDim.y} + threadIdx.y; row < rows; row += all_rows)
    for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < cols / N; i += all_cols)
      f(row, i * N, Lanes<N>{});
}

// f(row, column, Lanes<k>) for columns column .. column + k: k = N where `aligned` and N divides cols, else 1.
template <int N, class F>
void each_row(int64_t rows, int64_t cols, bool aligned, const F& f) {
  if (rows == 0 || cols == 0) return;
  int64_t chunks = aligned && cols % N == 0 ? cols / N : cols;
  int64_t x = divide_up(chunks, 32), y = smaller(divide_up(rows, 8), larger(1, 128 * multiprocessors() / x));
  Grid grid{dim3(extent(x), extent(smaller(y, 65535))), dim3(32, 8)};
  if (chunks < cols || N == 1)
    launch(each_row_kernel<N, F>, grid, rows, cols, f);
  else
    launch(each_row_kernel<1, F>, grid, rows, cols, f);
}

// Numbers of type T in 128 bits.
template <class T>
inline constexpr int kPack = 16 / static_cast<int>(sizeof(T));
// ... of the narrower of two types.
template <class T, class U>
inline constexpr int kPackOf = kPack<T> > kPack<U> ? kPack<T> : kPack<U>;

}  // namespace automodel::ops::cuda
