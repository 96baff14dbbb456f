// A step of many microbatches need not be run in full: all microbatches between the first and the last are alike, so
// three stand for any number. The traffic of one in the middle is what a step of three has more than a step of two.
#include "plan/rank_plan.h"

#include <fmt/format.h>

#include <algorithm>

namespace automodel::plan {
namespace {

constexpr int64_t kMicrobatchesRun = 3;

UnitPlan describe_unit(const parallel::Unit& unit, const parallel::Unit* root, const parallel::UnitOptions& options) {
  UnitPlan out;
  for (const parallel::Segment& s : unit.layout().segments()) out.elements += s.numel;
  out.of_layer = &unit != root;
  out.master_bytes = static_cast<int64_t>(unit.master().bytes());
  if (unit.compute_shard().defined()) out.compute_bytes = static_cast<int64_t>(unit.compute_shard().bytes());
  auto param = static_cast<int64_t>(size_of(options.param_dtype)),
       reduce = static_cast<int64_t>(size_of(options.reduce_dtype));
  if (unit.layout().shards() > 1) out.gathered_bytes = unit.layout().size() * param;
  out.reduced_bytes = unit.layout().size() * reduce;
  out.reduced_shard_bytes = unit.layout().shard_size() * reduce;
  return out;
}

// The engine of one planned rank.
class PlannedRank {
 public:
  explicit PlannedRank(const RankRequest& request)
      : request_(request),
        allocator_(make_meta_allocator(request.host_batches)),
        ranks_(comm::make_planning(
            request.rank, request.world_size, [this](const comm::CallRecord& call) { traffic_.add(call); },
            request.mesh == nullptr ? request.axis : "world")),
        groups_(request.mesh == nullptr ? distributed::MeshContext(request.world_size) : *request.mesh, *ranks_,
                request.sharing),
        engine_(*request.model, groups_.all(), *allocator_, request.options) {
    engine_.set_inspect([this](const auto& units) {
      units_.clear();
      for (const auto& unit : units) units_.push_back(describe_unit(*unit, engine_.root(), request_.options.unit));
    });
  }

  // Runs a step of `run` microbatches in which the tokens of `held` are in memory.
  MemoryStats step(int64_t run, int64_t held) {
    traffic_ = {};
    return watch([&] {
      Tensor others =
          Tensor::empty({(held - run) * batch_bytes_of_one()}, DType::kU8, *allocator_, MemoryClass::kWorkspace);
      std::vector<nn::Tokens> tokens;
      for (int64_t i = 0; i < run; ++i) tokens.push_back(tokens_of(request_.microbatch, engine_.token_memory()));
      if (request_.before_step) request_.before_step(groups_);
      engine_.step({.microbatches = tokens, .label_tokens = 1});
      if (request_.after_step) request_.after_step(groups_);
    });
  }

  MemoryStats evaluate() {
    return watch([&] {
      for (const BatchShape& shape : request_.evaluations) engine_.evaluate(tokens_of(shape, engine_.token_memory()));
    });
  }

  // Bytes of the tokens of one microbatch.
  int64_t batch_bytes_of_one() {
    if (batch_bytes_ == 0) {
      int64_t before = allocator_->stats().current_total;
      nn::Tokens tokens = tokens_of(request_.microbatch, engine_.token_memory());
      batch_bytes_ = allocator_->stats().current_total - before;
    }
    return batch_bytes_;
  }

  int64_t current() const { return allocator_->stats().current_total; }
  const Traffic& traffic() const { return traffic_; }
  const std::vector<UnitPlan>& units() const { return units_; }

 private:
  // What was in use before `body`, and the peaks during it.
  template <class Body>
  MemoryStats watch(const Body& body) {
    allocator_->reset_peaks();
    MemoryStats before = allocator_->stats();
    body();
    MemoryStats stats = allocator_->stats();
    stats.current = before.current;
    stats.current_total = before.current_total;
    return stats;
  }

