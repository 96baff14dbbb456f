#include "comm/suite.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/rng.h"

namespace automodel::test {
namespace {

using comm::Buffer;
using comm::buffer_of;
using comm::Communicator;
using comm::ConstBuffer;
using comm::Reduce;
using comm::Transfer;

constexpr Reduce kOps[] = {Reduce::kSum, Reduce::kMax, Reduce::kMin};

uint64_t mixed(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Element i of rank r's contribution: magnitudes from 2^-10 to 2^10 mixed, so that another order of sums gives other
// bits.
template <class T>
T element(int rank, int64_t i) {
  const uint64_t bits = mixed(static_cast<uint64_t>(i) * 1024 + static_cast<uint64_t>(rank));
  const double x = std::ldexp(static_cast<double>(static_cast<int64_t>(bits)), static_cast<int>(bits % 21) - 73);
  if constexpr (std::is_same_v<T, bf16>)
    return to_bf16(static_cast<float>(x));
  else if constexpr (std::is_floating_point_v<T>)
    return static_cast<T>(x);
  else
    return static_cast<T>(bits >> 7);
}

template <class T>
std::vector<T> contribution(int rank, int64_t count, int64_t begin = 0) {
  std::vector<T> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) values[static_cast<size_t>(i)] = element<T>(rank, begin + i);
  return values;
}

// The canonical tree, written down once more and differently: level by level over one element.
template <class T>
T reference(int ranks, int64_t i, Reduce op) {
  const auto combine = [op](auto a, auto b) -> decltype(a) {
    using A = decltype(a);
    if (op == Reduce::kMax) return std::max(a, b);
    if (op == Reduce::kMin) return std::min(a, b);
    if constexpr (std::is_integral_v<A>)
      return static_cast<A>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
    else
      return a + b;
  };
  const auto tree = [&](auto level) {
    while (level.size() > 1) {
      decltype(level) next;
      for (size_t k = 0; k + 1 < level.size(); k += 2) next.push_back(combine(level[k], level[k + 1]));
      if (level.size() % 2 == 1) next.push_back(level.back());
      level = next;
    }
    return level[0];
  };
  if constexpr (std::is_same_v<T, bf16>) {
    std::vector<float> level;
    for (int r = 0; r < ranks; ++r) level.push_back(to_float(element<T>(r, i)));
    return to_bf16(tree(level));
  } else {
    std::vector<T> level;
    for (int r = 0; r < ranks; ++r) level.push_back(element<T>(r, i));
    return tree(level);
  }
}

template <class T>
std::vector<T> reference_vector(int ranks, int64_t begin, int64_t count, Reduce op) {
  std::vector<T> values;
  for (int64_t i = begin; i < begin + count; ++i) values.push_back(reference<T>(ranks, i, op));
  return values;
}

template <class T>
void require_same(const std::vector<T>& got, const std::vector<T>& want, const Communicator& c, const char* what) {
  AM_CHECK(got.size() == want.size(), Fault::kBug, "{}: {} elements instead of {}", what, got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    AM_CHECK(std::memcmp(&got[i], &want[i], sizeof(T)) == 0, Fault::kBug,
             "{} of {} x {} on rank {} of {}: element {} differs", what, got.size(),
             automodel::name_of(comm::dtype_of<T>()), c.rank(), c.size(), i);
  }
}

template <class T>
ConstBuffer slice(const std::vector<T>& whole, int rank, int64_t count) {
  return {whole.data() + rank * count, count, comm::dtype_of<T>()};
}

template <class T>
void check_reductions(Communicator& c, int64_t count, Reduce op) {
  const int n = c.size();
  const int64_t total = count * n;
  const std::vector<T> want = reference_vector<T>(n, 0, total, op);
  const std::vector<T> mine = contribution<T>(c.rank(), total);
  const std::vector<T> want_slice(want.begin() + c.rank() * count, want.begin() + (c.rank() + 1) * count);

  std::vector<T> all = mine;
  c.all_reduce(buffer_of(all), op);
  require_same(all, want, c, "all_reduce");

  std::vector<T> part(static_cast<size_t>(count));
  c.reduce_scatter(buffer_of(part), buffer_of(mine), op);
  require_same(part, want_slice, c, "reduce_scatter");

  // In place: the result goes into my slice of the input, and the gather starts from there.
  std::vector<T> data = mine;
  const ConstBuffer own = slice(data, c.rank(), count);
  c.reduce_scatter({const_cast<void*>(own.data), own.count, own.dtype}, buffer_of(data), op);
  for (int64_t i = 0; i < total; ++i) {
    const bool is_own = i / count == c.rank();
    const T& kept = is_own ? want[static_cast<size_t>(i)] : mine[static_cast<size_t>(i)];
    AM_CHECK(std::memcmp(&data[static_cast<size_t>(i)], &kept, sizeof(T)) == 0, Fault::kBug,
             "reduce_scatter in place: element {} differs", i);
  }
  c.all_gather(buffer_of(data), own);
  require_same(data, want, c, "reduce_scatter + all_gather");
}

template <class T>
void check_gather(Communicator& c, int64_t count) {
  std::vector<T> want;
  for (int r = 0; r < c.size(); ++r) {
    for (const T& x : contribution<T>(r, count)) want.push_back(x);
  }
  const std::vector<T> mine = contribution<T>(c.rank(), count);
  std::vector<T> all(want.size());
  c.all_gather(buffer_of(all), buffer_of(mine));
  require_same(all, want, c, "all_gather");
  for (int root = 0; root < c.size(); ++root) {
    std::vector<T> data = mine;
    c.broadcast(buffer_of(data), root);
    require_same(data, contribution<T>(root, count), c, "broadcast");
  }
}

template <class T>
void check_type(Communicator& c) {
  // The last one makes an all_reduce that is not small any more.
  const int64_t large = (int64_t{70} << 10) / (c.size() * static_cast<int64_t>(sizeof(T))) + 1;
  for (int64_t count : {int64_t{1}, int64_t{5}, int64_t{700}, large}) {
    for (Reduce op : kOps) {
      if (op == Reduce::kSum || count < large) check_reductions<T>(c, count, op);
    }
    check_gather<T>(c, count);
  }
  std::vector<T> nothing;
  c.all_reduce(buffer_of(nothing), Reduce::kSum);
  c.all_gather(buffer_of(nothing), buffer_of(nothing));
}

// Bytes from rank a to rank b; some are 0.
int64_t bytes_between(int a, int b) {
  return (a * 7 + b * 13) % 5 * 1000 + (a == b ? 3 : 0);
}

void check_all_to_all(Communicator& c) {
  std::vector<int64_t> sends, receives;
  std::vector<uint8_t> in, want;
  for (int r = 0; r < c.size(); ++r) {
    sends.push_back(bytes_between(c.rank(), r));
    receives.push_back(bytes_between(r, c.rank()));
    in.insert(in.end(), static_cast<size_t>(sends.back()), static_cast<uint8_t>(10 * c.rank() + r));
    want.insert(want.end(), static_cast<size_t>(receives.back()), static_cast<uint8_t>(10 * r + c.rank()));
  }
  std::vector<uint8_t> out(want.size());
  c.all_to_all(buffer_of(out), buffer_of(std::as_const(in)), sends, receives);
  require_same(out, want, c, "all_to_all");
  std::vector<uint8_t> back(in.size());
  c.all_to_all(buffer_of(back), buffer_of(std::as_const(out)), receives, sends);
  require_same(back, in, c, "all_to_all back");
}

// Integers in doubles: every sum is exact, so inner products can be compared for equality.
std::vector<double> whole_numbers(int seed, int64_t count) {
  std::vector<double> values;
  const Random random(static_cast<uint64_t>(seed), "whole");
  for (int64_t i = 0; i < count; ++i)
    values.push_back(static_cast<double>(random.below(2001, static_cast<uint64_t>(i))) - 1000);
  return values;
}

double inner(Communicator& c, const std::vector<double>& a, const std::vector<double>& b) {
  return c.reduced(std::inner_product(a.begin(), a.end(), b.begin(), 0.0), Reduce::kSum);
}

void require_adjoint(double left, double right, const char* pair) {
  AM_CHECK(left == right, Fault::kBug, "{}: <A x, y> = {} but <x, A* y> = {}", pair, left, right);
}

// Each linear collective and its dual, as autograd pairs them: <A x, y> = <x, A* y> over all ranks.
void check_adjoints(Communicator& c) {
  const int64_t count = 333, total = count * c.size();
  const std::vector<double> small = whole_numbers(c.rank(), count), large = whole_numbers(100 + c.rank(), total);

  std::vector<double> gathered(static_cast<size_t>(total)), reduced(static_cast<size_t>(count));
  c.all_gather(buffer_of(gathered), buffer_of(small));
  c.reduce_scatter(buffer_of(reduced), buffer_of(large), Reduce::kSum);
  require_adjoint(inner(c, gathered, large), inner(c, small, reduced), "all_gather and reduce_scatter");

  // The sum is its own dual, seen as a map between the ranks' separate copies.
  const std::vector<double> other = whole_numbers(200 + c.rank(), count);
  std::vector<double> sum = small, other_sum = other;
  c.all_reduce(buffer_of(sum), Reduce::kSum);
  c.all_reduce(buffer_of(other_sum), Reduce::kSum);
  require_adjoint(inner(c, sum, other), inner(c, small, other_sum), "all_reduce");

  const std::vector<int64_t> equal(static_cast<size_t>(c.size()), count * 8);
  const std::vector<double> second = whole_numbers(300 + c.rank(), total);
  std::vector<double> there(large.size()), back(large.size());
  c.all_to_all(buffer_of(there), buffer_of(large), equal, equal);
  c.all_to_all(buffer_of(back), buffer_of(second), equal, equal);
  require_adjoint(inner(c, there, second), inner(c, large, back), "all_to_all");
}

}  // namespace

void check_collectives(Communicator& c) {
  check_type<float>(c);
  check_type<double>(c);
  check_type<bf16>(c);
  check_type<int32_t>(c);
  check_type<int64_t>(c);
  check_type<uint8_t>(c);
  check_all_to_all(c);
  check_adjoints(c);
  c.barrier();
  AM_CHECK(c.reduced<int64_t>(c.rank(), Reduce::kMax) == c.size() - 1, Fault::kBug, "the largest rank is wrong");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (Reduce op : kOps) {
    const float seen = c.reduced(c.rank() == c.size() / 2 ? nan : 1.0f, op);
    AM_CHECK(std::isnan(seen), Fault::kBug, "a NaN of one rank got lost in the {}", comm::name_of(op));
  }
}

void check_point_to_point(Communicator& c) {
  const int next = (c.rank() + 1) % c.size(), previous = (c.rank() + c.size() - 1) % c.size();
  for (int64_t count : {0, 1, 1000, 300000}) {
    const std::vector<float> mine = contribution<float>(c.rank(), count);
    std::vector<float> got(static_cast<size_t>(count));
    const Transfer ring[] = {Transfer::send(next, buffer_of(mine)), Transfer::receive(previous, buffer_of(got))};
    c.exchange(ring);
    require_same(got, contribution<float>(previous, count), c, "ring");
  }
  // Messages of one tag keep their order; tags keep messages apart.
  const std::vector<int32_t> first{10 * c.rank()}, second{10 * c.rank() + 1}, tagged{10 * c.rank() + 2};
  std::vector<int32_t> a(1), b(1), t(1);
  const Transfer sends[] = {Transfer::send(next, buffer_of(first)), Transfer::send(next, buffer_of(second)),
                            Transfer::send(next, buffer_of(tagged), 5)};
  comm::Pending sent = c.start_exchange(sends);
  c.receive(previous, buffer_of(t), 5);
  const Transfer receive_a = Transfer::receive(previous, buffer_of(a)),
                 receive_b = Transfer::receive(previous, buffer_of(b));
  comm::Pending got_a = c.start_exchange({&receive_a, 1});
  comm::Pending got_b = c.start_exchange({&receive_b, 1});
  got_b.wait();  // the later receive still gets the later message
  got_a.wait();
  sent.wait();
  AM_CHECK(a[0] == 10 * previous && b[0] == 10 * previous + 1 && t[0] == 10 * previous + 2, Fault::kBug,
           "rank {} got {}, {}, {} from rank {}", c.rank(), a[0], b[0], t[0], previous);
  if (c.size() > 1 && c.rank() == 0) c.send(1, buffer_of(first), 3);
  if (c.rank() == 1) {
    c.receive(0, buffer_of(a), 3);
    AM_CHECK(a[0] == 0, Fault::kBug, "send and receive moved {}", a[0]);
  }
}

void check_asynchrony(Communicator& c) {
  const int64_t count = 17000;  // above the limit of small reductions
  std::vector<std::vector<float>> sums, gathers, inputs;
  for (int k = 0; k < 4; ++k) {
    sums.push_back(contribution<float>(c.rank(), count, k * count));
    inputs.push_back(contribution<float>(c.rank(), 1000, k));
    gathers.emplace_back(static_cast<size_t>(1000 * c.size()));
  }
  std::vector<comm::Pending> pending;
  for (size_t k = 0; k < 4; ++k) {
    pending.push_back(c.start_all_reduce(buffer_of(sums[k]), Reduce::kSum));
    pending.push_back(c.start_all_gather(buffer_of(gathers[k]), buffer_of(std::as_const(inputs[k]))));
  }
  // Another order on every rank.
  for (size_t k = 0; k < pending.size(); ++k) {
    pending[(k * 3 + static_cast<size_t>(c.rank())) % pending.size()].wait();
  }
  for (int k = 0; k < 4; ++k) {
    require_same(sums[static_cast<size_t>(k)], reference_vector<float>(c.size(), k * count, count, Reduce::kSum), c,
                 "all_reduce in flight");
    for (int r = 0; r < c.size(); ++r) {
      const auto& all = gathers[static_cast<size_t>(k)];
      const std::vector<float> part(all.begin() + 1000 * r, all.begin() + 1000 * (r + 1));
      require_same(part, contribution<float>(r, 1000, k), c, "all_gather in flight");
    }
  }
  // ready() alone brings an operation to its end.
  std::vector<float> data = contribution<float>(c.rank(), count);
  comm::Pending last = c.start_all_reduce(buffer_of(data), Reduce::kSum);
  while (!last.ready()) {
  }
  last.wait();
  require_same(data, reference_vector<float>(c.size(), 0, count, Reduce::kSum), c, "all_reduce polled");
}

void check_groups(Communicator& c) {
  const auto sum_of_ranks = [&c](Communicator& g) { return g.reduced(c.rank(), Reduce::kSum); };
  // Odd and even ranks, in descending order.
  auto half = c.split(c.rank() % 2, -c.rank(), "half");
  int want = 0, members = 0;
  for (int r = c.rank() % 2; r < c.size(); r += 2, ++members) want += r;
  AM_CHECK(half->size() == members && half->rank() == members - 1 - c.rank() / 2, Fault::kBug,
           "split: rank {} of {} became {} of {}", c.rank(), c.size(), half->rank(), half->size());
  AM_CHECK(sum_of_ranks(*half) == want && half->name() == "half", Fault::kBug, "split: wrong sum");
  // A split of a split, while the others are in use.
  auto quarter = half->split(half->rank() / 2, half->rank(), "quarter");
  AM_CHECK(quarter->size() <= 2 && quarter->reduced(1, Reduce::kSum) == quarter->size(), Fault::kBug, "nested split");
  // Ranks without a color stay outside.
  auto rest = c.split(c.rank() == 0 ? -1 : 0, 0, "rest");
  AM_CHECK((rest == nullptr) == (c.rank() == 0), Fault::kBug, "split: a negative color must give nothing");
  if (rest) AM_CHECK(rest->reduced(1, Reduce::kSum) == c.size() - 1, Fault::kBug, "split: the rest has a wrong size");
  // Only the members call group; the order of the list is the order of the ranks.
  std::vector<int> reversed(static_cast<size_t>(c.size()));
  std::iota(reversed.rbegin(), reversed.rend(), 0);
  auto backwards = c.group(reversed, "backwards");
  AM_CHECK(backwards->rank() == c.size() - 1 - c.rank(), Fault::kBug, "group: wrong rank");
  if (c.rank() > 0) {
    std::vector<int> list;
    for (int r = 1; r < c.size(); ++r) list.push_back(r);
    auto first = c.group(list, "first"), second = c.group(list, "second");
    AM_CHECK(second->reduced(1, Reduce::kSum) == c.size() - 1 && first->reduced(2, Reduce::kMax) == 2, Fault::kBug,
             "two groups of the same members");
  }
  // A wait on one communicator lets the operations of the others move on.
  std::vector<float> large(50000, 1.0f);
  comm::Pending in_flight = c.start_all_reduce(buffer_of(large), Reduce::kSum);
  half->barrier();
  quarter->barrier();
  in_flight.wait();
  AM_CHECK(large[7] == static_cast<float>(c.size()), Fault::kBug, "all_reduce across the use of other groups");
}

}  // namespace automodel::test
