// Pipeline schedules as data: for each rank of the pp axis, which stage works on which microbatch, in which order.
// Pure.
//
// Sources: GPipe (Huang et al. 2019), 1F1B (Narayanan et al., PipeDream, 2019), Interleaved1F1B (Narayanan et al.
// 2021), LoopedBFS (Lamy-Poirier 2022), InterleavedZeroBubble and ZBVZeroBubble (Qi et al. 2023, 2024), DualPipeV
// (DeepSeek 2025).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace automodel::parallel {

// A backward is whole, or comes in halves: the gradient that the stage before waits for, and later that of the weights.
enum class Work : char { kForward = 'F', kBackward = 'B', kInput = 'I', kWeight = 'W' };

struct Action {
  int stage = 0;
  Work work = Work::kForward;
  int microbatch = 0;
  bool operator==(const Action&) const = default;
};

// "2F0": the forward of microbatch 0 on stage 2.
std::string to_string(const Action& action);
// Error(kConfig): not of that form.
Action parse_action(std::string_view text);

struct Schedule {
  std::string name;
  int stages = 1;
  int microbatches = 1;
  std::vector<std::vector<Action>> ranks;  // in the order of work

  int size() const { return static_cast<int>(ranks.size()); }
};

struct ScheduleRequest {
  std::string name;  // canonical (distributed::find_schedule)
  int ranks = 1;
  int stages = 1;
  int microbatches = 1;
};

// One stage a rank (1F1B, GPipe); the others have at least two.
bool is_single_stage(std::string_view name);
// Whether a rank has the stages r and 2 * ranks - 1 - r; otherwise r, r + ranks, r + 2 * ranks, ...
bool is_v_shaped(std::string_view name);
// Of each rank, ascending.
std::vector<std::vector<int>> place_stages(std::string_view name, int ranks, int stages);

// The rank that works on each stage.
std::vector<int> ranks_of_stages(const Schedule& schedule);

// Why the schedule cannot be made, with both numbers and what to change; empty: it can.
std::string refusal(const ScheduleRequest& request);
// Error(kConfig) with the refusal.
Schedule make_schedule(const ScheduleRequest& request);

// A schedule of the user's: one line per rank, cells separated by commas, an empty cell is a pause. `source` names the
// text in messages. Error(kConfig) at line and column: a cell that is no action, or work that is missing, done twice or
// in an impossible order (timeline.h).
Schedule parse_schedule(std::string_view csv, const std::string& source, int ranks);

}  // namespace automodel::parallel
