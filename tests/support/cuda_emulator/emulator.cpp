#include "support/cuda_emulator/emulator.h"

#include <array>
#include <deque>
#include <memory>

#include "ops/cuda/runtime.h"

namespace automodel::emulator {
namespace {

struct Copy {
  void* to;
  const void* from;  // nullptr: zeros
};
using Copies = std::vector<Copy>;

struct Machine {
  std::unique_ptr<unsigned char, void (*)(void*)> shared{nullptr, std::free};
  std::array<std::deque<Copies>, kMaxThreads> copies;  // of each thread; the last group is open
  std::unique_ptr<unsigned char[]> scratch;
};

Machine& machine() {
  thread_local Machine m;
  return m;
}

// Not a byte more than asked for; 128 bytes of alignment as on the device.
unsigned char* shared_memory_of(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 128, bytes) != 0) throw std::bad_alloc();
  std::memset(memory, 0xff, bytes);
  return static_cast<unsigned char*>(memory);
}

}  // namespace

void* shared_bytes() {
  return machine().shared.get();
}

void run(const Grid& grid, const std::function<void()>& body) {
  if (grid.blocks.x == 0 || grid.blocks.y == 0 || grid.blocks.z == 0) throw KernelError("a launch of no blocks");
  Machine& m = machine();
  auto threads = static_cast<int>(grid.threads.x * grid.threads.y * grid.threads.z);
  blockDim = grid.threads;
  gridDim = grid.blocks;
  auto begin = [&](int thread) {
    auto t = static_cast<unsigned>(thread);
    threadIdx = dim3(t % grid.threads.x, t / grid.threads.x % grid.threads.y, t / (grid.threads.x * grid.threads.y));
  };
  if (grid.blocks.y > 65535 || grid.blocks.z > 65535) throw KernelError("more than 65535 blocks along y or z");
  if (grid.shared > 227 * 1024) throw KernelError("a block has at most 227 KiB of shared memory");
  uint64_t blocks = uint64_t{grid.blocks.x} * grid.blocks.y * grid.blocks.z;
  for (uint64_t turn = 0; turn < blocks; ++turn) {
    uint64_t at = order() == Order::kAscending ? turn : blocks - 1 - turn;
    blockIdx =
        dim3(static_cast<unsigned>(at % grid.blocks.x), static_cast<unsigned>(at / grid.blocks.x % grid.blocks.y),
             static_cast<unsigned>(at / grid.blocks.x / grid.blocks.y));
    m.shared.reset(grid.shared == 0 ? nullptr : shared_memory_of(grid.shared));
    for (int t = 0; t < threads; ++t) m.copies[static_cast<size_t>(t)].clear();
    run_block(threads, begin, body);
    for (int t = 0; t < threads; ++t)
      for (const Copies& group : m.copies[static_cast<size_t>(t)])
        if (!group.empty()) throw KernelError("a kernel ended before a copy that it started");
  }
}

}  // namespace automodel::emulator

namespace automodel::ops::cuda {

// ops/cuda/runtime.h, for the emulated device. --------------------------------------------------------------------

void use_stream(void*) {}
void* stream() {
  return nullptr;
}
void* scratch(size_t bytes) {
  // Anew and full of NaN at every call: what a kernel relies on, it has written.
  auto& memory = emulator::machine().scratch;
  memory.reset(new unsigned char[bytes + 1]);
  std::memset(memory.get(), 0xff, bytes);
  return memory.get();
}
int multiprocessors() {
  return 2;
}
size_t most_shared_memory() {
  return 227 * 1024;
}
void set_zero(void* data, size_t bytes) {
  if (bytes > 0) std::memset(data, 0, bytes);
}

// Asynchronous copies, matrices of a warp. ------------------------------------------------------------------------

namespace {
std::deque<emulator::Copies>& copies() {
  auto& groups = emulator::machine().copies[static_cast<size_t>(emulator::current_thread())];
  if (groups.empty()) groups.emplace_back();
  return groups;
}
}  // namespace

void copy_async_16(void* shared, const void* global, bool valid) {
  check_aligned(shared, 16);
  if (valid) check_aligned(global, 16);
  copies().back().push_back({shared, valid ? global : nullptr});
}
void copy_async_commit() {
  copies().emplace_back();
}
void copy_async_wait(int groups_left) {
  auto& groups = copies();
  while (static_cast<int>(groups.size()) > groups_left + 1) {
    for (const emulator::Copy& c : groups.front()) {
      if (c.from == nullptr)
        std::memset(c.to, 0, 16);
      else
        std::memcpy(c.to, c.from, 16);
    }
    groups.pop_front();
  }
}

namespace {
struct Pair {
  uint16_t low, high;
};
Pair halves(uint32_t word) {
  return {static_cast<uint16_t>(word), static_cast<uint16_t>(word >> 16)};
}
float number(const emulator::Slot& slot, int word, int half) {
  uint32_t bits;
  std::memcpy(&bits, slot.bytes + 4 * word, 4);
  return to_float(bf16{half == 0 ? halves(bits).low : halves(bits).high});
}

// Matrix m of four has the rows that lanes 8 m .. 8 m + 7 point to.
void load(uint32_t (&to)[4], const void* row, bool transposed, int line) {
  check_aligned(row, 16);
  const emulator::Slot* slots = emulator::meet(0xffffffffu, line, &row, sizeof(row));
  int lane = emulator::current_thread() % 32;
  for (int m = 0; m < 4; ++m) {
    auto at = [&](int r, int c) {
      const uint16_t* from;
      std::memcpy(&from, slots[8 * m + r].bytes, sizeof(from));
      return from[c];
    };
    int i = lane / 4, j = 2 * (lane % 4);
    uint32_t low = transposed ? at(j, i) : at(i, j), high = transposed ? at(j + 1, i) : at(i, j + 1);
    to[m] = low | high << 16;
  }
  // The rows may be overwritten once all lanes have read them.
  emulator::meet(0xffffffffu, -line, nullptr, 0);
}
}  // namespace

void load_matrices(uint32_t (&to)[4], const void* row, int line) {
  load(to, row, false, line);
}
void load_matrices_transposed(uint32_t (&to)[4], const void* row, int line) {
  load(to, row, true, line);
}

// PTX mma.sync.m16n8k16: lane l holds of A rows l/4 and l/4 + 8, columns 2 (l%4) + {0, 1} and 8 more; of B the same
// places of its transpose [8][16]; of C rows l/4 and l/4 + 8, columns 2 (l%4) + {0, 1}.
void multiply_tile(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, int line) {
  uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  const emulator::Slot* slots = emulator::meet(0xffffffffu, line, mine, sizeof(mine));
  int lane = emulator::current_thread() % 32;
  for (int i = 0; i < 4; ++i) {
    int row = lane / 4 + 8 * (i / 2), col = 2 * (lane % 4) + i % 2;
    float sum = 0;
    for (int k = 0; k < 16; ++k) {
      int holder_column = k % 8 / 2;
      float x = number(slots[row % 8 * 4 + holder_column], row / 8 + 2 * (k / 8), k % 2);
      float y = number(slots[col * 4 + holder_column], 4 + k / 8, k % 2);
      sum += x * y;
    }
    c[i] += sum;
  }
}

}  // namespace automodel::ops::cuda
