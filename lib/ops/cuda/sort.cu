// Items are cut into chunks, each for one warp: it counts its items of each bin; a sum over bins and, within a bin,
// chunks tells where the items of a chunk begin; then the warp takes 32 of its items at a time, in order.
#include "ops/cuda/sort.h"

#include "ops/cuda/kernel.h"

namespace automodel::ops::cuda {
namespace {

constexpr int kScanThreads = 1024;

struct Chunks {
  int64_t count, size;
};

Chunks chunks_of(int64_t items) {
  constexpr int64_t kSize = 256, kMost = 256;
  int64_t size = larger(kSize, divide_up(divide_up(items, kMost), kWarpSize) * kWarpSize);
  return {divide_up(items, size), size};
}

AM_DEVICE int bin_of(const SortPass& pass, int64_t item) {
  if (item >= pass.count) return -1;
  int32_t key = pass.keys[item];
  return key < 0 ? -1 : (key >> pass.shift) & pass.mask;
}

__global__ void count_kernel(SortPass pass, Chunks chunks, int32_t* counts) {
  auto* mine = shared_memory<int32_t>();
  for (int64_t b = threadIdx.x; b < pass.bins; b += kWarpSize) mine[b] = 0;
  __syncwarp();
  int64_t begin = blockIdx.x * chunks.size;
  for (int64_t i = begin; i < begin + chunks.size; i += kWarpSize) {
    int bin = bin_of(pass, i + threadIdx.x);
    if (bin >= 0) atomicAdd(mine + bin, 1);
  }
  __syncwarp();
  for (int64_t b = threadIdx.x; b < pass.bins; b += kWarpSize) counts[b * chunks.count + blockIdx.x] = mine[b];
}

// Replaces n numbers by the sums of those before each; numbers[n] becomes the sum of all. One block.
__global__ void __launch_bounds__(kScanThreads) scan_kernel(int32_t* numbers, int64_t n) {
  __shared__ int32_t of_warps[kScanThreads / kWarpSize];
  int32_t before = 0;
  for (int64_t base = 0; base < n; base += kScanThreads) {
    int64_t i = base + threadIdx.x;
    int32_t own = i < n ? numbers[i] : 0, sum = own;
    for (int distance = 1; distance < kWarpSize; distance *= 2) {
      int32_t other = __shfl_up_sync(kAllLanes, sum, distance);
      if (lane_index() >= distance) sum += other;
    }
    if (lane_index() == kWarpSize - 1) of_warps[warp_index()] = sum;
    __syncthreads();
    int32_t all = 0;
    for (int w = 0; w < kScanThreads / kWarpSize; ++w) {
      if (w == warp_index()) sum += all;
      all += of_warps[w];
    }
    if (i < n) numbers[i] = before + sum - own;
    before += all;
    __syncthreads();
  }
  if (threadIdx.x == 0) numbers[n] = before;
}

__global__ void place_kernel(SortPass pass, Chunks chunks, const int32_t* begins) {
  auto* next = shared_memory<int32_t>();
  for (int64_t b = threadIdx.x; b < pass.bins; b += kWarpSize) next[b] = begins[b * chunks.count + blockIdx.x];
  __syncwarp();
  int64_t begin = blockIdx.x * chunks.size;
  for (int64_t at = begin; at < begin + chunks.size; at += kWarpSize) {
    int64_t i = at + threadIdx.x;
    int bin = bin_of(pass, i);
    uint32_t same = __match_any_sync(kAllLanes, bin);
    int earlier = __popc(same & ((1u << threadIdx.x) - 1));
    int32_t place = bin < 0 ? -1 : next[bin] + earlier;
    __syncwarp();
    if (bin >= 0 && earlier == 0) next[bin] += __popc(same);
    __syncwarp();
    if (i >= pass.count) continue;
    if (pass.places != nullptr) pass.places[i] = place;
    if (place < 0) continue;
    if (pass.sorted_keys != nullptr) pass.sorted_keys[place] = pass.keys[i];
    if (pass.sorted_values != nullptr)
      pass.sorted_values[place] = pass.values == nullptr ? static_cast<int32_t>(i) : pass.values[i];
  }
}

__global__ void totals_kernel(int32_t* totals, const int32_t* begins, int64_t bins, int64_t chunks) {
  for (int64_t b = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; b < bins; b += gridDim.x * int64_t{blockDim.x})
    totals[b] = begins[(b + 1) * chunks] - begins[b * chunks];
}

}  // namespace

int64_t sort_pass_size(int64_t count, int64_t bins) {
  return chunks_of(count).count * bins + 1;
}

void sort_pass(const SortPass& pass, int32_t* working) {
  if (pass.count == 0) {
    if (pass.totals != nullptr) set_zero(pass.totals, static_cast<size_t>(pass.bins) * sizeof(int32_t));
    return;
  }
  Chunks chunks = chunks_of(pass.count);
  Grid warps{dim3(extent(chunks.count)), dim3(kWarpSize), static_cast<size_t>(pass.bins) * sizeof(int32_t)};
  launch(count_kernel, warps, pass, chunks, working);
  launch(scan_kernel, {dim3(1), dim3(kScanThreads)}, working, chunks.count * pass.bins);
  launch(place_kernel, warps, pass, chunks, working);
  if (pass.totals != nullptr)
    launch(totals_kernel, {dim3(extent(divide_up(pass.bins, 256))), dim3(256)}, pass.totals, working, pass.bins,
           chunks.count);
}

}  // namespace automodel::ops::cuda
