#include "support/mesh_job.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "config/config.h"
#include "core/rng.h"
#include "models/registry.h"
#include "ops/device_memory.h"
#include "support/engine_fixture.h"
#include "support/run_mesh.h"

namespace automodel::test {

std::string MeshSizes::text() const {
  std::string out;
  auto add = [&](const char* name, int size) {
    if (size > 1) out += (out.empty() ? "" : " x ") + std::string(name) + " " + std::to_string(size);
  };
  add("pp", pp), add("dp_replicate", dp_replicate), add("dp_shard", dp_shard), add("cp", cp);
  add(async_tensor_parallel ? "async tp+sp" : sequence_parallel ? "tp+sp" : "tp", tp), add("ep", ep);
  return out.empty() ? "one rank" : out;
}

Sample sample_of(const MeshJob& job, int step, int64_t number, int64_t vocab) {
  Random random(7, hash_name("sample " + std::to_string(step) + " " + std::to_string(number)));
  Sample s;
  auto token = [&](int64_t at) {
    return static_cast<int32_t>(random.below(static_cast<uint64_t>(vocab), static_cast<uint64_t>(at)));
  };
  auto length = static_cast<uint64_t>(job.length);
  int64_t ignored = number % 4 == 1 ? job.length : static_cast<int64_t>(random.below(length, 1000));
  // Documents of a third and a half of what is left, and the rest; none starts in a row that is not packed.
  int64_t second = job.packed ? job.length / 3 + number % 2 : job.length;
  int64_t third = job.packed ? second + (job.length - second) / 2 : job.length;
  s.length = job.padding < 0 ? job.length : number % 5 == 3 ? 0 : job.length - number % 3;
  for (int64_t t = 0; t < job.length; ++t) {
    s.ids.push_back(t < s.length ? token(t) : job.padding);
    s.labels.push_back(t < ignored || t >= s.length ? -100 : token(t + 1));
    int64_t start = t >= third ? third : t >= second ? second : 0;
    s.document_start.push_back(static_cast<int32_t>(start));
    s.positions.push_back(static_cast<int32_t>(t - start));
  }
  return s;
}

std::vector<nn::Tokens> batches_of(const MeshJob& job, int step, int dp_rank, int64_t vocab) {
  int64_t dp = job.mesh.dp(), local = job.global_batch / (job.accumulation * dp);
  std::vector<nn::Tokens> out;
  for (int64_t a = 0; a < job.accumulation; ++a) {
    Sample all;
    std::vector<int64_t> numbers, lengths;
    for (int64_t i = 0; i < local; ++i) {
      numbers.push_back(dp * (a * local + i) + dp_rank);
      Sample s = sample_of(job, step, numbers.back(), vocab);
      auto join = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
      join(all.ids, s.ids), join(all.labels, s.labels), join(all.positions, s.positions);
      join(all.document_start, s.document_start);
      lengths.push_back(s.length);
    }
    nn::Tokens tokens = support::make_tokens(local, job.length, all.ids, all.labels);
    tokens.positions = support::int_tensor({local * job.length}, all.positions);
    if (job.packed) tokens.document_start = support::int_tensor({local, job.length}, all.document_start);
    tokens.samples = Tensor::empty({local}, DType::kI64, support::token_memory());
    std::memcpy(tokens.samples.raw(), numbers.data(), tokens.samples.bytes());
    if (job.padding >= 0) tokens.lengths = lengths;
    out.push_back(std::move(tokens));
  }
  return out;
}

int64_t label_count(const MeshJob& job, int step, int64_t vocab) {
  int64_t n = 0;
  for (int64_t p = 0; p < job.global_batch; ++p)
    n += std::ranges::count_if(sample_of(job, step, p, vocab).labels, [](int32_t l) { return l >= 0; });
  return n;
}

engine::EngineOptions exact_options() {
  engine::EngineOptions o;
  o.unit = {true, DType::kF32, DType::kF32};
  o.adam = {.decoupled = true, .lr = 3e-3, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.1};
  o.max_grad_norm = 0.5;
  return o;
}

namespace {

// Puts this rank's elements of a weight where they belong in the whole.
void place(std::map<std::string, std::vector<float>>& whole, const nn::Param& p, int64_t begin, int64_t end,
           const std::vector<float>& from) {
  auto& to = whole[p.name];
  to.resize(static_cast<size_t>(p.shape.numel()), NAN);
  for (const nn::ElementRun& run : nn::runs_of(p, begin, end))
    std::copy_n(from.begin() + (run.local - begin), run.count, to.begin() + run.whole);
}

std::unique_ptr<models::CausalLM> build_model(const MeshJob& job) {
  const config::Node config = config::parse_json(job.config, "config.json");
  std::unique_ptr<models::CausalLM> model = models::build(config);
  if (!job.tp_plan) return model;
  config::Report report;
  config::Problems problems(report, config, "");
  const models::TensorCuts cuts = models::cuts_of(*model, *job.tp_plan, problems);
  report.throw_if_any();
  return models::build(config, cuts);
}

class RankJob {
 public:
  RankJob(const MeshJob& job, comm::World& world)
      : job_(job),
        world_(world),
        allocator_(job.make_allocator()),
        memory_(allocator_->device().is_cpu() ? nullptr : ops::make_device_memory(*allocator_)),
        staged_(memory_ ? comm::make_staged(world.global(), *memory_) : nullptr),
        connected_(staged_ && job.connect ? job.connect(*staged_) : nullptr),
        groups_(comm::DeviceMesh({{"pp", job.mesh.pp},
                                  {"dp_replicate", job.mesh.dp_replicate},
                                  {"dp_shard", job.mesh.dp_shard},
                                  {"cp", job.mesh.cp},
                                  {"tp", job.mesh.tp}}),
                ranks()),
        model_(build_model(job)) {
    parallel::Groups& groups = engine_groups_;
    groups.data = &groups_.along({"dp_replicate", "dp_shard", "cp"});
    if (job.mesh.tp > 1) groups.model.tp = &groups_.along({"tp"});
    if (job.mesh.cp > 1) groups.model.cp = &groups_.along({"cp"});
    if (job.mesh.pp > 1) groups.pp = &groups_.along({"pp"});
    if (job.mesh.ep > 1) {
      int stage = job.mesh.size() / job.mesh.pp;
      experts_.emplace(comm::DeviceMesh({{"pp", job.mesh.pp}, {"ep_shard", stage / job.mesh.ep}, {"ep", job.mesh.ep}}),
                       ranks());
      groups.model.ep = &experts_->along({"ep"});
      groups.experts = &experts_->along({"ep_shard"});
    }
    groups.model.context_method = job.context_method;
    groups.model.sequence_parallel = job.mesh.sequence_parallel;
    groups.model.overlaps_rows = job.mesh.async_tensor_parallel;
    options_ = job.options;
    options_.unit.replicas = job.mesh.dp_replicate;
    if (job.mesh.pp > 1) options_.pipeline = pipeline();
    engine_.emplace(*model_, groups, *allocator_, options_);
    engine_->initialise(42);
  }

