// Softmax cross-entropy of rows of logits, and its gradient: a block takes a row, with a running maximum and sum for
// each thread, then goes over it again, which its cache or the device's still holds.
#include "ops/cuda/kernel.h"
#include "ops/cuda/table.h"

namespace automodel::ops::cuda {
namespace {

constexpr int kRowThreads = 1024;  // of a block, at most
constexpr float kLowest = -3.40282347e38f;

// A maximum, and the sum of exp(x - maximum).
struct RowSum {
  float max, sum;
};
struct Join {
  AM_DEVICE RowSum operator()(RowSum a, RowSum b) const {
    float max = a.max > b.max ? a.max : b.max;
    return {max, a.sum * expf(a.max - max) + b.sum * expf(b.max - max)};
  }
};
AM_DEVICE RowSum block_join(RowSum x) {
  Join join;
  __shared__ RowSum of_warps[32];
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2)
    x = join(x, {__shfl_xor_sync(kAllLanes, x.max, distance), __shfl_xor_sync(kAllLanes, x.sum, distance)});
  __syncthreads();
  if (lane_index() == 0) of_warps[warp_index()] = x;
  __syncthreads();
  RowSum result = of_warps[0];
  for (int w = 1; w < static_cast<int>(blockDim.x) / kWarpSize; ++w) result = join(result, of_warps[w]);
  return result;
}

template <int N, class T>
AM_DEVICE RowSum sum_row(const T* x, int64_t width) {
  RowSum row{kLowest, 0};
  for (int64_t c = threadIdx.x * N; c < width; c += blockDim.x * N) {
    float v[N];
    load(x + c, v);
    float top = v[0];
#pragma unroll
    for (int j = 1; j < N; ++j) top = v[j] > top ? v[j] : top;
    float max = top > row.max ? top : row.max, sum = row.sum * expf(row.max - max);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += expf(v[j] - max);
    row = {max, sum};
  }
  return block_join(row);
}

// out = scale * (softmax - onehot at `label`), or zeros where there is no label.
template <int N, class In, class Out>
AM_DEVICE void write_gradient(Out* out, const In* x, int64_t width, double max, double sum, int64_t label,
                              float scale) {
  auto top = static_cast<float>(max);
  auto factor = static_cast<float>(static_cast<double>(scale) / sum);
  for (int64_t c = threadIdx.x * N; c < width; c += blockDim.x * N) {
    float v[N];
    load(x + c, v);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float y = expf(v[j] - top) * factor;
      v[j] = c + j == label ? y - scale : y;
    }
    store(out + c, v);
  }
}
template <int N, class Out>
AM_DEVICE void write_zeros(Out* out, int64_t width) {
  for (int64_t c = threadIdx.x * N; c < width; c += blockDim.x * N) store<N>(out + c, {});
}

struct Rows {
  float* losses;
  const int32_t* labels;
  int64_t count, width;
  float scale;
};

template <class In, class Out, int N>
__global__ void __launch_bounds__(kRowThreads) whole_rows(Rows rows, Out* dlogits, const In* logits) {
  for (int64_t row = blockIdx.x; row < rows.count; row += gridDim.x) {
    const In* x = logits + row * rows.width;
    Out* out = dlogits == nullptr ? nullptr : dlogits + row * rows.width;
    int64_t label = rows.labels[row];
    if (label < 0) {
      if (threadIdx.x == 0) rows.losses[row] = 0;
      if (out != nullptr) write_zeros<N>(out, rows.width);
      continue;
    }
    float picked = widen(x[label]);
    RowSum sum = sum_row<N>(x, rows.width);  // with a barrier behind the last read of `picked`
    if (threadIdx.x == 0)
      rows.losses[row] = static_cast<float>(log(static_cast<double>(sum.sum)) + static_cast<double>(sum.max) -
                                            static_cast<double>(picked));
    if (out != nullptr) write_gradient<N>(out, x, rows.width, sum.max, sum.sum, label, rows.scale);
  }
}

template <int N>
__global__ void __launch_bounds__(kRowThreads) part_rows(float* part, const float* logits, const int32_t* labels,
                                                         Lanes<N>, int64_t count, int64_t width, int64_t first) {
  for (int64_t row = blockIdx.x; row < count; row += gridDim.x) {
    const float* x = logits + row * width;
    int64_t label = labels[row], at = label - first;
    RowSum sum{0, 0};
    float picked = 0;
    if (label >= 0) {
      sum = sum_row<N>(x, width);
      if (at >= 0 && at < width) picked = x[at];
    }
    if (threadIdx.x == 0) part[3 * row] = sum.max, part[3 * row + 1] = sum.sum, part[3 * row + 2] = picked;
  }
}

