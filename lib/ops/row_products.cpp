// Step s of n - 1 sends rows to the rank s after this one and receives from the rank s before it. Gathered rows are all
// on their way at once, and each rank multiplies its own first. Sums leave as soon as their piece is computed, and each
// rank computes its own piece last. So in both directions a whole piece is multiplied while the first transfer passes.
#include "ops/row_products.h"

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "core/interval.h"
#include "ops/buffer.h"

namespace automodel::ops {

using autograd::Gradients;
using autograd::Kept;
using autograd::Slot;
using autograd::Var;

namespace {

class Places {
 public:
  explicit Places(const RowShares& shares) : shares_(shares) {}
  int ranks() const { return shares_.ranks.size(); }
  int after(int step) const { return (shares_.ranks.rank() + step) % ranks(); }
  int before(int step) const { return (shares_.ranks.rank() - step + ranks()) % ranks(); }
  int64_t each() const { return (shares_.rows + ranks() - 1) / ranks(); }
  int64_t all() const { return each() * ranks(); }
  // A rank's rows, without padding.
  Interval rows_of(int rank) const {
    int64_t begin = std::min(each() * rank, shares_.rows);
    return {begin, std::min(begin + each(), shares_.rows)};
  }
  Tensor share_of(const Tensor& all, int rank) const { return all.narrow(each() * rank, each()); }

  comm::Pending exchange(const Tensor& to_after, const Tensor& from_before, int step) const {
    const comm::Transfer transfers[] = {comm::Transfer::send(after(step), buffer_of(to_after)),
                                        comm::Transfer::receive(before(step), buffer_of(from_before))};
    return shares_.ranks.start_exchange(transfers);
  }

 protected:
  const RowShares shares_;
};

Tensor piece_of(const Tensor& all, const Interval& rows) {
  return all.narrow(rows.begin, rows.size());
}

// The rows that the ranks have in parts, for all of them.
class Gathered : Places {
 public:
  Gathered(const Tensor& part, const RowShares& shares, Allocator& allocator)
      : Places(shares), all_(Tensor::empty({all(), part.cols()}, part.dtype(), allocator)) {
    Tensor own = share_of(all_, after(0));
    if (!shares.ahead) {
      shares.ranks.all_gather(buffer_of(all_), buffer_of(part));
      return;
    }
    copy(own, part);
    for (int s = 1; s < ranks(); ++s) coming_.push_back(exchange(own, share_of(all_, before(s)), s));
  }

  // work(rows of one rank, where they are among all), for every rank that has some, as they come.
  template <class F>
  void each_piece(F&& work) {
    for (int s = 0; s < ranks(); ++s) {
      if (s > 0 && !coming_.empty()) coming_[static_cast<size_t>(s - 1)].wait();
      Interval rows = rows_of(before(s));
      if (rows.size() > 0) work(piece_of(all_, rows), rows);
      if (!coming_.empty()) coming_.back().ready();  // progress
    }
  }

  Tensor whole() {
    for (comm::Pending& one : coming_) one.wait();
    return all_.narrow(0, shares_.rows);
  }

 private:
  Tensor all_;
  std::vector<comm::Pending> coming_;
};

// What the ranks compute of all rows, as sums in parts.
class Summed : Places {
 public:
  Summed(int64_t cols, DType dtype, const RowShares& shares, Allocator& allocator)
      : Places(shares), allocator_(allocator), computed_(Tensor::empty({all(), cols}, dtype, allocator)) {
    if (all() > shares.rows) zero(computed_.narrow(shares.rows, all() - shares.rows));
    if (shares.ahead) received_ = Tensor::empty({all() - each(), cols}, dtype, allocator);
  }

  // work(piece to write, where its rows are among all), for every rank that has some.
  template <class F>
  void each_piece(F&& work) {
    for (int s = 1; s <= ranks(); ++s) {
      Interval rows = rows_of(after(s));
      if (rows.size() > 0) work(piece_of(computed_, rows), rows);
      if (!shares_.ahead || s == ranks()) continue;
      coming_.push_back(exchange(share_of(computed_, after(s)), share_of(received_, s - 1), s));
      coming_.back().ready();  // progress
    }
  }

  Tensor sum() {
    Tensor out = Tensor::empty({each(), computed_.cols()}, computed_.dtype(), allocator_);
    if (!shares_.ahead) {
      shares_.ranks.reduce_scatter(buffer_of(out), buffer_of(computed_), comm::Reduce::kSum);
      return out;
    }
    for (comm::Pending& one : coming_) one.wait();
    std::vector<Tensor> parts(static_cast<size_t>(ranks()));
    for (int s = 0; s < ranks(); ++s)
      parts[static_cast<size_t>(before(s))] = s == 0 ? share_of(computed_, after(0)) : share_of(received_, s - 1);
    add_up(out, std::move(parts));
    return out;
  }

