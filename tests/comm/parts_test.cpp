// The small parts: local reduction, scratch memory, waiting, signals.
#include <doctest/doctest.h>
#include <omp.h>

#include <chrono>
#include <csignal>
#include <cstring>

#include "comm/patience.h"
#include "comm/reduce.h"
#include "comm/scratch.h"
#include "comm/signals.h"
#include "core/error.h"
#include "core/rng.h"

using namespace automodel;
using std::chrono::milliseconds;

namespace {

// GCC's OpenMP synchronises by means that ThreadSanitizer does not see.
#ifdef __SANITIZE_THREAD__
constexpr bool kThreadSanitizer = true;
#else
constexpr bool kThreadSanitizer = false;
#endif

std::vector<float> tree_sum(const std::vector<std::vector<float>>& inputs) {
  std::vector<const void*> pointers;
  for (const auto& input : inputs) pointers.push_back(input.data());
  std::vector<float> out(inputs[0].size());
  comm::tree_reduce(out.data(), pointers, static_cast<int64_t>(out.size()), DType::kF32, comm::Reduce::kSum);
  return out;
}

std::vector<std::vector<float>> random_inputs(size_t n, size_t count) {
  std::vector<std::vector<float>> inputs(n, std::vector<float>(count));
  for (size_t r = 0; r < n; ++r) {
    const Random random(3, r);
    for (size_t i = 0; i < count; ++i) inputs[r][i] = random.normal(i);
  }
  return inputs;
}

}  // namespace

TEST_CASE("five contributions are added as ((0+1)+(2+3))+4") {
  // In fp32, 1 is lost next to 1e8: only this order gives the value below.
  const std::vector<std::vector<float>> inputs{{1e8f}, {1.0f}, {-1e8f}, {4.0f}, {0.5f}};
  CHECK(tree_sum(inputs)[0] == ((1e8f + 1.0f) + (-1e8f + 4.0f)) + 0.5f);
  CHECK(tree_sum(inputs)[0] != (((1e8f + 1.0f) + -1e8f) + 4.0f) + 0.5f);
}

TEST_CASE("the number of OpenMP threads does not change a bit of a large reduction" * doctest::skip(kThreadSanitizer)) {
  const auto inputs = random_inputs(5, 100003);
  omp_set_num_threads(1);
  const std::vector<float> one = tree_sum(inputs);
  omp_set_num_threads(4);
  const std::vector<float> four = tree_sum(inputs);
  omp_set_num_threads(1);
  CHECK(std::memcmp(one.data(), four.data(), one.size() * sizeof(float)) == 0);
}

TEST_CASE("the result may take the place of any contribution") {
  const auto inputs = random_inputs(6, 2000);
  const std::vector<float> want = tree_sum(inputs);
  for (size_t place = 0; place < inputs.size(); ++place) {
    auto copies = inputs;
    std::vector<const void*> pointers;
    for (const auto& copy : copies) pointers.push_back(copy.data());
    comm::tree_reduce(copies[place].data(), pointers, 2000, DType::kF32, comm::Reduce::kSum);
    CHECK(copies[place] == want);
  }
}

TEST_CASE("bf16 is added in fp32 and rounded once") {
  // 256 + 1 + 1 rounds to 258 in one go, but stays 256 when every step is rounded.
  const std::vector<bf16> inputs{to_bf16(256.0f), to_bf16(1.0f), to_bf16(1.0f)};
  std::vector<const void*> pointers;
  for (const bf16& x : inputs) pointers.push_back(&x);
  bf16 out{};
  comm::tree_reduce(&out, pointers, 1, DType::kBF16, comm::Reduce::kSum);
  CHECK(to_float(out) == 258.0f);
}

TEST_CASE("scratch memory is lent again instead of allocated") {
  comm::ScratchPool pool;
  auto large = pool.take(3 << 20);
  auto small = pool.take(5000);
  CHECK(reinterpret_cast<uintptr_t>(large.data.get()) % 64 == 0);
  CHECK(small.bytes >= 5000);
  const int64_t allocated = pool.allocated();
  const std::byte* small_data = small.data.get();
  pool.give_back(std::move(large));
  pool.give_back(std::move(small));
  for (int i = 0; i < 10; ++i) {
    auto again = pool.take(4000);
    CHECK(again.data.get() == small_data);  // the smallest that fits
    pool.give_back(std::move(again));
  }
  CHECK(pool.allocated() == allocated);
  CHECK(pool.take(0).data == nullptr);
}

TEST_CASE("patience ends at its deadline, and sleeps on the way") {
  const auto start = std::chrono::steady_clock::now();
  comm::Patience patience(0, milliseconds(50));
  int polls = 0;
  while (patience.pause()) ++polls;
  CHECK(patience.waited() >= milliseconds(50));
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
  CHECK(polls < 20000);
}

TEST_CASE("a signal becomes a flag, and former handlers come back") {
  {
    comm::Signals signals({SIGUSR1, SIGUSR2});
    CHECK(signals.received() == 0);
    CHECK_THROWS_AS(comm::Signals({SIGALRM}), Error);
    // Handlers must not write below the stack pointer of what they interrupt.
    struct sigaction handled {};
    sigaction(SIGUSR1, nullptr, &handled);
    CHECK((handled.sa_flags & SA_ONSTACK) != 0);
    stack_t stack{};
    sigaltstack(nullptr, &stack);
    CHECK(stack.ss_flags == 0);
    std::raise(SIGUSR2);
    CHECK(signals.received() == SIGUSR2);
    std::raise(SIGUSR1);
    CHECK(signals.received() == SIGUSR2);
  }
  struct sigaction now {};
  sigaction(SIGUSR1, nullptr, &now);
  const bool is_default = now.sa_handler == SIG_DFL;
  CHECK(is_default);
  comm::Signals again({SIGUSR1});
  CHECK(again.received() == 0);
}
