// Both are made for at least as many microbatches as fill the pipeline (2 * ranks). With fewer, the schedule for that
// number is made and the work on microbatches that do not exist is left out, which keeps every order that matters.
#include "parallel/schedule_v.h"

#include <algorithm>
#include <deque>

namespace automodel::parallel {
namespace {

// The two stages of a rank, and the next microbatch of each kind of work on them.
class VRank {
 public:
  VRank(int rank, const ScheduleRequest& r) : stages_{rank, 2 * r.ranks - 1 - rank}, exist_(r.microbatches) {}

  int forwards(int leg) const { return next_[leg].forward; }
  void forward(int leg) { add(leg, Work::kForward, next_[leg].forward++); }
  void backward(int leg) { add(leg, Work::kBackward, next_[leg].backward++); }
  // The input half; its weight half waits for weight().
  void input(int leg) {
    int m = next_[leg].backward++;
    waiting_.push_back({stages_[leg], Work::kWeight, m});
    add(leg, Work::kInput, m);
  }
  // The weight half that has waited longest, on the given leg or on any (-1).
  void weight(int leg = -1) {
    auto it = std::ranges::find_if(waiting_, [&](const Action& a) { return leg < 0 || a.stage == stages_[leg]; });
    if (it == waiting_.end()) return;
    if (it->microbatch < exist_) row_.push_back(*it);
    waiting_.erase(it);
  }
  void remaining_weights() {
    while (!waiting_.empty()) weight();
  }
  std::vector<Action> row() && { return std::move(row_); }

 private:
  void add(int leg, Work work, int microbatch) {
    if (microbatch < exist_) row_.push_back({stages_[leg], work, microbatch});
  }

  struct Next {
    int forward = 0, backward = 0;
  };
  int stages_[2];
  int exist_;
  Next next_[2];
  std::deque<Action> waiting_;
  std::vector<Action> row_;
};

constexpr int kDown = 0, kUp = 1;

}  // namespace

std::vector<Action> zero_bubble_v(int rank, const ScheduleRequest& r) {
  VRank v(rank, r);
  int total = std::max(2 * r.ranks - 1, r.microbatches);
  auto both_halves = [&](int leg) {
    v.input(leg);
    v.weight(leg);
  };
  // Fill the way down, then the way up, until backwards can start.
  for (int i = 0; i < 2 * (r.ranks - rank) - 1; ++i) v.forward(kDown);
  for (int i = 0; i < rank; ++i) {
    v.forward(kUp);
    v.forward(kDown);
  }
  for (int i = 0; i < r.ranks - rank; ++i) {
    v.forward(kUp);
    both_halves(kUp);
  }
  while (v.forwards(kUp) < v.forwards(kDown) || v.forwards(kDown) < total) {
    if (v.forwards(kDown) < total) v.forward(kDown);
    both_halves(kDown);
    v.forward(kUp);
    both_halves(kUp);
  }
  // Drain: first what others wait for.
  for (int i = 0; i < rank; ++i) {
    v.input(kDown);
    v.input(kUp);
  }
  for (int i = 0; i < r.ranks - rank; ++i) {
    v.input(kDown);
    v.weight(kDown);
  }
  for (int i = 0; i < rank; ++i) v.weight(kUp);
  v.remaining_weights();
  return std::move(v).row();
}

std::vector<Action> dual_pipe_v(int rank, const ScheduleRequest& r) {
  VRank v(rank, r);
  int total = std::max(2 * r.ranks, r.microbatches), below = r.ranks - rank - 1;
  for (int i = 0; i < 2 * below; ++i) v.forward(kDown);
  for (int i = 0; i < rank + 1; ++i) {
    v.forward(kDown);
    v.forward(kUp);
  }
  for (int i = 0; i < below; ++i) {
    v.input(kUp);
    v.weight();
    v.forward(kUp);
  }
  // Steady: a forward of one leg beside a backward of the other.
  for (int i = 0; i < total - 2 * r.ranks + rank + 1; ++i) {
    v.forward(kDown);
    v.backward(kUp);
    v.forward(kUp);
    v.backward(kDown);
  }
  for (int i = 0; i < below; ++i) {
    v.backward(kUp);
    v.forward(kUp);
    v.backward(kDown);
  }
  // From the middle of the drain on, weight halves wait; odd ranks begin half a turn earlier.
  int half = (rank + 1) / 2;
  for (int i = 0; i < rank + 1; ++i) {
    bool split_up = i > half || (i == half && rank % 2 == 1), split_down = i >= half;
    if (split_up)
      v.input(kUp);
    else
      v.backward(kUp);
    if (split_down)
      v.input(kDown);
    else
      v.backward(kDown);
  }
  for (int i = 0; i < below; ++i) {
    v.weight();
    v.input(kDown);
  }
  v.remaining_weights();
  return std::move(v).row();
}

}  // namespace automodel::parallel
