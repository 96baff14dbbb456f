// Attention over rows spread over thread ranks, against ops::attention() of the whole rows on one.
#include "ops/context_attention.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "comm/planning.h"
#include "core/error.h"
#include "core/rng.h"
#include "ops/pointwise.h"
#include "support/run_mesh.h"

using namespace automodel;
using namespace automodel::ops;

namespace {

constexpr ContextMethod kMethods[] = {ContextMethod::kAllGather, ContextMethod::kRing, ContextMethod::kAllToAll};

const char* name_of(ContextMethod method) {
  return method == ContextMethod::kAllGather ? "all-gather" : method == ContextMethod::kRing ? "ring" : "all-to-all";
}

struct Case {
  int ranks = 1;
  int64_t batch = 2, sequence = 1;
  HeadLayout layout{4, 2, 16};
  int64_t window = 0;
  bool documents = false;
  float dropout = 0;
  DType dtype = DType::kF32;
  int64_t first_head = 0;
};

std::string describe(const Case& c) {
  return std::to_string(c.ranks) + " ranks, " + std::to_string(c.batch) + " rows of " + std::to_string(c.sequence) +
         ", heads " + std::to_string(c.layout.heads) + "/" + std::to_string(c.layout.kv_heads) + ", window " +
         std::to_string(c.window) + (c.documents ? ", documents" : "") + ", dropout " + std::to_string(c.dropout) +
         (c.dtype == DType::kBF16 ? ", bf16" : ", fp32");
}

// Element (row of the matrix, column) of the whole batch; those of padding are numbers, too.
float number(uint64_t stream, int64_t token, int64_t column) {
  return Random(11, stream).normal(static_cast<uint64_t>(token * 4096 + column));
}
constexpr uint64_t kInput = 1, kOutputGradient = 2;

int32_t start_of_document(const Case& c, int64_t row, int64_t position) {
  if (position >= c.sequence) return static_cast<int32_t>(c.sequence);
  int64_t length = 23 + 18 * row;
  return static_cast<int32_t>(position / length * length);
}

// The positions of a rank's tokens in a padded row, from the definition of the layout.
std::vector<int64_t> positions_of(const Case& c, int rank) {
  std::vector<int64_t> list;
  if (c.ranks == 1) {
    for (int64_t i = 0; i < c.sequence; ++i) list.push_back(i);
    return list;
  }
  int64_t chunk = (c.sequence + 2 * c.ranks - 1) / (2 * c.ranks);
  for (int64_t index : {rank, 2 * c.ranks - 1 - rank})
    for (int64_t i = 0; i < chunk; ++i) list.push_back(index * chunk + i);
  return list;
}

void put(const Tensor& t, int64_t i, float x) {
  if (t.dtype() == DType::kF32)
    t.data<float>()[i] = x;
  else
    t.data<bf16>()[i] = to_bf16(x);
}
float get(const Tensor& t, int64_t i) {
  return t.dtype() == DType::kF32 ? t.data<float>()[i] : to_float(t.data<bf16>()[i]);
}

// The inputs of the tokens at `positions` of every row.
struct Inputs {
  Inputs(const Case& c, const std::vector<int64_t>& positions, Allocator& allocator) {
    auto count = static_cast<int64_t>(positions.size());
    int64_t out_width = c.layout.heads * c.layout.head_dim;
    qkv = Tensor::empty({c.batch * count, c.layout.width()}, c.dtype, allocator);
    dout = Tensor::empty({c.batch * count, out_width}, c.dtype, allocator);
    starts = Tensor::empty({c.batch, count}, DType::kI32, allocator);
    samples = Tensor::empty({c.batch}, DType::kI64, allocator);
    args = {.batch = c.batch,
            .sequence = count,
            .layout = c.layout,
            .scale = 0.3f,
            .window = c.window,
            .dropout = {c.dropout, 0x1234567890, &samples},
            .part = {.first_head = c.first_head}};
    if (allocator.device().is_meta()) return;
    for (int64_t row = 0; row < c.batch; ++row) {
      samples.data<int64_t>()[row] = 77 + (row << 33);
      for (int64_t i = 0; i < count; ++i) {
        int64_t position = positions[static_cast<size_t>(i)], token = row * 65536 + position, at = row * count + i;
        for (int64_t x = 0; x < c.layout.width(); ++x) put(qkv, at * c.layout.width() + x, number(kInput, token, x));
        for (int64_t x = 0; x < out_width; ++x)
          put(dout, at * out_width + x, position < c.sequence ? number(kOutputGradient, token, x) : 0);
        starts.data<int32_t>()[at] = start_of_document(c, row, position);
      }
    }
  }
  Inputs(const Inputs&) = delete;
  Tensor qkv, dout, starts, samples;
  AttentionArgs args;
};

// Outputs and gradients of all tokens: [row * sequence + position][column].
struct Result {
  explicit Result(const Case& c)
      : out(static_cast<size_t>(c.batch * c.sequence * c.layout.heads * c.layout.head_dim)),
        dqkv(static_cast<size_t>(c.batch * c.sequence * c.layout.width())) {}
  std::vector<float> out, dqkv;
};

void collect(const Case& c, const Tensor& from, const std::vector<int64_t>& positions, std::vector<float>& to) {
  auto count = static_cast<int64_t>(positions.size());
  for (int64_t row = 0; row < c.batch; ++row)
    for (int64_t i = 0; i < count; ++i) {
      int64_t position = positions[static_cast<size_t>(i)];
      for (int64_t x = 0; position < c.sequence && x < from.cols(); ++x)
        to[static_cast<size_t>((row * c.sequence + position) * from.cols() + x)] =
            get(from, (row * count + i) * from.cols() + x);
    }
}

using Attend = std::function<autograd::Var(const autograd::Var&, const AttentionArgs&, const Tensor&)>;

// Runs `attend` forward and backward on the tokens at `positions`.
void run(const Case& c, const std::vector<int64_t>& positions, const Attend& attend, Result& result) {
  auto allocator = make_cpu_allocator();
  Inputs in(c, positions, *allocator);
  autograd::Tape tape(*allocator, add_into, true);
  autograd::Var qkv = tape.input(in.qkv, true);
  autograd::Var out = attend(qkv, in.args, c.documents ? in.starts : Tensor{});
  collect(c, out.value, positions, result.out);
  tape.backward(out, in.dout);
  collect(c, tape.grad(qkv), positions, result.dqkv);
}

Result on_one(const Case& c) {
  Result result(c);
  Case whole = c;
  whole.ranks = 1;
  run(
      c, positions_of(whole, 0), [](auto& qkv, auto& args, auto& starts) { return attention(qkv, args, starts); },
      result);
  return result;
}

Result on_ranks(const Case& c, ContextMethod method) {
  Result result(c);  // ranks write different elements
  test::run_mesh(c.ranks, [&](comm::World& world) {
    run(
        c, positions_of(c, world.rank()),
        [&](auto& qkv, auto& args, auto& starts) {
          return context_attention(qkv, args, starts, world.global(), method);
        },
        result);
  });
  return result;
}

// The largest difference beyond two roundings to bf16, where there are some, as a share of the largest number.
double difference(const Case& c, const std::vector<float>& got, const std::vector<float>& want) {
  double largest = 1e-30, worst = 0, rounding = c.dtype == DType::kBF16 ? 0x1p-7 : 0;
  for (float x : want) largest = std::max(largest, std::abs(static_cast<double>(x)));
  for (size_t i = 0; i < want.size(); ++i) {
    double error = std::abs(static_cast<double>(got[i]) - want[i]) - rounding * std::abs(want[i]);
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  return worst / largest;
}

void check(const Case& c) {
  CAPTURE(describe(c));
  Result want = on_one(c);
  // Where bf16 is multiplied, weights are rounded to it, each by 2^-9 of itself, and on every rank at its own scale.
  double tolerance = c.dtype == DType::kBF16 ? 5e-3 : 2e-6;
  for (ContextMethod method : kMethods) {
    if (method == ContextMethod::kAllToAll && !scatters_heads(c.layout, c.ranks)) continue;
    CAPTURE(name_of(method));
    Result got = on_ranks(c, method);
    CHECK(difference(c, got.out, want.out) < tolerance);
    CHECK(difference(c, got.dqkv, want.dqkv) < tolerance);
  }
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("context attention agrees with attention on one rank") {
  for (int ranks : {1, 2, 3, 4, 8})
    for (DType dtype : {DType::kF32, DType::kBF16})
      for (HeadLayout layout : {HeadLayout{2L * ranks, ranks, 16}, {2L * ranks, 2, 12}, {ranks, 1, 20}}) {
        if (layout.heads % layout.kv_heads != 0) continue;
        check({.ranks = ranks, .sequence = 96, .layout = layout, .dtype = dtype});
      }
}

TEST_CASE("context attention takes rows of any length, windows, packed documents and dropout") {
  int64_t turn = 0;
  for (int ranks : {2, 3, 4, 8})
    for (int64_t sequence : {1, 17, 67, 150})
      for (bool documents : {false, true})
        check({.ranks = ranks,
               .batch = 1 + turn % 3,
               .sequence = sequence,
               .layout = {2L * ranks, turn % 2 == 0 ? 1 : ranks, 8},
               .window = std::vector<int64_t>{0, 7, 40}[static_cast<size_t>(turn % 3)],
               .documents = documents,
               .dropout = turn % 4 < 2 ? 0 : 0.25f,
               .dtype = turn++ % 5 == 0 ? DType::kBF16 : DType::kF32});
}

TEST_CASE("context attention of some heads of a layer drops what the whole layer drops") {
  // Heads 4 to 7 of 8, as under tensor parallelism.
  Case c{.ranks = 2, .sequence = 50, .layout = {4, 2, 16}, .dropout = 0.4f, .first_head = 4};
  check(c);
  Case first = c;
  first.first_head = 0;
  CHECK(difference(c, on_one(first).out, on_one(c).out) > 0.1);
}

TEST_CASE("context attention by all-gather or all-to-all gives the bits of one rank where the tiles are the same") {
  for (DType dtype : {DType::kF32, DType::kBF16})
    for (bool documents : {false, true}) {
      Case c{.ranks = 2, .sequence = 256, .documents = documents, .dropout = documents ? 0.2f : 0, .dtype = dtype};
      CAPTURE(describe(c));
      Result want = on_one(c), gathered = on_ranks(c, ContextMethod::kAllGather),
             scattered = on_ranks(c, ContextMethod::kAllToAll);
      CHECK(same_bits(gathered.out, want.out));
      CHECK(same_bits(scattered.out, want.out));
      CHECK(same_bits(scattered.dqkv, want.dqkv));
    }
}

TEST_CASE("context attention repeats its bits") {
  for (ContextMethod method : kMethods) {
    CAPTURE(name_of(method));
    Case c{.ranks = 4, .sequence = 90, .layout = {8, 2, 16}, .documents = true, .dtype = DType::kBF16};
    Result first = on_ranks(c, method), second = on_ranks(c, method);
    CHECK(same_bits(first.out, second.out));
    CHECK(same_bits(first.dqkv, second.dqkv));
  }
}

TEST_CASE("context attention refuses what it cannot do and says what can") {
  CHECK(scatters_heads({8, 4, 16}, 2));
  CHECK(scatters_heads({8, 2, 16}, 8));
  CHECK(!scatters_heads({8, 3, 16}, 2));
  CHECK(!scatters_heads({6, 2, 16}, 4));
  Case c{.ranks = 2, .sequence = 8, .layout = {3, 1, 16}};
  CHECK_THROWS_WITH_AS(on_ranks(c, ContextMethod::kAllToAll),
                       doctest::Contains("3 query and 1 key/value heads cannot be dealt to 2 ranks"), Error);
}

namespace {

struct Observed {
  std::vector<std::string> calls;
  MemoryStats memory;
  bool operator==(const Observed& other) const {
    return calls == other.calls && memory.peak == other.memory.peak && memory.current == other.memory.current &&
           memory.peak_total == other.memory.peak_total;
  }
};

// One forward and backward of a rank on memory of its own.
MemoryStats memory_of(const Case& c, ContextMethod method, Allocator& allocator, comm::Communicator& cp) {
  {
    Inputs in(c, positions_of(c, cp.rank()), allocator);
    autograd::Tape tape(allocator, add_into, true);
    autograd::Var out =
        context_attention(tape.input(in.qkv, true), in.args, c.documents ? in.starts : Tensor{}, cp, method);
    tape.backward(out, in.dout);
  }
  return allocator.stats();
}

comm::Recorder into(std::vector<std::string>& calls) {
  return [&calls](const comm::CallRecord& r) {
    calls.push_back(std::string(comm::name_of(r.call)) + " " + std::to_string(r.bytes) + " " + std::to_string(r.peer));
  };
}

}  // namespace

TEST_CASE("context attention on the meta device makes the calls and needs the memory of a real run") {
  for (ContextMethod method : kMethods)
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      CAPTURE(name_of(method));
      Case c{.ranks = 4, .sequence = 70, .layout = {8, 2, 16}, .documents = true, .dropout = 0.1f, .dtype = dtype};
      std::mutex mutex;
      std::vector<Observed> real(4);
      test::run_mesh(c.ranks, [&](comm::World& world) {
        std::vector<std::string> calls;
        const int everyone[] = {0, 1, 2, 3};
        auto cp = comm::make_recording(world.global().group(everyone, "cp"), into(calls));
        auto allocator = make_cpu_allocator();
        MemoryStats memory = memory_of(c, method, *allocator, *cp);
        std::lock_guard lock(mutex);
        real[static_cast<size_t>(world.rank())] = {calls, memory};
      });
      for (int rank = 0; rank < c.ranks; ++rank) {
        CAPTURE(rank);
        std::vector<std::string> calls;
        auto cp = comm::make_planning(rank, c.ranks, into(calls), "cp");
        auto allocator = make_meta_allocator();
        MemoryStats memory = memory_of(c, method, *allocator, *cp);
        CHECK(!calls.empty());
        CHECK((Observed{calls, memory} == real[static_cast<size_t>(rank)]));
      }
    }
}
