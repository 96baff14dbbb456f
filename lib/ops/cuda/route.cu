// The router of a mixture of experts: its choice and the gradient of it, a warp for each token; what a sample's tokens
// chose, summed in fp64 over parts of the sample in their order.
//
// The choice needs no marks of what was taken: the next expert is the best of those that come after the last one in the
// order of (score, lower index first), so equal scores are never chosen twice.
#include "ops/cuda/kernel.h"
#include "ops/cuda/table.h"

namespace automodel::ops::cuda {
namespace {

constexpr int64_t kWarps = 4;      // of a block
constexpr int64_t kPartRows = 64;  // tokens of a part of a sample
constexpr float kInfinity = __builtin_inff();

// RouteArgs without tensors.
struct Route {
  bool renormalise;
  const float* bias;
  const int32_t* real;
  int64_t rows, tokens, first, sequence;
  int n, k;

  AM_DEVICE bool is_token(int64_t row) const { return row < tokens && (real == nullptr || real[row] != 0); }
};

Route route_of(const RouteArgs& args, int64_t rows, int64_t n, int64_t k) {
  return {args.renormalise,
          args.bias == nullptr ? nullptr : ptr<float>(*args.bias),
          args.real == nullptr ? nullptr : ptr<int32_t>(*args.real),
          rows,
          args.tokens,
          args.first,
          args.sequence,
          static_cast<int>(n),
          static_cast<int>(k)};
}

AM_DEVICE int64_t warp_of_grid() {
  return blockIdx.x * kWarps + warp_index();
}
AM_DEVICE int64_t warps_of_grid() {
  return gridDim.x * kWarps;
}
Grid warps_for(int64_t rows) {
  return blocks_for(divide_up(rows, kWarps), kWarps * kWarpSize);
}

// Lane l has the numbers l, l + 32, ...
AM_DEVICE void softmax_row(float* probs, const float* logits, int n) {
  float top = -kInfinity, sum = 0;
  for (int e = lane_index(); e < n; e += kWarpSize) top = logits[e] > top ? logits[e] : top;
  top = warp_reduce(top, Larger{});
  for (int e = lane_index(); e < n; e += kWarpSize) {
    float y = expf(logits[e] - top);
    sum += y;
    probs[e] = y;
  }
  sum = warp_reduce(sum);
  for (int e = lane_index(); e < n; e += kWarpSize) probs[e] /= sum;
  __syncwarp();
}

struct Best {
  float score;
  int at;  // -1: none
};
struct Better {
  AM_DEVICE Best operator()(Best a, Best b) const {
    if (a.at < 0) return b;
    if (b.at < 0) return a;
    if (a.score != b.score) return a.score > b.score ? a : b;
    return a.at < b.at ? a : b;
  }
};

// The best score behind `last`; the same in all lanes.
AM_DEVICE Best next_best(const Route& route, const float* probs, Best last) {
  Best best{0, -1};
  for (int e = lane_index(); e < route.n; e += kWarpSize) {
    float score = route.bias == nullptr ? probs[e] : probs[e] + route.bias[e];
    bool left = score < last.score || (score == last.score && e > last.at);
    if (left && (best.at < 0 || score > best.score)) best = {score, e};
  }
  Better better;
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2)
    best =
        better(best, {__shfl_xor_sync(kAllLanes, best.score, distance), __shfl_xor_sync(kAllLanes, best.at, distance)});
  return best;
}

AM_DEVICE float chosen_sum(const float* probs, const int32_t* chosen, int k) {
  float sum = 0;
  for (int j = 0; j < k; ++j)
    if (chosen[j] >= 0) sum += probs[chosen[j]];
  return sum;
}

__global__ void forward_kernel(float* probs, float* weights, int32_t* experts, const float* logits, Route route) {
  for (int64_t row = warp_of_grid(); row < route.rows; row += warps_of_grid()) {
    float* p = probs + row * route.n;
    float* w = weights + row * route.k;
    int32_t* chosen = experts + row * route.k;
    softmax_row(p, logits + row * route.n, route.n);
    if (!route.is_token(row)) {
      for (int j = lane_index(); j < route.k; j += kWarpSize) chosen[j] = -1, w[j] = 0;
      continue;
    }
    Best last{kInfinity, -1};
    for (int j = 0; j < route.k; ++j) {
      Best best = next_best(route, p, last);
      if (lane_index() == 0) chosen[j] = best.at;
      if (best.at >= 0) last = best;
    }
    __syncwarp();
    float divisor = route.renormalise ? chosen_sum(p, chosen, route.k) : 1;
    for (int j = lane_index(); j < route.k; j += kWarpSize) w[j] = chosen[j] < 0 ? 0 : p[chosen[j]] / divisor;
  }
}

// With p = softmax(l): dl = p (dp - <p, dp>). With w_j = p_j / S, S the sum of the chosen: dp_j = (dw_j - <w, dw>) / S.
__global__ void backward_kernel(float* dlogits, const float* dweights, const float* dprobs, const float* probs,
                                const int32_t* experts, Route route) {
  for (int64_t row = warp_of_grid(); row < route.rows; row += warps_of_grid()) {
    float* d = dlogits + row * route.n;
    const float* p = probs + row * route.n;
    const int32_t* chosen = experts + row * route.k;
    bool token = route.is_token(row);
    const float* dp = token && dprobs != nullptr ? dprobs + (route.first + row) / route.sequence * route.n : nullptr;
    for (int e = lane_index(); e < route.n; e += kWarpSize) d[e] = dp == nullptr ? 0 : dp[e];
    __syncwarp();
    if (token && dweights != nullptr) {
      const float* dw = dweights + row * route.k;
      float divisor = 1, mean = 0;
      if (route.renormalise) {
        divisor = chosen_sum(p, chosen, route.k);
        for (int j = 0; j < route.k; ++j)
          if (chosen[j] >= 0) mean += dw[j] * (p[chosen[j]] / divisor);
      }
      for (int j = lane_index(); j < route.k; j += kWarpSize)
        if (chosen[j] >= 0) d[chosen[j]] += (dw[j] - mean) / divisor;
    }
    __syncwarp();
    float sum = 0;
    for (int e = lane_index(); e < route.n; e += kWarpSize) sum += d[e] * p[e];
    sum = warp_reduce(sum);
    for (int e = lane_index(); e < route.n; e += kWarpSize) d[e] = p[e] * (d[e] - sum);
  }
}

// One block for each part of each sample; a thread for an expert, the last two columns for the first threads.
__global__ void __launch_bounds__(kMostThreads)
    part_sums_kernel(double* partials, const float* probs, const int32_t* experts, const int32_t* labels, Route route) {
  int64_t sample = blockIdx.y, width = 2 * route.n + 2;
  int64_t begin = sample * route.sequence + blockIdx.x * kPartRows;
  int64_t end = min(begin + kPartRows, (sample + 1) * route.sequence) - route.first;
  begin = max(begin - route.first, int64_t{0});
  end = min(end, route.tokens);
  double* out = partials + (sample * gridDim.x + blockIdx.x) * width;
  for (int64_t column = threadIdx.x; column < route.n + 2; column += blockDim.x) {
    double total = 0;
    int times = 0;
    for (int64_t row = begin; row < end; ++row) {
      if (!route.is_token(row)) continue;
      if (column == route.n) ++times;
      if (column == route.n + 1 && labels[row] >= 0) ++times;
      if (column >= route.n) continue;
      total += static_cast<double>(probs[row * route.n + column]);
      for (int j = 0; j < route.k; ++j) times += experts[row * route.k + j] == column ? 1 : 0;
    }
    if (column < route.n) {
      out[column] = times;
      out[route.n + column] = total;
    } else {
      out[route.n + column] = times;
    }
  }
}

__global__ void add_parts_kernel(double* sums, const double* partials, int64_t parts, int64_t width) {
  for (int64_t column = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; column < width;
       column += gridDim.x * int64_t{blockDim.x}) {
    double sum = 0;
    for (int64_t part = 0; part < parts; ++part) sum += partials[(blockIdx.y * parts + part) * width + column];
    sums[blockIdx.y * width + column] = sum;
  }
}

// A block for each sample.
__global__ void __launch_bounds__(kMostThreads)
    balance_kernel(float* losses, float* dprobs, const double* sums, int64_t n, int64_t k, float scale) {
  int64_t sample = blockIdx.x;
  const double* chosen = sums + sample * (2 * n + 2);
  const double* total = chosen + n;
  double tokens = total[n], labels = total[n + 1], loss = 0;
  for (int64_t e = threadIdx.x; e < n; e += blockDim.x) {
    double f = tokens == 0 ? 0 : chosen[e] * static_cast<double>(n) / (static_cast<double>(k) * tokens);
    loss += tokens == 0 ? 0 : f * total[e] / tokens;
    dprobs[sample * n + e] = tokens == 0 ? 0 : static_cast<float>(static_cast<double>(scale) * labels * f / tokens);
  }
  loss = block_reduce(loss);
  if (threadIdx.x == 0) losses[sample] = static_cast<float>(loss);
}

const float* or_null(const Tensor& t) {
  return t.defined() ? ptr<float>(t) : nullptr;
}

}  // namespace

