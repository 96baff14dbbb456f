#include "ops/tensor_parallel.h"

#include <algorithm>
#include <array>
#include <utility>

#include "ops/buffer.h"

namespace automodel::ops {

using autograd::Gradients;
using autograd::Var;
using autograd::Work;
using comm::Communicator;

namespace {

int64_t part_of(int64_t rows, const Communicator& ranks) {
  return (rows + ranks.size() - 1) / ranks.size();
}

Tensor gathered(const Tensor& part, int64_t rows, Communicator& ranks, Allocator& allocator) {
  Tensor all = Tensor::empty({part.rows() * ranks.size(), part.cols()}, part.dtype(), allocator);
  ranks.all_gather(buffer_of(all), buffer_of(part));
  return all.rows() == rows ? all : all.narrow(0, rows);
}

// Sums in place where the rows come out even; the rank's rows are then copied, so that the rest is freed.
Tensor summed_part(Tensor all, Communicator& ranks, Allocator& allocator) {
  int64_t rows = all.rows(), each = part_of(rows, ranks);
  Tensor from = all;
  if (each * ranks.size() != rows) {
    from = Tensor::empty({each * ranks.size(), all.cols()}, all.dtype(), allocator);
    copy(from.narrow(0, rows), all);
    zero(from.narrow(rows, from.rows() - rows));
  }
  Tensor part = Tensor::empty({each, all.cols()}, all.dtype(), allocator);
  ranks.reduce_scatter(buffer_of(part), buffer_of(from), comm::Reduce::kSum);
  return part;
}

// The rank's rows of what all ranks have.
Tensor own_part(const Tensor& all, Communicator& ranks, Allocator& allocator) {
  int64_t each = part_of(all.rows(), ranks), begin = std::min(each * ranks.rank(), all.rows());
  int64_t here = std::min(each, all.rows() - begin);
  Tensor part = Tensor::empty({each, all.cols()}, all.dtype(), allocator);
  copy(part.narrow(0, here), all.narrow(begin, here));
  zero(part.narrow(here, each - here));
  return part;
}

}  // namespace

Var spread(const Var& x, Communicator& ranks) {
  if (ranks.size() == 1) return x;
  Var out = x.tape->record("spread", x.value, {x}, false, {}, [&ranks](Gradients& g) {
    Tensor dy = std::move(g.dy());
    if (!dy.unique()) dy = dy.clone();
    ranks.all_reduce(buffer_of(dy), comm::Reduce::kSum);
    g.pass(0, std::move(dy));
  });
  out.remake = x.remake;
  return out;
}

Var sum(const Var& x, Communicator& ranks) {
  if (ranks.size() == 1) return x;
  auto [y] = x.tape->made("sum", Work::kLight, [&] {
    Tensor all = x.tape->writable(x.value);
    ranks.all_reduce(buffer_of(all), comm::Reduce::kSum);
    return std::array{all};
  });
  return x.tape->record("sum", std::move(y), {x}, false, {}, [](Gradients& g) { g.pass(0, std::move(g.dy())); });
}

Var gather_rows(const Var& x, int64_t rows, Communicator& ranks) {
  if (ranks.size() == 1) return x;
  Allocator* allocator = &x.tape->allocator();
  Var out = x.tape->record("gather_rows", gathered(x.value, rows, ranks, *allocator), {x}, false, {},
                           [&ranks](Gradients& g) { g.pass(0, summed_part(std::move(g.dy()), ranks, g.allocator())); });
  if (out.id >= 0)
    out.remake = [part = autograd::Kept(x), rows, &ranks, allocator] {
      return gathered(part.get(), rows, ranks, *allocator);
    };
  return out;
}

Var sum_to_rows(const Var& x, Communicator& ranks) {
  if (ranks.size() == 1) return x;
  int64_t rows = x.value.rows();
  auto [y] = x.tape->made("sum_to_rows", Work::kExchange,
                          [&] { return std::array{summed_part(x.value, ranks, x.tape->allocator())}; });
  return x.tape->record("sum_to_rows", std::move(y), {x}, false, {},
                        [rows, &ranks](Gradients& g) { g.pass(0, gathered(g.dy(), rows, ranks, g.allocator())); });
}

Var part_of_rows(const Var& x, Communicator& ranks) {
  if (ranks.size() == 1) return x;
  int64_t rows = x.value.rows();
  Allocator* allocator = &x.tape->allocator();
  auto [part] =
      x.tape->made("part_of_rows", Work::kLight, [&] { return std::array{own_part(x.value, ranks, *allocator)}; });
  Var out = x.tape->record("part_of_rows", std::move(part), {x}, false, {},
                           [rows, &ranks](Gradients& g) { g.pass(0, gathered(g.dy(), rows, ranks, g.allocator())); });
  if (out.id >= 0)
    out.remake = [all = autograd::Kept(x), &ranks, allocator] { return own_part(all.get(), ranks, *allocator); };
  return out;
}

Var join_rows(const Var& x, int64_t rows, Communicator& ranks) {
  if (ranks.size() == 1) return x;
  Allocator* allocator = &x.tape->allocator();
  auto [y] =
      x.tape->made("join_rows", Work::kLight, [&] { return std::array{gathered(x.value, rows, ranks, *allocator)}; });
  Var out = x.tape->record("join_rows", std::move(y), {x}, false, {},
                           [&ranks](Gradients& g) { g.pass(0, own_part(g.dy(), ranks, g.allocator())); });
  if (out.id >= 0)
    out.remake = [part = autograd::Kept(x), rows, &ranks, allocator] {
      return gathered(part.get(), rows, ranks, *allocator);
    };
  return out;
}

}  // namespace automodel::ops
