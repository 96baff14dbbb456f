// The emulator must notice what a device would do wrong silently.
#include "support/cuda_emulator/emulator.h"

#include <doctest/doctest.h>

#include <string>

using namespace automodel;
using namespace automodel::ops::cuda;

namespace {

std::string error_of(void (*kernel)(float*), const Grid& grid) {
  float numbers[64] = {};
  try {
    launch(kernel, grid, numbers);
  } catch (const emulator::KernelError& error) {
    return error.what();
  }
  return "";
}

__global__ void reverse(float* out) {
  auto* shared = shared_memory<float>();
  shared[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}
__global__ void part_of_a_block(float*) {
  if (threadIdx.x < 32) __syncthreads();
}
__global__ void two_barriers(float*) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}
__global__ void part_of_a_warp(float* out) {
  if (threadIdx.x < 7) out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}
__global__ void two_shuffles(float* out) {
  if (threadIdx.x < 7)
    out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
  else
    out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 2.0f, 1);
}
__global__ void never_waits(float* out) {
  copy_async_16(shared_memory<float>() + 4 * threadIdx.x, out, true);
}
__global__ void reads_too_early(float* out) {
  auto* shared = shared_memory<float>();
  copy_async_16(shared, out, true);
  copy_async_commit();
  float early = shared[1];
  copy_async_wait<0>();
  out[0] = std::isnan(early) && shared[1] == out[1] ? 1 : 0;
}

// Right in one order of the threads only.
__global__ void misses_a_barrier(float* out) {
  auto* shared = shared_memory<float>();
  shared[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = shared[threadIdx.x / 2];
}

}  // namespace

TEST_CASE("the emulator runs blocks that share memory") {
  float out[64];
  launch(reverse, {dim3(3), dim3(64), 64 * sizeof(float)}, out);
  for (int i = 0; i < 64; ++i) CHECK(out[i] == static_cast<float>(63 - i));
}

TEST_CASE("the emulator notices barriers and warp operations that not all reach") {
  CHECK(error_of(part_of_a_block, {dim3(1), dim3(64)}).find("no thread of the block can go on") != std::string::npos);
  CHECK(error_of(two_barriers, {dim3(1), dim3(64)}).find("threads of one block wait at") != std::string::npos);
  CHECK(error_of(part_of_a_warp, {dim3(1), dim3(32)}).find("no thread of the block can go on") != std::string::npos);
  CHECK(error_of(two_shuffles, {dim3(1), dim3(32)}).find("lanes of one warp meet at") != std::string::npos);
  CHECK(error_of(never_waits, {dim3(1), dim3(32), 512}).find("ended before a copy") != std::string::npos);
}

TEST_CASE("the emulator brings copies when they are waited for") {
  float out[64] = {5, 6, 7, 8};
  launch(reads_too_early, {dim3(1), dim3(1), 16}, out);
  CHECK(out[0] == 1);
}

TEST_CASE("a missing barrier shows in one of the emulator's orders") {
  float out[2][64];
  for (int run : {0, 1}) {
    emulator::set_order(run == 0 ? emulator::Order::kAscending : emulator::Order::kDescending);
    launch(misses_a_barrier, {dim3(1), dim3(64), 64 * sizeof(float)}, out[run]);
  }
  emulator::set_order(emulator::Order::kAscending);
  CHECK(out[0][63] == 31);
  CHECK(std::isnan(out[1][63]));
}
