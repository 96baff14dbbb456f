#include "support/run_mesh.h"

#include <omp.h>

#include <exception>
#include <mutex>
#include <thread>

namespace automodel::test {

void run_mesh(int n, const std::function<void(comm::World&)>& body, std::chrono::milliseconds deadline) {
  std::vector<comm::World> worlds = comm::World::threads(n, deadline);
  std::mutex mutex;
  std::exception_ptr first;
  std::vector<std::thread> threads;
  for (comm::World& world : worlds) {
    threads.emplace_back([&] {
      omp_set_num_threads(1);
      try {
        body(world);
      } catch (...) {
        std::exception_ptr failure = std::current_exception();
        std::string message = "a test's assertion failed";
        try {
          std::rethrow_exception(failure);
        } catch (const std::exception& e) {
          message = e.what();
        } catch (...) {
        }
        {
          std::lock_guard lock(mutex);
          if (!first) first = failure;
        }
        world.abort(message);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace automodel::test