 private:
  // In the canonical order of comm/communicator.h, in f32. The parts may be overwritten.
  void add_up(const Tensor& out, std::vector<Tensor> parts) const {
    const Kernels& k = kernels(out.device());
    const bool narrow = out.dtype() != DType::kF32;
    if (narrow) {
      Tensor wide = Tensor::empty({all(), out.cols()}, DType::kF32, allocator_, MemoryClass::kWorkspace);
      for (size_t i = 0; i < parts.size(); ++i) {
        Tensor to = share_of(wide, static_cast<int>(i));
        k.cast(to, parts[i]);
        parts[i] = to;
      }
    }
    for (size_t step = 1; step < parts.size(); step *= 2)
      for (size_t i = 0; i + step < parts.size(); i += 2 * step) {
        const bool last = !narrow && i == 0 && 2 * step >= parts.size();
        k.add(last ? out : parts[i], parts[i], parts[i + step]);
      }
    if (narrow) k.cast(out, parts[0]);
  }

  Allocator& allocator_;
  Tensor computed_, received_;
  std::vector<comm::Pending> coming_;
};

}  // namespace

Var linear_of_gathered(const Var& x, std::span<const Projection> projections, const RowShares& shares) {
  const Joint joint = joint_of(x.value, projections);
  Allocator& allocator = x.tape->allocator();
  auto [y] = x.tape->made("linear_of_gathered", joint.work(), [&] {
    Tensor y = Tensor::empty({shares.rows, joint.width}, x.value.dtype(), allocator);
    Gathered(x.value, shares, allocator).each_piece([&](const Tensor& piece, const Interval& rows) {
      project(piece_of(y, rows), piece, projections);
    });
    return std::array{y};
  });
  if (!x.tape->keeps({&x, 1}, joint.trains)) return {std::move(y), -1, x.tape, {}};

  std::vector<Projection> ps(projections.begin(), projections.end());
  std::vector<Tensor> saved;
  if (joint.trains_weight && !x.remake) saved.push_back(x.value);
  return x.tape->record(
      "linear_of_gathered", std::move(y), {x}, joint.trains, std::move(saved),
      [ps = std::move(ps), shares, joint, part = joint.trains_weight ? std::optional(Kept(x)) : std::nullopt,
       width = x.value.cols()](Gradients& g) {
        Allocator* allocator = &g.allocator();
        Tensor dy = g.dy();
        auto gather = [part, shares, allocator] { return std::make_shared<Gathered>(part->get(), shares, *allocator); };
        // Gathered again for the gradients of the weights: beside the gradient of x, if both come now.
        std::shared_ptr<Gathered> again;
        if (shares.ahead && joint.trains_weight && !g.defers_wgrads()) again = gather();
        std::optional<Summed> dx;
        if (g.needed(0)) {
          dx.emplace(width, dy.dtype(), shares, *allocator);
          dx->each_piece([&](const Tensor& piece, const Interval& rows) {
            project_gradient({piece, false}, piece_of(dy, rows), ps);
          });
          if (!again) g.pass(0, std::exchange(dx, std::nullopt)->sum());
        }
        if (joint.trains)
          g.wgrad([ps, dy, again, gather, joint] {
            Tensor x = again ? again->whole() : joint.trains_weight ? gather()->whole() : Tensor{};
            weight_gradients(x, dy, ps);
          });
        if (dx) g.pass(0, dx->sum());
      });
}

Var linear_to_rows(const Var& x, const Projection& projection, const RowShares& shares) {
  const Joint joint = joint_of(x.value, {&projection, 1});
  auto [out] = x.tape->made("linear_to_rows", autograd::Work::kSummedProduct, [&] {
    Summed y(joint.width, x.value.dtype(), shares, x.tape->allocator());
    y.each_piece([&](const Tensor& piece, const Interval& rows) {
      project(piece, piece_of(x.value, rows), {&projection, 1});
    });
    return std::array{y.sum()};
  });
  if (!x.tape->keeps({&x, 1}, joint.trains)) return {std::move(out), -1, x.tape, {}};

  std::vector<Tensor> saved;
  if (joint.trains_weight && !x.remake) saved.push_back(x.value);
  auto remake = joint.trains_weight ? x.remake : nullptr;
  return x.tape->record("linear_to_rows", std::move(out), {x}, joint.trains, std::move(saved),
                        [projection, shares, joint, remake](Gradients& g) {
                          Gathered gathered(g.dy(), shares, g.allocator());
                          if (g.needed(0)) {
                            Slot dx = g.slot(0);
                            gathered.each_piece([&](const Tensor& piece, const Interval& rows) {
                              project_gradient({piece_of(dx.grad, rows), dx.accumulate}, piece, {&projection, 1});
                            });
                          }
                          if (!joint.trains) return;
                          Tensor x = joint.trains_weight && !remake ? g.saved(0) : Tensor{};
                          g.wgrad([projection, remake, x, dy = gathered.whole()] {
                            weight_gradients(remake ? remake() : x, dy, {&projection, 1});
                          });
                        });
}

}  // namespace automodel::ops
