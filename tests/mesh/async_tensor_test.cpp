// Rows that travel while others are multiplied (enable_async_tensor_parallel) change no bit, whatever the row counts,
// and hide the time they take.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "config/config.h"
#include "models/registry.h"
#include "ops/row_products.h"
#include "support/engine_fixture.h"
#include "support/mesh_job.h"
#include "support/run_mesh.h"
#include "support/slow_communicator.h"
#include "support/tiny_models.h"

using namespace automodel;
using test::MeshJob;
using test::MeshSizes;
using Clock = std::chrono::steady_clock;

namespace {

MeshJob job_of(const std::string& config, const MeshSizes& mesh, bool ahead) {
  MeshJob job = test::job_of(config, mesh);
  job.mesh.sequence_parallel = true;
  job.mesh.async_tensor_parallel = ahead;
  job.steps = 3;
  return job;
}

void check_same_bits(const MeshJob& job) {
  CAPTURE(job.mesh.text());
  MeshJob waits = job;
  waits.mesh.async_tensor_parallel = false;
  test::check_identical(test::run_job(job), test::run_job(waits));
}

}  // namespace

TEST_CASE("rows on their way during products change no bit on any mesh") {
  for (const auto& [name, config] : test::tiny_models()) {
    CAPTURE(name);
    for (const MeshSizes& mesh :
         {MeshSizes{.tp = 2}, {.tp = 4}, {.tp = 8}, {.dp_shard = 2, .cp = 2, .tp = 2}, {.pp = 2, .tp = 2}}) {
      MeshJob job = job_of(config, mesh, true);
      job.schedule = "InterleavedZeroBubble";
      check_same_bits(job);
      job.options.activation_checkpointing = true;
      check_same_bits(job);
      job.options.recall = autograd::Recall::kSelected;
      check_same_bits(job);
    }
  }
}

TEST_CASE("rows that do not come out even, or are fewer than the ranks, change no bit") {
  for (const auto& [name, config] : test::tiny_models())
    for (int tp : {2, 4})
      for (int64_t length : {1, 2, 5, 7}) {
        CAPTURE(name);
        CAPTURE(length);
        MeshJob job = job_of(config, {.tp = tp}, true);
        job.length = length;
        job.global_batch = 2;  // batches of one sample
        check_same_bits(job);
      }
}

TEST_CASE("bf16 sums of rows have the bits of the collective") {
  for (int tp : {2, 4, 8}) {
    MeshJob job = job_of(test::kTinyQwen3, {.tp = tp}, true);
    job.options.unit.param_dtype = DType::kBF16;
    check_same_bits(job);
  }
}

TEST_CASE("meshes with rows on their way train as one rank does") {
  for (const auto& [name, config] : test::tiny_models()) {
    CAPTURE(name);
    test::MeshTrace one = test::run_job(test::job_of(config, {}));
    for (int tp : {2, 4}) {
      MeshJob job = test::job_of(config, {.tp = tp, .sequence_parallel = true, .async_tensor_parallel = true});
      test::check_close(test::run_job(job), one);
    }
  }
}

namespace {

// Seconds that a wire is busy in a step, and that a rank stands still for it.
struct Shown {
  double seconds = 1e9;  // of the fastest step
  double exposed = 0;    // of all steps
};
struct Measured {
  Shown instant, ahead, waits;
  double transfers = 0;

  bool overlaps() const {
    return ahead.exposed < 0.75 * waits.exposed && ahead.seconds < instant.seconds + 0.8 * transfers &&
           ahead.seconds < waits.seconds;
  }
};

// A layer's MLP whose rows two ranks share, forward and backward, on wires that take half as long as its products.
class SlowMlp {
 public:
  static constexpr int64_t kRows = 256, kWidth = 256, kInner = 512;

  explicit SlowMlp(comm::Communicator& ranks)
      : ranks_(ranks), allocator_(make_cpu_allocator()), in_(weight(kInner, kWidth)), out_(weight(kWidth, kInner)) {}

  void run(bool ahead) {
    ops::RowShares shares{ranks_, kRows, ahead};
    autograd::Tape tape(
        *allocator_, [](Tensor& y, const Tensor& x) { ops::kernels(y.device()).add(y, y, x); }, true);
    autograd::Var x = tape.input(zeros(kRows / ranks_.size()), true);
    const ops::Projection in{.weight = &in_}, out{.weight = &out_};
    for (int layer = 0; layer < 4; ++layer)
      x = ops::linear_to_rows(ops::linear_of_gathered(x, {&in, 1}, shares), out, shares);
    tape.backward(x, zeros(kRows / ranks_.size()));
  }

 private:
  Tensor zeros(int64_t rows) {
    Tensor t = Tensor::empty({rows, kWidth}, DType::kF32, *allocator_);
    zero(t);
    return t;
  }
  autograd::Param weight(int64_t out, int64_t in) {
    autograd::Param p;
    p.value = Tensor::empty({out, in}, DType::kF32, *allocator_);
    p.grad = Tensor::empty({out, in}, DType::kF32, *allocator_);
    zero(p.value);
    return p;
  }

  comm::Communicator& ranks_;
  std::unique_ptr<Allocator> allocator_;
  autograd::Param in_, out_;
};

// As rank 0 sees it.
Measured measure() {
  Measured out;
  test::run_mesh(2, [&](comm::World& world) {
    test::Wire wire;
    const auto ranks = test::make_slow(world.global(), wire);
    SlowMlp mlp(*ranks);
    auto step = [&](bool ahead, double seconds_per_byte, Shown& best) {
      wire.seconds_per_byte = seconds_per_byte;
      wire.total = wire.exposed = 0;
      world.global().barrier();
      const Clock::time_point start = Clock::now();
      mlp.run(ahead);
      best.seconds = std::min(best.seconds, std::chrono::duration<double>(Clock::now() - start).count());
      best.exposed += wire.exposed;
    };
    Measured mine;
    Shown warm_up;
    step(true, 0, warm_up);
    for (int i = 0; i < 3; ++i) step(true, 1e-12, mine.instant);
    const double bytes = wire.total / 1e-12;
    mine.transfers = world.global().reduced(0.5 * mine.instant.seconds, comm::Reduce::kMax);
    for (int i = 0; i < 6; ++i) {
      step(true, 0, mine.instant);
      step(true, mine.transfers / bytes, mine.ahead);
      step(false, mine.transfers / bytes, mine.waits);
    }
    if (world.is_main()) out = mine;
  });
  return out;
}

}  // namespace

TEST_CASE("products hide the transfers of the rows beside them") {
  Measured m = measure();
  // A machine that is busy with something else stretches now one way, now the other.
  for (int attempt = 1; attempt < 8 && !m.overlaps(); ++attempt) m = measure();
  MESSAGE("transfers " << m.transfers * 1e3 << " ms; step without them " << m.instant.seconds * 1e3 << " ms, ahead "
                       << m.ahead.seconds * 1e3 << " ms (exposed " << m.ahead.exposed * 1e3 << "), waiting "
                       << m.waits.seconds * 1e3 << " ms (exposed " << m.waits.exposed * 1e3 << ")");
  CHECK(m.overlaps());
}
