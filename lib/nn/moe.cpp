#include "nn/moe.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "ops/context_chunks.h"
#include "ops/tensor_parallel.h"

namespace automodel::nn {

using autograd::Var;

namespace {

// Which tokens the rows are that this rank routes.
ops::RoutedRows routed_rows(const Tokens& tokens, Allocator& allocator) {
  const Parallel& ranks = tokens.ranks();
  int64_t all = tokens.count(), each = (all + ranks.tp_size() - 1) / ranks.tp_size();
  int64_t first = std::min(all, each * ranks.tp_rank());
  ops::RoutedRows rows{std::min(each, all - first), first, tokens.batch, tokens.sequence, {}, 0};
  int cp = ranks.cp == nullptr ? 1 : ranks.cp->size();
  int64_t whole = tokens.whole_sequence == 0 ? tokens.sequence : tokens.whole_sequence;
  if (tokens.lengths.empty() && whole == tokens.sequence * cp) return rows;
  // Samples may be padded on the right; context-parallel ranks pad them further, so the end of each chunk may be
  // padding.
  ops::ContextChunks chunks{cp};
  int64_t chunk = cp == 1 ? tokens.sequence : tokens.sequence / 2;
  std::vector<int32_t> real;
  for (int64_t i = first; i < first + rows.count; ++i) {
    int64_t sample = i / tokens.sequence, at = i % tokens.sequence, half = at / chunk;
    int64_t begin = cp == 1 ? 0 : chunks.of(ranks.cp->rank(), static_cast<int>(half)) * chunk;
    int64_t end = tokens.lengths.empty() ? whole : tokens.lengths[static_cast<size_t>(sample)];
    real.push_back(begin + at % chunk < end ? 1 : 0);
    if (real.back() == 0) ++rows.padding;
  }
  rows.real = Tensor::empty({rows.count}, DType::kI32, allocator, MemoryClass::kWorkspace);
  upload(rows.real, real);
  return rows;
}

}  // namespace

MoeMlp::MoeMlp(const std::string& prefix, const MoeSpec& spec)
    : spec_(spec),
      router_(prefix + spec.names.router, {spec.hidden, spec.experts, false, false, spec.init_std}),
      load_(static_cast<size_t>(spec.experts), 0),
      bias_name_(prefix + spec.names.router + ".e_score_correction_bias") {
  if (spec.bias_step != 0) have_bias();
  experts_.reserve(static_cast<size_t>(spec.experts));
  for (int64_t e = 0; e < spec.experts; ++e) {
    std::string name = prefix + "experts." + std::to_string(e) + ".";
    LinearSpec in{spec.hidden, spec.inner, false, false, spec.init_std};
    LinearSpec out{spec.inner, spec.hidden, false, false, spec.init_std};
    experts_.push_back(
        {Linear(name + spec.names.gate, in), Linear(name + spec.names.up, in), Linear(name + spec.names.down, out)});
    for (Linear* l : {&experts_.back().gate, &experts_.back().up, &experts_.back().down})
      l->weight().expert = static_cast<int>(e);
  }
  std::vector<Param*> params;
  collect(params);
  for (Param* p : params) p->common = CommonGradient::kPartial;
}

Var MoeMlp::forward(const Var& x, const Tokens& tokens) {
  const Parallel& ranks = tokens.ranks();
  bool cuts = ranks.tp_size() > 1 && !ranks.sequence_parallel;
  Var rows = cuts ? ops::part_of_rows(x, *ranks.tp) : x;

  ops::Router router{&router_.weight(), spec_.top_k, spec_.renormalise, {}};
  if (!bias_.empty()) {
    router.bias = Tensor::empty({spec_.experts}, DType::kF32, x.tape->allocator(), MemoryClass::kWorkspace);
    upload(router.bias, bias_);
  }
  ops::RoutedRows routed = routed_rows(tokens, x.tape->allocator());
  ops::Balance balance;
  if (tokens.labels.defined()) {
    balance.scale = spec_.balance_coefficient * tokens.objective_scale;
    balance.labels = tokens.labels.narrow(routed.first, routed.count);
    balance.sharing = {ranks.tp, ranks.cp};
  }
  ops::Routing routing = ops::route(rows, router, routed, balance);
  if (x.tape->recording() && spec_.bias_step != 0) count_load(routing);

  int64_t ep = ranks.ep == nullptr ? 1 : ranks.ep->size();
  AM_CHECK(spec_.experts % ep == 0, Fault::kBug, "{} experts for {} ranks", spec_.experts, ep);
  int64_t own = spec_.experts / ep, first = ranks.ep == nullptr ? 0 : own * ranks.ep->rank();
  std::vector<ops::Expert> experts;
  for (int64_t e = first; e < first + own; ++e) {
    ExpertWeights& w = experts_[static_cast<size_t>(e)];
    experts.push_back({{w.gate.projection(tokens), w.up.projection(tokens)}, w.down.projection(tokens)});
  }
  Var y = ops::experts(rows, routing, experts, {spec_.activation, ranks.ep, tokens.cache == nullptr});
  return cuts ? ops::join_rows(y, tokens.count(), *ranks.tp) : y;
}

void MoeMlp::collect(std::vector<Param*>& out) {
  out.push_back(&router_.weight());
  for (ExpertWeights& e : experts_)
    for (Linear* l : {&e.gate, &e.up, &e.down}) out.push_back(&l->weight());
}

void MoeMlp::count_load(const ops::Routing& routing) {
  auto counts = to_host<int32_t>(routing.counts);
  for (size_t e = 0; e < load_.size(); ++e) load_[e] += counts[e];
}

void MoeMlp::have_bias() {
  bias_.assign(static_cast<size_t>(spec_.experts), 0.0f);
}

void MoeMlp::clear_load() {
  std::ranges::fill(load_, 0);
}

void MoeMlp::update_bias(std::span<const int64_t> load) {
  AM_CHECK(spec_.bias_step != 0 && load.size() == bias_.size(), Fault::kBug, "a load of {} experts for {} biases",
           load.size(), bias_.size());
  // load < total / n, in integers.
  int64_t total = std::accumulate(load.begin(), load.end(), int64_t{0});
  for (size_t e = 0; e < bias_.size(); ++e) {
    int64_t scaled = load[e] * spec_.experts;
    bias_[e] += spec_.bias_step * static_cast<float>((scaled < total) - (scaled > total));
  }
}

}  // namespace automodel::nn
