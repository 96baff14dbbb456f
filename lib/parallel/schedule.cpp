#include "parallel/schedule.h"

#include <algorithm>
#include <charconv>
#include <functional>

#include "core/error.h"
#include "parallel/schedule_v.h"
#include "parallel/timeline.h"

namespace automodel::parallel {
namespace {

using Row = std::vector<Action>;

Row one_forward_one_backward(int rank, const ScheduleRequest& r) {
  Row row;
  int forwards = std::min(r.microbatches, r.stages - rank), backwards = 0;
  for (int m = 0; m < forwards; ++m) row.push_back({rank, Work::kForward, m});
  while (backwards < r.microbatches) {
    row.push_back({rank, Work::kBackward, backwards++});
    if (forwards < r.microbatches) row.push_back({rank, Work::kForward, forwards++});
  }
  return row;
}

Row gpipe(int rank, const ScheduleRequest& r) {
  Row row;
  for (Work work : {Work::kForward, Work::kBackward})
    for (int m = 0; m < r.microbatches; ++m) row.push_back({rank, work, m});
  return row;
}

Row looped_bfs(int rank, const ScheduleRequest& r) {
  Row row;
  for (int stage = rank; stage < r.stages; stage += r.ranks)
    for (int m = 0; m < r.microbatches; ++m) row.push_back({stage, Work::kForward, m});
  std::vector<Action> forwards = row;
  for (auto f = forwards.rbegin(); f != forwards.rend(); ++f) row.push_back({f->stage, Work::kBackward, f->microbatch});
  return row;
}

// Rounds of microbatches go through all local stages in turn.
class Interleaved {
 public:
  Interleaved(int rank, const ScheduleRequest& r)
      : rank_(rank),
        ranks_(r.ranks),
        local_(r.stages / r.ranks),
        total_(local_ * r.microbatches),
        round_(r.microbatches / std::max(1, r.microbatches / r.ranks)) {}

  Row whole_backwards() {
    int warm_up = std::min((local_ - 1) * round_ + 2 * (ranks_ - 1 - rank_), total_);
    for (int k = 0; k < warm_up; ++k) add_forward();
    while (forwards_ < total_) {
      add_forward();
      add_backward(Work::kBackward);
    }
    while (backwards_ < total_) add_backward(Work::kBackward);
    return row_;
  }

  // Weight halves follow the input halves `rank` of them later.
  Row halves() {
    int warm_up = std::min((local_ - 1) * round_ + ranks_ - 1 - rank_, total_);
    for (int k = 0; k < warm_up; ++k) add_forward();
    while (backwards_ < total_) {
      if (forwards_ < total_) add_forward();
      add_backward(Work::kInput);
      if (backwards_ > rank_) add_weight();
    }
    while (weights_ < total_) add_weight();
    return row_;
  }

 private:
  int microbatch(int k) const { return k / (round_ * local_) * round_ + k % round_; }
  int stage(int local) const { return rank_ + local * ranks_; }
  int backward_stage(int k) const { return stage(local_ - 1 - k / round_ % local_); }

  void add_forward() {
    row_.push_back({stage(forwards_ / round_ % local_), Work::kForward, microbatch(forwards_)});
    ++forwards_;
  }
  void add_backward(Work work) {
    row_.push_back({backward_stage(backwards_), work, microbatch(backwards_)});
    ++backwards_;
  }
  void add_weight() {
    row_.push_back({backward_stage(weights_), Work::kWeight, microbatch(weights_)});
    ++weights_;
  }

  int rank_, ranks_, local_, total_, round_;
  int forwards_ = 0, backwards_ = 0, weights_ = 0;
  Row row_;
};

Row row_of(int rank, const ScheduleRequest& r) {
  if (r.name == "GPipe") return gpipe(rank, r);
  if (r.name == "LoopedBFS") return looped_bfs(rank, r);
  if (r.name == "Interleaved1F1B") return Interleaved(rank, r).whole_backwards();
  if (r.name == "InterleavedZeroBubble") return Interleaved(rank, r).halves();
  if (r.name == "ZBVZeroBubble") return zero_bubble_v(rank, r);
  if (r.name == "DualPipeV") return dual_pipe_v(rank, r);
  return one_forward_one_backward(rank, r);
}

bool known(std::string_view name) {
  constexpr std::string_view kNames[] = {
      "1F1B", "GPipe", "Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"};
  return std::ranges::find(kNames, name) != std::end(kNames);
}

}  // namespace

std::string to_string(const Action& action) {
  return fmt::format("{}{}{}", action.stage, static_cast<char>(action.work), action.microbatch);
}

Action parse_action(std::string_view text) {
  Action action;
  auto number = [](std::string_view s, int& to) {
    auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), to);
    return error == std::errc{} && end == s.data() + s.size() && to >= 0;
  };
  size_t at = text.find_first_of("FBIW");
  bool right = at != std::string_view::npos && number(text.substr(0, at), action.stage) &&
               number(text.substr(at + 1), action.microbatch);
  AM_CHECK(right, Fault::kConfig,
           "\"{}\" is no action: write the stage, F (forward), B (backward), I or W (the halves of a backward, for the "
           "input and for the weights) and the microbatch, as in 2F0",
           text);
  action.work = static_cast<Work>(text[at]);
  return action;
}

