// The two schedules whose stages lie on the ranks in a V: rank r has stage r on the way down and 2 * ranks - 1 - r on
// the way up, so the loss comes out where the batch goes in.
#pragma once

#include <vector>

#include "parallel/schedule.h"

namespace automodel::parallel {

std::vector<Action> zero_bubble_v(int rank, const ScheduleRequest& request);
std::vector<Action> dual_pipe_v(int rank, const ScheduleRequest& request);

}  // namespace automodel::parallel