  void run(MeshTrace& trace, std::mutex& mutex) {
    int64_t vocab = model_->info().vocab_size;
    int dp_rank = groups_.mesh().index(world_.rank(), {"dp_replicate", "dp_shard"});
    engine_->set_inspect([&](const auto& units) {
      if (engine_->updates() > 0) return;
      std::lock_guard lock(mutex);
      for (const auto& unit : units)
        for (const parallel::Piece& p : unit->pieces())
          place(trace.gradients, *p.param, p.begin, p.end,
                to_host<float>(unit->gradient().narrow(p.flat, p.end - p.begin)));
    });
    for (int step = 0; step < job_.steps; ++step) {
      if (job_.stop > 0 && step == job_.stop) start_again();
      allocator_->reset_peaks();
      auto batches = batches_of(job_, step, dp_rank, vocab);
      auto result = engine_->step({batches, label_count(job_, step, vocab), 3e-3, 0.1});
      if (!world_.is_main()) continue;
      trace.losses.push_back(result.loss);
      trace.norms.push_back(result.grad_norm);
    }
    std::lock_guard lock(mutex);
    trace.memory.resize(static_cast<size_t>(world_.size()));
    trace.memory[static_cast<size_t>(world_.rank())] = allocator_->stats();
    for (const auto& s : engine_->state())
      if (s.saved) place(trace.weights, *s.param, s.begin, s.end, to_host<float>(s.master));
  }