  const RankRequest& request_;
  std::unique_ptr<Allocator> allocator_;
  Traffic traffic_;
  std::unique_ptr<comm::Communicator> ranks_;
  parallel::JobGroups groups_;
  engine::Engine engine_;
  std::vector<UnitPlan> units_;
  int64_t batch_bytes_ = 0;
};

}  // namespace

nn::Tokens tokens_of(const BatchShape& shape, Allocator& allocator) {
  auto ids = [&](Shape s) { return Tensor::empty(s, DType::kI32, allocator, MemoryClass::kWorkspace); };
  nn::Tokens tokens;
  tokens.batch = shape.rows;
  tokens.sequence = shape.cols;
  Shape flat{shape.rows * shape.cols};
  tokens.ids = ids(flat);
  tokens.labels = ids(flat);
  tokens.positions = ids(flat);
  tokens.samples = Tensor::empty({shape.rows}, DType::kI64, allocator, MemoryClass::kWorkspace);
  if (shape.packed) tokens.document_start = ids({shape.rows, shape.cols});
  return tokens;
}

int64_t RankPlan::peak(MemoryClass memory_class) const {
  auto i = static_cast<size_t>(memory_class);
  return std::max({first.peak[i], steady.peak[i], evaluation.peak[i]});
}

RankPlan plan_rank(const RankRequest& request) {
  PlannedRank rank(request);
  RankPlan plan;
  int64_t run = std::min(request.accumulation, kMicrobatchesRun);
  plan.batch_bytes = rank.batch_bytes_of_one() * request.accumulation;
  int64_t before = rank.current();
  plan.first = plan.steady = rank.step(run, request.accumulation);
  plan.traffic = rank.traffic();
  plan.units = rank.units();
  // What a first step leaves behind (gradient buffers, tables) is there in the second, and nothing more comes to it.
  if (rank.current() != before) {
    plan.steady = rank.step(run, request.accumulation);
    plan.traffic = rank.traffic();
  }
  if (request.accumulation > run) {
    rank.step(run - 1, request.accumulation);
    Traffic middle = plan.traffic;
    middle.add(rank.traffic(), -1);
    plan.traffic.add(middle, request.accumulation - run);
  }
  // Last: it leaves the root gathered, which would save the step after it that call.
  if (!request.evaluations.empty()) plan.evaluation = rank.evaluate();
  return plan;
}

namespace {

// Equal numbers mean equal shapes of all weights.
std::vector<int64_t> shapes_of(models::CausalLM& model, int tp_rank, int tp_size) {
  model.place(tp_rank, tp_size);
  std::vector<int64_t> out;
  for (const nn::Param* p : model.params()) out.push_back(p->local_shape().numel());
  return out;
}

}  // namespace

bool RankKind::has(const distributed::MeshContext& mesh, int rank) const {
  auto at = [&](const char* axis) { return mesh.size(axis) ? mesh.index(rank, axis) : 0; };
  return at("pp") == pp && tp.begin <= at("tp") && at("tp") < tp.end;
}

std::string RankKind::where() const {
  std::string text = pp_size > 1 ? fmt::format("pp {}", pp) : "";
  if (tp.size() == tp_size) return text;
  return text + fmt::format("{}tp {}{}", pp_size > 1 ? ", " : "", tp.begin,
                            tp.size() > 1 ? fmt::format("-{}", tp.end - 1) : "");
}

bool join(RankKind& kind, const RankKind& next) {
  if (kind.pp != next.pp || kind.tp.end != next.tp.begin) return false;
  kind.tp.end = next.tp.end;
  kind.count += next.count;
  return true;
}

std::vector<RankKind> kinds_of_ranks(const distributed::MeshContext& mesh, models::CausalLM& model) {
  int pp = mesh.pp_size(), tp = mesh.tp_size(), world = static_cast<int>(mesh.world_size());
  std::vector<Interval> alike;  // tensor-parallel ranks with the same shapes
  std::vector<int64_t> before;
  for (int t = 0; t < tp; ++t) {
    std::vector<int64_t> shapes = shapes_of(model, t, tp);
    // The first one stands out: of what all have, it counts the gradients.
    if (t < 2 || shapes != before) alike.push_back({t, t});
    alike.back().end = t + 1;
    before = std::move(shapes);
  }
  std::vector<RankKind> kinds;
  for (int p = 0; p < pp; ++p)
    for (const Interval& same : alike) {
      RankKind kind;
      kind.pp = p;
      kind.tp = same;
      kind.first = p * (world / pp) + static_cast<int>(same.begin);
      kind.count = world / pp / tp * static_cast<int>(same.size());
      if (mesh.device_mesh()) kind.first = mesh.device_mesh()->ranks()[static_cast<size_t>(kind.first)];
      kind.tp_size = tp;
      kind.pp_size = pp;
      kinds.push_back(std::move(kind));
    }
  return kinds;
}

}  // namespace automodel::plan