bool is_single_stage(std::string_view name) {
  return name == "1F1B" || name == "GPipe";
}

bool is_v_shaped(std::string_view name) {
  return name == "ZBVZeroBubble" || name == "DualPipeV";
}

std::vector<std::vector<int>> place_stages(std::string_view name, int ranks, int stages) {
  std::vector<std::vector<int>> out(static_cast<size_t>(ranks));
  for (int s = 0; s < stages; ++s) {
    int rank = s % ranks;
    if (is_v_shaped(name) && s / ranks % 2 == 1) rank = ranks - 1 - rank;
    out[static_cast<size_t>(rank)].push_back(s);
  }
  return out;
}

std::vector<int> ranks_of_stages(const Schedule& schedule) {
  std::vector<int> out(static_cast<size_t>(schedule.stages), 0);
  for (size_t r = 0; r < schedule.ranks.size(); ++r)
    for (const Action& action : schedule.ranks[r]) out[static_cast<size_t>(action.stage)] = static_cast<int>(r);
  return out;
}

std::string refusal(const ScheduleRequest& r) {
  if (!known(r.name)) return fmt::format("there is no schedule {}", r.name);
  if (r.ranks < 1 || r.microbatches < 1 || r.stages < 1)
    return fmt::format("a schedule needs ranks, stages and microbatches, and has {}, {} and {}", r.ranks, r.stages,
                       r.microbatches);
  if (r.stages % r.ranks != 0) return fmt::format("{} stages cannot be spread evenly over {} ranks", r.stages, r.ranks);
  int local = r.stages / r.ranks;
  if (is_single_stage(r.name) && local != 1)
    return fmt::format("{} has one stage a rank, not {}: use {} stages, or Interleaved1F1B", r.name, local, r.ranks);
  if (!is_single_stage(r.name) && r.ranks > 1 && local < 2)
    return fmt::format("{} needs at least 2 stages a rank: use {} stages, or 1F1B", r.name, 2 * r.ranks);
  if (is_v_shaped(r.name) && local != 2)
    return fmt::format("{} has two stages a rank, not {}: use {} stages", r.name, local, 2 * r.ranks);
  if (r.name == "Interleaved1F1B" || r.name == "InterleavedZeroBubble") {
    int rounds = std::max(1, r.microbatches / r.ranks);
    if (r.microbatches % rounds != 0)
      return fmt::format(
          "{} runs {} microbatches in {} equal rounds (one for each {} of them), which {} does not "
          "divide into: use {} or {} microbatches",
          r.name, r.microbatches, rounds, r.ranks, r.microbatches, r.microbatches / rounds * rounds,
          (r.microbatches / rounds + 1) * rounds);
  }
  return "";
}

Schedule make_schedule(const ScheduleRequest& request) {
  std::string why = refusal(request);
  AM_CHECK(why.empty(), Fault::kConfig, "{}", why);
  Schedule out{request.name, request.stages, request.microbatches, {}};
  for (int rank = 0; rank < request.ranks; ++rank) out.ranks.push_back(row_of(rank, request));
  return out;
}

Schedule parse_schedule(std::string_view csv, const std::string& source, int ranks) {
  Schedule out{"CSV", 0, 0, {}};
  for (int line = 1; !csv.empty(); ++line) {
    size_t end = std::min(csv.find('\n'), csv.size());
    std::string_view row = csv.substr(0, end);
    csv.remove_prefix(std::min(end + 1, csv.size()));
    if (row.find_first_not_of(" \t\r,") == std::string_view::npos && csv.empty()) break;
    auto& actions = out.ranks.emplace_back();
    for (size_t begin = 0; begin <= row.size();) {
      size_t stop = std::min(row.find(',', begin), row.size());
      std::string_view cell = row.substr(begin, stop - begin);
      size_t first = std::min(cell.find_first_not_of(" \t\r\""), cell.size());
      size_t last = cell.find_last_not_of(" \t\r\"");
      if (first < cell.size()) try {
          actions.push_back(parse_action(cell.substr(first, last - first + 1)));
        } catch (const Error& error) {
          fail(Fault::kConfig, "{}:{}:{}: {}", source, line, begin + first + 1, error.what());
        }
      begin = stop + 1;
    }
    for (const Action& a : actions) {
      out.stages = std::max(out.stages, a.stage + 1);
      out.microbatches = std::max(out.microbatches, a.microbatch + 1);
    }
  }
  AM_CHECK(out.size() == ranks, Fault::kConfig, "{}: {} lines for {} pipeline ranks; write one line for each rank",
           source, out.size(), ranks);
  std::string why = fault_of(out);
  AM_CHECK(why.empty(), Fault::kConfig, "{}: {}", source, why);
  return out;
}

}  // namespace automodel::parallel