 private:
  comm::Communicator& ranks() { return connected_ ? *connected_ : staged_ ? *staged_ : world_.global(); }

  // Puts another engine with the same state into the place of the present one.
  void start_again() {
    std::vector<std::vector<float>> kept;
    for (const auto& s : engine_->state())
      for (const Tensor& from : {s.master, s.exp_avg, s.exp_avg_sq}) kept.push_back(to_host<float>(from));
    int64_t updates = engine_->updates();
    engine_.reset();
    engine_.emplace(*model_, engine_groups_, *allocator_, options_);
    auto next = kept.begin();
    for (const auto& s : engine_->state())
      for (const Tensor& to : {s.master, s.exp_avg, s.exp_avg_sq}) upload(to, *next++);
    engine_->set_updates(updates);
    engine_->publish();
  }

  engine::Pipeline pipeline() const {
    int per_rank = parallel::is_single_stage(job_.schedule) ? 1 : 2, stages = per_rank * job_.mesh.pp;
    return {parallel::make_schedule({job_.schedule, job_.mesh.pp, stages, job_.microbatches}),
            parallel::split_layers(model_->layers(), stages)};
  }

  const MeshJob& job_;
  comm::World& world_;
  std::unique_ptr<Allocator> allocator_;
  // Where messages must be staged.
  std::unique_ptr<comm::DeviceMemory> memory_;
  std::unique_ptr<comm::Communicator> staged_, connected_;
  comm::MeshGroups groups_;
  std::optional<comm::MeshGroups> experts_;
  parallel::Groups engine_groups_;
  engine::EngineOptions options_;
  std::unique_ptr<models::CausalLM> model_;
  std::optional<engine::Engine> engine_;
};

double norm_of(const std::vector<float>& values) {
  double sum = 0;
  for (float v : values) sum += static_cast<double>(v) * static_cast<double>(v);
  return std::sqrt(sum);
}

}  // namespace

MeshTrace run_job(const MeshJob& job) {
  MeshTrace trace;
  std::mutex mutex;
  run_mesh(job.mesh.size(), [&](comm::World& world) { RankJob(job, world).run(trace, mutex); });
  return trace;
}

void Closeness::join(const Closeness& other) {
  first_loss = std::max(first_loss, other.first_loss);
  gradient = std::max(gradient, other.gradient);
  norm = std::max(norm, other.norm);
  loss = std::max(loss, other.loss);
}

Closeness check_close(const MeshTrace& a, const MeshTrace& b) {
  Closeness worst;
  REQUIRE(a.losses.size() == b.losses.size());
  auto error = [](double x, double y) { return std::abs(x - y) / std::abs(y); };
  worst.first_loss = error(a.losses[0], b.losses[0]);
  worst.norm = error(a.norms[0], b.norms[0]);
  CHECK(worst.first_loss <= 1e-6);
  CHECK(worst.norm <= 1e-5);
  for (size_t i = 0; i < a.losses.size(); ++i) {
    CAPTURE(i);
    worst.loss = std::max(worst.loss, error(a.losses[i], b.losses[i]));
    CHECK(worst.loss <= 1e-5);
  }
  REQUIRE(a.gradients.size() == b.gradients.size());
  for (const auto& [name, expected] : b.gradients) {
    CAPTURE(name);
    std::vector<float> difference = a.gradients.at(name);
    REQUIRE(difference.size() == expected.size());
    for (size_t i = 0; i < expected.size(); ++i) difference[i] -= expected[i];
    worst.gradient = std::max(worst.gradient, norm_of(difference) / norm_of(expected));
    CHECK(norm_of(difference) <= 1e-5 * norm_of(expected));
  }
  return worst;
}

void check_identical(const MeshTrace& a, const MeshTrace& b) {
  CHECK(a.losses == b.losses);
  CHECK(a.norms == b.norms);
  REQUIRE(a.weights.size() == b.weights.size());
  for (const auto& [name, values] : a.weights) {
    CAPTURE(name);
    CHECK(std::memcmp(values.data(), b.weights.at(name).data(), values.size() * sizeof(float)) == 0);
  }
}

}  // namespace automodel::test
