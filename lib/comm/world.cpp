#include "comm/world.h"

#include <exception>

#include "comm/single.h"
#include "comm/threads.h"
#include "core/error.h"

namespace automodel::comm {

World::World(std::unique_ptr<Communicator> global, int local_rank, int local_size, std::shared_ptr<void> runtime)
    : runtime_(std::move(runtime)),
      global_(std::move(global)),
      local_rank_(local_rank),
      local_size_(local_size),
      exceptions_at_birth_(std::uncaught_exceptions()) {}

World::~World() {
  if (global_ && std::uncaught_exceptions() > exceptions_at_birth_) {
    abort("an exception left the run; its cause was not reported");
  }
}

World World::single() {
  return World(make_single(), 0, 1);
}

std::vector<World> World::threads(int n, std::chrono::milliseconds deadline) {
  std::vector<World> worlds;
  for (auto& global : make_threads(n, deadline)) {
    const int rank = global->rank();
    worlds.push_back(World(std::move(global), rank, n));
    worlds.back().deadline_ = deadline;
  }
  return worlds;
}

World World::planning(int rank, int size, int local_size, Recorder recorder) {
  AM_CHECK(local_size >= 1, Fault::kBug, "planning: {} ranks to a node", local_size);
  return World(make_planning(rank, size, std::move(recorder)), rank % local_size, local_size);
}

void World::observe(Recorder recorder) {
  global_ = make_recording(std::move(global_), std::move(recorder));
}

void World::set_places(const std::function<std::string(int)>& place_of) {
  place_ = place_of(rank());
  global_->set_places(place_of);
}

void World::abort(std::string_view message) noexcept {
  if (place_.empty()) {
    global_->abort(message);
    return;
  }
  try {
    global_->abort("[" + place_ + "] " + std::string(message));
  } catch (...) {  // no memory for a text
    global_->abort(message);
  }
}

}  // namespace automodel::comm
