#include "nn/param.h"

#include <algorithm>

#include "core/error.h"
#include "core/rng.h"

namespace automodel::nn {

void Param::place(int rank, int size) {
  kept.clear();
  sharers = size;
  sharer = rank;
  if (size == 1 || split.dim < 0) return;
  int64_t at = 0;
  for (const SplitPart& part : split.parts) {
    bool shared = part.units < size && size % part.units == 0;
    int64_t per_rank = shared ? 1 : (part.units + size - 1) / size;
    int64_t sharing = shared ? size / part.units : 1;
    int64_t first = std::min(part.units, rank / sharing * per_rank);
    int64_t last = std::min(part.units, first + per_rank);
    AM_CHECK((at == 0 || sharers == sharing) && first < last, Fault::kBug,
             "{}: {} ranks cannot share {} units of a fused weight", name, size, part.units);
    sharers = static_cast<int>(sharing);
    sharer = static_cast<int>(rank % sharing);
    int64_t unit = part.extent / part.units;
    kept.push_back({at + first * unit, at + last * unit});
    at += part.extent;
  }
  AM_CHECK(at == shape[split.dim], Fault::kBug, "{}: the parts of its split have {} of {} elements", name, at,
           shape[split.dim]);
}

Shape Param::local_shape() const {
  if (kept.empty()) return shape;
  std::vector<int64_t> dims(shape.dims().begin(), shape.dims().end());
  int64_t& extent = dims[static_cast<size_t>(split.dim)];
  extent = 0;
  for (const Interval& interval : kept) extent += interval.size();
  return Shape(std::span<const int64_t>(dims));
}

std::vector<ElementRun> runs_of(const Param& param, int64_t begin, int64_t end) {
  if (param.kept.empty()) return {{begin, begin, end - begin}};
  // The weight is [outer, extent, inner] around the dim that is cut; a run stays within one interval.
  int64_t inner = 1, extent = 0;
  for (int d = param.split.dim + 1; d < param.shape.rank(); ++d) inner *= param.shape[d];
  for (const Interval& interval : param.kept) extent += interval.size();
  int64_t whole_row = param.shape[param.split.dim] * inner;
  std::vector<ElementRun> out;
  for (int64_t row = begin / (extent * inner); row * extent * inner < end; ++row) {
    int64_t local = row * extent * inner;
    for (const Interval& interval : param.kept) {
      int64_t from = std::max(begin, local), to = std::min(end, local + interval.size() * inner);
      if (from < to) out.push_back({from, row * whole_row + interval.begin * inner + from - local, to - from});
      local += interval.size() * inner;
    }
  }
  return out;
}

void initialise(const Param& param, uint64_t seed, int64_t begin, int64_t end, float* out) {
  switch (param.init.kind) {
    case Init::Kind::kZeros:
      std::fill(out, out + (end - begin), 0.0f);
      return;
    case Init::Kind::kOnes:
      std::fill(out, out + (end - begin), 1.0f);
      return;
    case Init::Kind::kNormal:
      break;
  }
  Random random(seed, hash_name(param.name));
  constexpr int64_t kBlock = 4096;
  std::vector<ElementRun> blocks;
  for (ElementRun run : runs_of(param, begin, end))
    for (; run.count > 0; run.local += kBlock, run.whole += kBlock, run.count -= kBlock)
      blocks.push_back({run.local, run.whole, std::min(run.count, kBlock)});
  auto count = static_cast<int64_t>(blocks.size());
#pragma omp parallel for schedule(static) if (end - begin > kBlock)
  for (int64_t b = 0; b < count; ++b) {
    const ElementRun& run = blocks[static_cast<size_t>(b)];
    float* to = out + (run.local - begin);
    for (int64_t i = 0; i < run.count; ++i)
      to[i] = param.init.std * random.normal(static_cast<uint64_t>(run.whole + i));
  }
}

int64_t count_elements(const std::vector<Param*>& params) {
  int64_t n = 0;
  for (const Param* p : params) n += p->shape.numel();
  return n;
}

}  // namespace automodel::nn