void route_forward(const Tensor& probs, const Tensor& weights, const Tensor& experts, const Tensor& logits,
                   const RouteArgs& args) {
  Route route = route_of(args, probs.rows(), probs.cols(), weights.cols());
  if (route.rows == 0) return;
  launch(forward_kernel, warps_for(route.rows), ptr<float>(probs), ptr<float>(weights), ptr<int32_t>(experts),
         ptr<float>(logits), route);
}

void route_backward(const Tensor& dlogits, const Tensor& dweights, const Tensor& dprobs, const Tensor& probs,
                    const Tensor& experts, const RouteArgs& args) {
  Route route = route_of(args, probs.rows(), probs.cols(), experts.cols());
  if (route.rows == 0) return;
  launch(backward_kernel, warps_for(route.rows), ptr<float>(dlogits), or_null(dweights), or_null(dprobs),
         ptr<float>(probs), ptr<int32_t>(experts), route);
}

void route_sums(const Tensor& sums, const Tensor& probs, const Tensor& experts, const Tensor& labels,
                const RouteArgs& args) {
  Route route = route_of(args, probs.rows(), probs.cols(), experts.cols());
  int64_t samples = sums.rows(), width = sums.cols(), parts = larger(1, divide_up(args.sequence, kPartRows));
  if (samples == 0) return;
  auto* partials = static_cast<double*>(scratch(static_cast<size_t>(samples * parts * width) * sizeof(double)));
  launch(part_sums_kernel, {dim3(extent(parts), extent(samples)), dim3(extent(threads_for(route.n + 2)))}, partials,
         ptr<float>(probs), ptr<int32_t>(experts), ptr<int32_t>(labels), route);
  launch(add_parts_kernel, {dim3(extent(divide_up(width, 128)), extent(samples)), dim3(128)}, ptr<double>(sums),
         partials, parts, width);
}

void balance_loss(const Tensor& losses, const Tensor& dprobs, const Tensor& sums, int64_t k, float scale) {
  int64_t n = dprobs.cols();
  if (sums.rows() == 0) return;
  launch(balance_kernel, {dim3(extent(sums.rows())), dim3(extent(threads_for(n)))}, ptr<float>(losses),
         ptr<float>(dprobs), ptr<double>(sums), n, k, scale);
}

}  // namespace automodel::ops::cuda
