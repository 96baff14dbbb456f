// A schedule played through: when each action runs, where ranks idle, how many microbatches are alive. Pure.
#pragma once

#include <string>
#include <vector>

#include "parallel/schedule.h"

namespace automodel::parallel {

// Units of time of each kind of work.
struct WorkTimes {
  int forward = 1;
  int backward = 2;  // whole
  int input = 1;
  int weight = 1;
};

struct TimedAction {
  Action action;
  int begin = 0;
  int end = 0;
};

struct Timeline {
  std::vector<std::vector<TimedAction>> ranks;
  int length = 0;               // from the first begin to the last end
  std::vector<int> idle;        // of each rank, over the whole length
  std::vector<int> peak_alive;  // microbatches times stages whose forward began and whose backward has not ended
  double bubble() const;        // idle time of all ranks as a share of length * ranks
};

// Why the schedule cannot run: an action twice or missing, a stage on two ranks, halves mixed with whole backwards, or
// an order in which ranks wait for each other for ever, which it names. Empty: it runs. Transfers between stages are
// received when they are needed and sent when they are made, so an order without a cycle cannot hang.
std::string fault_of(const Schedule& schedule);

// The schedule has no fault. Transfers take no time.
Timeline play(const Schedule& schedule, const WorkTimes& times = {});

// One line per rank, `width` columns at most: digits are the microbatch (modulo 10) of forwards, letters a-z of
// backwards and input halves, '#' weight halves, '.' idle.
std::string draw(const Timeline& timeline, int width);

}  // namespace automodel::parallel
