// On x86-64 a switch is a dozen instructions, because warp operations make millions of them; elsewhere it is ucontext.
#include "support/cuda_emulator/fibers.h"

#include <sys/mman.h>

#include <array>
#include <cstring>
#include <memory>
#include <string>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace automodel::emulator {
namespace {

constexpr size_t kStackBytes = size_t{1} << 18;

#if defined(__x86_64__)

extern "C" void automodel_emulator_switch(void** save, void* load);
asm(R"(
.text
.globl automodel_emulator_switch
.hidden automodel_emulator_switch
.type automodel_emulator_switch, @function
automodel_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size automodel_emulator_switch, .-automodel_emulator_switch
)");

struct Context {
  void* stack_pointer = nullptr;
  void start(void* stack, void (*entry)()) {
    auto** top = reinterpret_cast<void**>(static_cast<char*>(stack) + kStackBytes);
    *--top = nullptr;  // where entry would return to: it never does
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    stack_pointer = top;
  }
  static void change(Context& from, Context& to) { automodel_emulator_switch(&from.stack_pointer, to.stack_pointer); }
};

#else

struct Context {
  ucontext_t context;
  void start(void* stack, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
  static void change(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
};

#endif

enum class State { kReady, kAtWarp, kAtBlock, kDone };

struct Thread {
  Context context;
  State state = State::kDone;
  int place = 0;
  int turn = 0;  // which half of the warp's slots the next meeting uses
  uint32_t mask = 0;
};

struct Warp {
  uint32_t arrived = 0;
  Slot slots[2][kWarp];
};

struct Block {
  int threads = 0, alive = 0, running = -1, waiting = 0;
  bool any = false, any_before = false;
  std::array<Thread, kMaxThreads> thread;
  std::array<Warp, kMaxThreads / kWarp> warp;
  Context scheduler;
  char* stacks = nullptr;
  const std::function<void()>* body = nullptr;
  std::string error;

  Block() {
    void* memory = mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    stacks = static_cast<char*>(memory);
  }
  ~Block() { munmap(stacks, kStackBytes * kMaxThreads); }

  void leave(State state) {
    Thread& t = thread[static_cast<size_t>(running)];
    t.state = state;
    Context::change(t.context, scheduler);
  }
  void resume(int i) {
    running = i;
    Thread& t = thread[static_cast<size_t>(i)];
    Context::change(scheduler, t.context);
    running = -1;
  }
};

Block& block() {
  thread_local std::unique_ptr<Block> made = std::make_unique<Block>();
  return *made;
}

void fiber_entry() {
  Block& b = block();
  (*b.body)();
  --b.alive;
  b.leave(State::kDone);
}

std::string who(int thread, const Thread& t) {
  const char* what = t.state == State::kAtWarp    ? " waits for its warp at "
                     : t.state == State::kAtBlock ? " waits for its block at "
                                                  : " has ended, started at ";
  return "thread " + std::to_string(thread) + what + std::to_string(t.place);
}

void release_warp(Block& b, int warp, uint32_t mask) {
  for (int lane = 0; lane < kWarp; ++lane)
    if ((mask >> lane & 1) != 0) b.thread[static_cast<size_t>(warp * kWarp + lane)].state = State::kReady;
  b.warp[static_cast<size_t>(warp)].arrived &= ~mask;
}

void release_block(Block& b) {
  for (int i = 0; i < b.threads; ++i) b.thread[static_cast<size_t>(i)].state = State::kReady;
  b.waiting = 0;
  b.any_before = b.any;
  b.any = false;
}

thread_local Order chosen_order = Order::kAscending;

}  // namespace

void set_order(Order order) {
  chosen_order = order;
}
Order order() {
  return chosen_order;
}

void run_block(int threads, const std::function<void(int)>& begin, const std::function<void()>& body) {
  if (threads < 1 || threads > kMaxThreads) throw KernelError("a block of " + std::to_string(threads) + " threads");
  Block& b = block();
  if (b.running >= 0) throw KernelError("a kernel started a kernel");
  b.threads = b.alive = threads;
  b.waiting = 0;
  b.any = false;
  b.body = &body;
  b.error.clear();
  for (Warp& w : b.warp) w.arrived = 0;
  for (int i = 0; i < threads; ++i) {
    Thread& t = b.thread[static_cast<size_t>(i)];
    t.context.start(b.stacks + static_cast<size_t>(i) * kStackBytes, fiber_entry);
    t.state = State::kReady;
    t.place = t.turn = 0;
  }
  while (b.alive > 0) {
    bool progress = false;
    for (int turn = 0; turn < threads; ++turn) {
      int i = chosen_order == Order::kAscending ? turn : threads - 1 - turn;
      if (b.thread[static_cast<size_t>(i)].state != State::kReady) continue;
      progress = true;
      begin(i);
      b.resume(i);
      if (!b.error.empty()) throw KernelError(b.error);
    }
    if (progress || b.alive == 0) continue;
    std::string message = "no thread of the block can go on:";
    for (int i = 0, named = 0; i < threads && named < 4; ++i) {
      const Thread& t = b.thread[static_cast<size_t>(i)];
      if (i > 0 && t.state == b.thread[static_cast<size_t>(i - 1)].state) continue;
      message += (named++ == 0 ? " " : "; ") + who(i, t);
    }
    throw KernelError(message);
  }
}

int current_thread() {
  return block().running;
}

const Slot* meet(uint32_t mask, int place, const void* data, size_t size) {
  Block& b = block();
  int me = b.running, warp = me / kWarp;
  uint32_t bit = uint32_t{1} << (me % kWarp);
  Thread& t = b.thread[static_cast<size_t>(me)];
  Warp& w = b.warp[static_cast<size_t>(warp)];
  if ((mask & bit) == 0) stop_kernel("a lane is not in the mask of its own warp operation");
  if (size > kSlotBytes) stop_kernel("a lane brings too much to its warp");
  if (size > 0) std::memcpy(w.slots[t.turn][me % kWarp].bytes, data, size);
  const Slot* result = w.slots[t.turn];
  t.place = place;
  t.mask = mask;
  t.turn ^= 1;
  for (uint32_t left = w.arrived & mask; left != 0; left &= left - 1) {
    const Thread& other = b.thread[static_cast<size_t>(warp * kWarp + __builtin_ctz(left))];
    if (other.place != place || other.mask != mask || other.turn != t.turn)
      stop_kernel(
          ("lanes of one warp meet at " + std::to_string(place) + " and " + std::to_string(other.place)).c_str());
  }
  w.arrived |= bit;
  bool complete = (w.arrived & mask) == mask;
  if (complete) {
    release_warp(b, warp, mask);
    t.state = State::kReady;
    return result;
  }
  b.leave(State::kAtWarp);
  return result;
}

bool meet_block(int place, bool value) {
  Block& b = block();
  Thread& t = b.thread[static_cast<size_t>(b.running)];
  t.place = place;
  if (b.alive != b.threads) stop_kernel("a barrier after a thread of the block has ended");
  for (int i = 0; b.waiting > 0 && i < b.threads; ++i) {
    const Thread& other = b.thread[static_cast<size_t>(i)];
    if (other.state != State::kAtBlock) continue;
    if (other.place != place)
      stop_kernel(
          ("threads of one block wait at " + std::to_string(place) + " and " + std::to_string(other.place)).c_str());
    break;
  }
  b.any = b.any || value;
  ++b.waiting;
  if (b.waiting == b.threads) {
    release_block(b);
    return b.any_before;
  }
  b.leave(State::kAtBlock);
  return b.any_before;
}

void stop_kernel(const char* why) {
  Block& b = block();
  if (b.running < 0) throw KernelError(why);
  b.error = std::string(why) + " (thread " + std::to_string(b.running) + ")";
  b.leave(State::kDone);
  __builtin_unreachable();
}

}  // namespace automodel::emulator
