#include "parallel/timeline.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace automodel::parallel {
namespace {

// When each (stage, microbatch) was forwarded, had its input half, its weight half done. -1: not yet.
struct Done {
  Done(const Schedule& s) : microbatches(s.microbatches) {
    size_t n = static_cast<size_t>(s.stages) * static_cast<size_t>(s.microbatches);
    forward.assign(n, -1);
    input = weight = forward;
  }
  size_t at(int stage, int microbatch) const {
    return static_cast<size_t>(stage) * static_cast<size_t>(microbatches) + static_cast<size_t>(microbatch);
  }
  int microbatches;
  std::vector<int> forward, input, weight;
};

int duration(Work work, const WorkTimes& t) {
  switch (work) {
    case Work::kForward:
      return t.forward;
    case Work::kBackward:
      return t.backward;
    case Work::kInput:
      return t.input;
    case Work::kWeight:
      return t.weight;
  }
  return 0;
}

// The time at which everything that `a` waits for is there; -1: something is not done yet.
int ready_at(const Action& a, const Schedule& s, const Done& done) {
  auto both = [](int x, int y) { return x < 0 || y < 0 ? -1 : std::max(x, y); };
  size_t here = done.at(a.stage, a.microbatch);
  switch (a.work) {
    case Work::kForward:
      return a.stage == 0 ? 0 : done.forward[done.at(a.stage - 1, a.microbatch)];
    case Work::kBackward:
    case Work::kInput:
      if (a.stage + 1 == s.stages) return done.forward[here];
      return both(done.forward[here], done.input[done.at(a.stage + 1, a.microbatch)]);
    case Work::kWeight:
      return done.input[here];
  }
  return -1;
}

// Plays as far as it goes; next[r] is the first action that rank r could not do.
Timeline play_on(const Schedule& s, const WorkTimes& times, std::vector<size_t>& next) {
  Timeline out;
  out.ranks.resize(s.ranks.size());
  next.assign(s.ranks.size(), 0);
  std::vector<int> free(s.ranks.size(), 0);
  Done done(s);
  for (bool moved = true; moved;) {
    moved = false;
    for (size_t r = 0; r < s.ranks.size(); ++r)
      for (; next[r] < s.ranks[r].size(); ++next[r], moved = true) {
        const Action& a = s.ranks[r][next[r]];
        int ready = ready_at(a, s, done);
        if (ready < 0) break;
        int begin = std::max(ready, free[r]), end = begin + duration(a.work, times);
        size_t here = done.at(a.stage, a.microbatch);
        if (a.work == Work::kForward) done.forward[here] = end;
        if (a.work == Work::kBackward || a.work == Work::kInput) done.input[here] = end;
        if (a.work == Work::kBackward || a.work == Work::kWeight) done.weight[here] = end;
        free[r] = end;
        out.ranks[r].push_back({a, begin, end});
        out.length = std::max(out.length, end);
      }
  }
  return out;
}

// Each stage on one rank; each of its microbatches forward once, and backward once, whole or in two halves.
std::string miscounted(const Schedule& s) {
  size_t n = static_cast<size_t>(s.stages) * static_cast<size_t>(s.microbatches);
  std::vector<int> owner(static_cast<size_t>(s.stages), -1), forward(n), whole(n), input(n), weight(n);
  for (int r = 0; r < s.size(); ++r)
    for (const Action& a : s.ranks[static_cast<size_t>(r)]) {
      if (a.stage < 0 || a.stage >= s.stages || a.microbatch < 0 || a.microbatch >= s.microbatches)
        return fmt::format("{} is outside of {} stages and {} microbatches", to_string(a), s.stages, s.microbatches);
      int& rank = owner[static_cast<size_t>(a.stage)];
      if (rank >= 0 && rank != r) return fmt::format("stage {} is on rank {} and on rank {}", a.stage, rank, r);
      rank = r;
      size_t at =
          static_cast<size_t>(a.stage) * static_cast<size_t>(s.microbatches) + static_cast<size_t>(a.microbatch);
      auto& counts = a.work == Work::kForward    ? forward
                     : a.work == Work::kBackward ? whole
                     : a.work == Work::kInput    ? input
                                                 : weight;
      if (++counts[at] > 1) return fmt::format("{} is there twice", to_string(a));
    }
  for (int stage = 0; stage < s.stages; ++stage)
    for (int m = 0; m < s.microbatches; ++m) {
      size_t at = static_cast<size_t>(stage) * static_cast<size_t>(s.microbatches) + static_cast<size_t>(m);
      if (forward[at] == 0) return fmt::format("{} is missing", to_string({stage, Work::kForward, m}));
      if (whole[at] + input[at] != 1 || whole[at] + weight[at] != 1)
        return fmt::format("the backward of microbatch {} on stage {} must be {} or both {} and {}", m, stage,
                           to_string({stage, Work::kBackward, m}), to_string({stage, Work::kInput, m}),
                           to_string({stage, Work::kWeight, m}));
    }
  return "";
}

int peak_alive(const std::vector<TimedAction>& row) {
  int alive = 0, peak = 0;
  for (const TimedAction& t : row) {
    if (t.action.work == Work::kForward) peak = std::max(peak, ++alive);
    if (t.action.work == Work::kBackward || t.action.work == Work::kWeight) --alive;
  }
  return peak;
}

}  // namespace

double Timeline::bubble() const {
  double total = static_cast<double>(length) * static_cast<double>(ranks.size());
  return total == 0 ? 0 : std::accumulate(idle.begin(), idle.end(), 0.0) / total;
}

std::string fault_of(const Schedule& schedule) {
  std::string why = miscounted(schedule);
  if (!why.empty()) return why;
  std::vector<size_t> next;
  play_on(schedule, {}, next);
  for (size_t r = 0; r < next.size(); ++r)
    if (next[r] < schedule.ranks[r].size()) {
      if (!why.empty()) why += ", ";
      why += fmt::format("rank {} at {}", r, to_string(schedule.ranks[r][next[r]]));
    }
  return why.empty() ? "" : "ranks wait for each other for ever: " + why;
}

Timeline play(const Schedule& schedule, const WorkTimes& times) {
  std::vector<size_t> next;
  Timeline out = play_on(schedule, times, next);
  for (size_t r = 0; r < next.size(); ++r)
    AM_CHECK(next[r] == schedule.ranks[r].size(), Fault::kBug, "the schedule {} stops on rank {}", schedule.name, r);
  for (const auto& row : out.ranks) {
    int busy = 0;
    for (const TimedAction& t : row) busy += t.end - t.begin;
    out.idle.push_back(out.length - busy);
    out.peak_alive.push_back(peak_alive(row));
  }
  return out;
}

std::string draw(const Timeline& timeline, int width) {
  std::string out;
  int shown = std::min(timeline.length, width);
  for (const auto& row : timeline.ranks) {
    std::string line(static_cast<size_t>(shown), '.');
    for (const TimedAction& t : row)
      for (int i = t.begin; i < std::min(t.end, shown); ++i) {
        int m = t.action.microbatch;
        char c = t.action.work == Work::kForward  ? static_cast<char>('0' + m % 10)
                 : t.action.work == Work::kWeight ? '#'
                                                  : static_cast<char>('a' + m % 26);
        line[static_cast<size_t>(i)] = c;
      }
    out += line + (shown < timeline.length ? "...\n" : "\n");
  }
  return out;
}

}  // namespace automodel::parallel
