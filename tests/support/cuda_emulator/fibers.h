// The threads of a block, each on a stack of its own, run by the one thread that calls run_block(): a thread goes on
// until it waits for its warp or its block. They take turns in ascending or in descending order: what depends on that
// is a race.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>

namespace automodel::emulator {

// A kernel broke a rule of the machine: threads of a block at different barriers, a warp operation that some lane of
// its mask never reaches, an access that is not aligned.
struct KernelError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline constexpr int kWarp = 32;
inline constexpr int kMaxThreads = 1024;
inline constexpr size_t kSlotBytes = 64;

struct Slot {
  alignas(16) unsigned char bytes[kSlotBytes];
};

enum class Order { kAscending, kDescending };
// Of the threads of all blocks (and of the blocks) that the calling thread runs from now on.
void set_order(Order order);
Order order();

// Runs body() in `threads` fibers; begin(thread) is called whenever fiber `thread` goes on. Throws KernelError.
void run_block(int threads, const std::function<void(int)>& begin, const std::function<void()>& body);

// The number of the running thread in its block.
int current_thread();

// The lanes of `mask` of the running thread's warp meet; the result holds what each of them brought, and is valid until
// the thread meets again. All must name the same `place` (a line of the source, or another number).
const Slot* meet(uint32_t mask, int place, const void* data, size_t size);

// All threads of the block meet; true when one of them brought true.
bool meet_block(int place, bool value);

// Ends the running kernel with a KernelError.
[[noreturn]] void stop_kernel(const char* why);

}  // namespace automodel::emulator
