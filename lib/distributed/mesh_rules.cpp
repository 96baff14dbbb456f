// The rules of a mesh and its layout. Every rule that is broken is told, as far as it does not follow from another one.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "distributed/mesh_context.h"

namespace automodel::distributed {
namespace {

// Sizes beyond any job; products stop growing here.
constexpr int64_t kHuge = int64_t{1} << 40;
// The most ranks of a job.
constexpr int64_t kMost = int64_t{1} << 30;

int64_t times(int64_t a, int64_t b) {
  return a > kHuge / b ? kHuge : a * b;
}

// A product as it is told: where it stopped growing, its least value.
std::string shown(int64_t product) {
  return product < kHuge ? std::to_string(product) : "more than 10^12";
}

// The divisors of n, up to `most`, nearest to `asked`: "2 or 4".
std::string nearest_divisors(int64_t n, int64_t asked, int64_t most = kHuge) {
  int64_t below = 0, above = 0;
  for (int64_t d = 1; d * d <= n; ++d) {
    if (n % d != 0) continue;
    for (int64_t divisor : {d, n / d}) {
      if (divisor > most) continue;
      if (divisor < asked) below = std::max(below, divisor);
      if (divisor > asked && (above == 0 || divisor < above)) above = divisor;
    }
  }
  if (below == 0) return std::to_string(above);
  return above == 0 ? std::to_string(below) : fmt::format("{} or {}", below, above);
}

struct Sizes {
  int64_t replicate, tp, pp, cp, ep;
  std::optional<int64_t> dp;
};

// Axes that a strategy does not have.
bool check_strategy(Strategy strategy, const Sizes& s, config::Problems& problems) {
  bool fits = true;
  const auto refuse = [&](const char* key, int64_t size, const char* what) {
    if (size <= 1) return;
    problems.add(key, fmt::format("{} is {}, but {} does not support {}", key, size, name_of(strategy), what),
                 fmt::format("write {}: 1, or strategy: fsdp2", key));
    fits = false;
  };
  if (strategy == Strategy::kFsdp2) return true;
  refuse("dp_replicate_size", s.replicate, "replicas of a sharded model");
  refuse("pp_size", s.pp, "pipeline parallelism");
  refuse("ep_size", s.ep, "expert parallelism");
  if (strategy == Strategy::kDdp) {
    refuse("tp_size", s.tp, "tensor parallelism");
    refuse("cp_size", s.cp, "context parallelism");
  }
  return fits;
}

bool check_positive(const ParallelismSizes& s, config::Problems& problems) {
  bool fits = true;
  const auto check = [&](const char* key, int64_t size) {
    if (size >= 1) return;
    problems.add(key, fmt::format("{} is {}; sizes start at 1", key, size), fmt::format("write {}: 1", key));
    fits = false;
  };
  check("dp_replicate_size", s.dp_replicate_size.value_or(1));
  check("tp_size", s.tp_size);
  check("pp_size", s.pp_size);
  check("cp_size", s.cp_size);
  check("ep_size", s.ep_size);
  return fits;
}

// The key of the size that the user most likely wants to change.
const char* largest_key(const Sizes& s) {
  if (s.tp >= s.cp && s.tp >= s.pp) return "tp_size";
  return s.cp >= s.pp ? "cp_size" : "pp_size";
}

// What to do when the sizes make `product` ranks; `others` is that without the data-parallel size.
std::string hint_for_product(int64_t world, int64_t others, int64_t product) {
  const std::string start = fmt::format("start {} ranks", product);
  if (world % others != 0) return product <= kMost ? start : "choose smaller sizes";
  const std::string infer = fmt::format("write dp_size: none to use all {} ranks", world);
  return product <= kMost ? infer + ", or " + start : infer;
}

// The data-parallel size; nothing, and a problem, when the job does not fit.
std::optional<int64_t> data_parallel_size(const MeshRequest& request, const Sizes& s, config::Problems& problems) {
  const int64_t world = request.world_size;
  const bool megatron = request.strategy == Strategy::kMegatronFsdp;
  const int64_t others = times(times(s.tp, s.cp), s.pp);
  const std::string factors = megatron ? "tp_size * cp_size" : "tp_size * cp_size * pp_size";
  const std::string numbers = megatron ? fmt::format("{} * {} = {}", s.tp, s.cp, shown(others))
                                       : fmt::format("{} * {} * {} = {}", s.tp, s.cp, s.pp, shown(others));
  if (!s.dp) {
    if (world % others == 0) return world / others;
    const char* key = largest_key(s);
    const bool tp = std::string_view(key) == "tp_size", cp = std::string_view(key) == "cp_size";
    const int64_t asked = tp ? s.tp : cp ? s.cp : s.pp;
    const int64_t rest = tp ? times(s.cp, s.pp) : cp ? times(s.tp, s.pp) : times(s.tp, s.cp);
    std::string hint = world % rest == 0 ? fmt::format("write {}: {}", key, nearest_divisors(world / rest, asked))
                                         : fmt::format("choose sizes whose product divides {}", world);
    if (others <= kMost) hint += fmt::format(", or start a multiple of {} ranks", others);
    problems.add(key, fmt::format("the job's {} ranks are no multiple of {} = {}", world, factors, numbers), hint);
    return std::nullopt;
  }
  const int64_t product = times(*s.dp, others);
  // The ranks of a subset are counted against the mesh where the subset is checked.
  if (product == world || !request.ranks.empty()) return s.dp;
  problems.add("dp_size",
               fmt::format("dp_size {} * {} = {} ranks, but the job has {}", *s.dp,
                           megatron ? fmt::format("tp_size {} * cp_size {}", s.tp, s.cp)
                                    : fmt::format("tp_size {} * cp_size {} * pp_size {}", s.tp, s.cp, s.pp),
                           shown(product), world),
               hint_for_product(world, others, product));
  return std::nullopt;
}

bool check_replicas(int64_t dp, int64_t replicate, config::Problems& problems) {
  if (replicate == 1) return true;
  if (dp % replicate != 0) {
    problems.add("dp_replicate_size", fmt::format("dp_size {} is no multiple of dp_replicate_size {}", dp, replicate),
                 fmt::format("write dp_replicate_size: {}",
                             nearest_divisors(dp, replicate, std::max<int64_t>(1, dp / 2))));  // it has to be below dp
    return false;
  }
  if (replicate < dp) return true;
  problems.add(
      "dp_replicate_size",
      fmt::format("dp_replicate_size {} must be less than dp_size {}: fsdp2 has to cut the model at least in two",
                  replicate, dp),
      "write strategy: ddp to keep the whole model on every rank, or a smaller dp_replicate_size");
  return false;
}

bool check_experts(int64_t stage, int64_t ep, config::Problems& problems) {
  if (stage % ep == 0) return true;
  problems.add("ep_size",
               fmt::format("the {} ranks of a pipeline stage (dp * cp * tp) are no multiple of ep_size {}", stage, ep),
               fmt::format("write ep_size: {}", nearest_divisors(stage, ep)));
  return false;
}

bool check_ranks(const MeshRequest& request, int64_t product, config::Problems& problems) {
  if (request.ranks.empty()) return true;
  bool fits = true;
  const auto complain = [&](std::string message, std::string hint) {
    problems.add("ranks", std::move(message), std::move(hint));
    fits = false;
  };
  if (static_cast<int64_t>(request.ranks.size()) != product) {
    complain(fmt::format("{} ranks are named, but the mesh has {}", request.ranks.size(), product),
             "name each rank of the mesh once; world_size is their number");
  }
  std::set<int> seen;
  const int64_t job = request.job_size.value_or(kHuge);
  for (int rank : request.ranks) {
    if (!seen.insert(rank).second) complain(fmt::format("rank {} is named twice", rank), "ranks must be unique");
    if (rank < 0 || rank >= job) {
      complain(fmt::format("rank {} is outside the job", rank),
               request.job_size ? fmt::format("ranks are 0 to {}", job - 1) : "ranks start at 0");
    }
  }
  return fits;
}

comm::DeviceMesh lay_out(std::vector<comm::MeshAxis> axes, const std::vector<int>& ranks) {
  return ranks.empty() ? comm::DeviceMesh(std::move(axes)) : comm::DeviceMesh(std::move(axes), ranks);
}

MeshContext megatron_mesh(int dp, const Sizes& s, const std::vector<int>& ranks) {
  comm::DeviceMesh mesh = lay_out({{"dp", dp}, {"cp", static_cast<int>(s.cp)}, {"tp", static_cast<int>(s.tp)}}, ranks);
  if (s.cp > 1) mesh.flatten("dp_cp", {"dp", "cp"});
  return MeshContext(std::move(mesh));
}

MeshContext fsdp2_mesh(int dp, const Sizes& s, const std::vector<int>& ranks) {
  const int pp = static_cast<int>(s.pp), replicate = static_cast<int>(s.replicate), cp = static_cast<int>(s.cp),
            tp = static_cast<int>(s.tp), ep = static_cast<int>(s.ep);
  comm::DeviceMesh mesh =
      lay_out({{"pp", pp}, {"dp_replicate", replicate}, {"dp_shard", dp / replicate}, {"cp", cp}, {"tp", tp}}, ranks);
  mesh.flatten("dp", {"dp_replicate", "dp_shard"});
  mesh.flatten("dp_shard_cp", {"dp_shard", "cp"});
  mesh.flatten("dp_cp", {"dp_replicate", "dp_shard", "cp"});
  if (ep == 1) return MeshContext(std::move(mesh));
  comm::DeviceMesh moe = lay_out({{"pp", pp}, {"ep_shard", dp * cp * tp / ep}, {"ep", ep}}, ranks);
  return MeshContext(std::move(mesh), std::move(moe));
}

}  // namespace

std::optional<MeshContext> build_mesh(const MeshRequest& request, config::Problems& problems) {
  const ParallelismSizes& asked = request.sizes;
  if (request.world_size < 1 || request.world_size > kMost) {
    problems.add("world_size", fmt::format("a job cannot have {} ranks", request.world_size),
                 request.world_size < 1 ? "start at least 1 rank" : fmt::format("start at most {} ranks", kMost));
    return std::nullopt;
  }
  if (!check_positive(asked, problems)) return std::nullopt;
  if (request.job_size && request.ranks.empty() && *request.job_size != request.world_size) {
    problems.add("world_size",
                 fmt::format("the set-up is for {} ranks, but the job has {}", request.world_size, *request.job_size),
                 "use all ranks, or name those of the mesh with `ranks`");
    return std::nullopt;
  }
  const Sizes s{asked.dp_replicate_size.value_or(1),
                asked.tp_size,
                asked.pp_size,
                asked.cp_size,
                asked.ep_size,
                asked.requested_dp()};
  if (!check_strategy(request.strategy, s, problems)) return std::nullopt;
  if (request.strategy == Strategy::kDdp) return MeshContext(request.world_size);
  const std::optional<int64_t> dp = data_parallel_size(request, s, problems);
  // With an explicit size these hold or fail whatever the job is.
  const std::optional<int64_t> known = dp ? dp : s.dp;
  if (!known) return std::nullopt;
  const bool replicas = check_replicas(*known, s.replicate, problems);
  const int64_t stage = times(times(*known, s.cp), s.tp);
  const bool experts = check_experts(stage, s.ep, problems);
  const bool ranks = dp && check_ranks(request, times(stage, s.pp), problems);
  if (!dp || !replicas || !experts || !ranks) return std::nullopt;
  const int size = static_cast<int>(*dp);
  return request.strategy == Strategy::kMegatronFsdp ? megatron_mesh(size, s, request.ranks)
                                                     : fsdp2_mesh(size, s, request.ranks);
}

}  // namespace automodel::distributed