struct Parts {
  const float* numbers;  // [ranks, rows, 3]
  int64_t ranks, first;
};

template <class Out, int N>
__global__ void __launch_bounds__(kRowThreads) join_rows(Rows rows, Out* dlogits, const float* logits, Parts parts) {
  for (int64_t row = blockIdx.x; row < rows.count; row += gridDim.x) {
    const float* x = logits + row * rows.width;
    Out* out = dlogits == nullptr ? nullptr : dlogits + row * rows.width;
    int64_t label = rows.labels[row];
    if (label < 0) {
      if (threadIdx.x == 0) rows.losses[row] = 0;
      if (out != nullptr) write_zeros<N>(out, rows.width);
      continue;
    }
    const float* part = parts.numbers + row * 3;
    int64_t stride = rows.count * 3;
    float max = part[0], picked = 0;
    double sum = 0;
    for (int64_t r = 0; r < parts.ranks; ++r) {
      max = part[r * stride] > max ? part[r * stride] : max;
      picked += part[r * stride + 2];
    }
    for (int64_t r = 0; r < parts.ranks; ++r)
      sum += static_cast<double>(part[r * stride + 1]) *
             exp(static_cast<double>(part[r * stride]) - static_cast<double>(max));
    if (threadIdx.x == 0)
      rows.losses[row] = static_cast<float>(log(sum) + static_cast<double>(max) - static_cast<double>(picked));
    if (out != nullptr) write_gradient<N>(out, x, rows.width, max, sum, label - parts.first, rows.scale);
  }
}

Grid grid_for(int64_t rows, int64_t chunks) {
  return blocks_for(rows, smaller(divide_up(larger(chunks, 1), 4 * kWarpSize) * kWarpSize, kRowThreads));
}

}  // namespace

void cross_entropy(const Tensor& losses, const Tensor& dlogits, const Tensor& logits, const Tensor& labels,
                   bool gradient, float grad_scale) {
  Rows rows{ptr<float>(losses), ptr<int32_t>(labels), logits.rows(), logits.cols(), grad_scale};
  if (rows.count == 0) return;
  with_type(logits, [&](auto in) {
    using In = decltype(in);
    auto run = [&](auto out) {
      using Out = decltype(out);
      constexpr int kWidth = kPackOf<In, Out>;
      Out* to = gradient ? ptr<Out>(dlogits) : nullptr;
      if (rows.width % kWidth == 0 && aligned_16({logits.raw(), to}))
        launch(whole_rows<In, Out, kWidth>, grid_for(rows.count, rows.width / kWidth), rows, to, ptr<In>(logits));
      else
        launch(whole_rows<In, Out, 1>, grid_for(rows.count, rows.width), rows, to, ptr<In>(logits));
    };
    if (gradient)
      with_type(dlogits, run);
    else
      run(In{});
  });
}

void cross_entropy_part(const Tensor& part, const Tensor& logits, const Tensor& labels, int64_t first) {
  int64_t rows = logits.rows(), width = logits.cols();
  if (rows == 0) return;
  auto run = [&](auto kernel, auto lanes, int64_t chunks) {
    launch(kernel, grid_for(rows, chunks), ptr<float>(part), ptr<float>(logits), ptr<int32_t>(labels), lanes, rows,
           width, first);
  };
  if (width % 4 == 0 && aligned_16({logits.raw()}))
    run(part_rows<4>, Lanes<4>{}, width / 4);
  else
    run(part_rows<1>, Lanes<1>{}, width);
}

void cross_entropy_join(const Tensor& losses, const Tensor& dlogits, const Tensor& logits, const Tensor& parts,
                        const CrossEntropyArgs& args) {
  Rows rows{ptr<float>(losses), ptr<int32_t>(*args.labels), logits.rows(), logits.cols(), args.grad_scale};
  Parts all{ptr<float>(parts), parts.size(0), args.first};
  if (rows.count == 0) return;
  auto run = [&](auto out) {
    using Out = decltype(out);
    constexpr int kWidth = kPackOf<float, Out>;
    Out* to = args.gradient ? ptr<Out>(dlogits) : nullptr;
    if (rows.width % kWidth == 0 && aligned_16({logits.raw(), to}))
      launch(join_rows<Out, kWidth>, grid_for(rows.count, rows.width / kWidth), rows, to, ptr<float>(logits), all);
    else
      launch(join_rows<Out, 1>, grid_for(rows.count, rows.width), rows, to, ptr<float>(logits), all);
  };
  if (args.gradient)
    with_type(dlogits, run);
  else
    run(float{});
}

}  // namespace automodel::ops::cuda
