// One process of a job whose ranks talk over NCCL: tests/cuda/nccl_test.cpp starts them with mpirun, and says in
// AUTOMODEL_NCCL_JOB what they do:
//   suite     every call, on the world and on its parts
//   hang      rank 1 never comes; the deadline is 3 s
// A breach on one rank has to end them all, so it is an exception, not an assertion.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "comm/device_ranks.h"
#include "comm/suite.h"
#include "comm/world.h"
#include "core/error.h"
#include "cuda/backend.h"
#include "ops/device_memory.h"
#include "support/on_device.h"

using namespace automodel;
using comm::buffer_of;
using comm::Communicator;
using comm::Reduce;

namespace {

template <class T>
std::vector<T> numbers(int64_t count, int rank) {
  std::vector<T> out;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t value = (i * 7 + rank * 3) % 11;
    if constexpr (std::is_same_v<T, bf16>)
      out.push_back(to_bf16(static_cast<float>(value)));
    else
      out.push_back(static_cast<T>(value));
  }
  return out;
}

template <class T>
void require(const std::vector<T>& got, const std::vector<T>& want, const char* what) {
  AM_CHECK(std::memcmp(got.data(), want.data(), got.size() * sizeof(T)) == 0, Fault::kBug, "{} of {} went wrong", what,
           name_of(comm::dtype_of<T>()));
}

// Small whole numbers, whose sums are exact in every order.
template <class T>
void check_type(Communicator& c) {
  for (int64_t count : {1, 1000, 100003}) {
    const int64_t whole = count * c.size();
    std::vector<std::vector<double>> all;
    for (int r = 0; r < c.size(); ++r) all.push_back(numbers<double>(whole, r));
    for (Reduce op : {Reduce::kSum, Reduce::kMax, Reduce::kMin}) {
      std::vector<T> want;
      for (size_t i = 0; i < static_cast<size_t>(whole); ++i) {
        double x = all[0][i];
        for (size_t r = 1; r < all.size(); ++r)
          x = op == Reduce::kSum ? x + all[r][i] : op == Reduce::kMax ? std::max(x, all[r][i]) : std::min(x, all[r][i]);
        if constexpr (std::is_same_v<T, bf16>)
          want.push_back(to_bf16(static_cast<float>(x)));
        else
          want.push_back(static_cast<T>(x));
      }
      std::vector<T> data = numbers<T>(whole, c.rank()), part(static_cast<size_t>(count));
      c.reduce_scatter(buffer_of(part), buffer_of(std::as_const(data)), op);
      const auto begin = want.begin() + count * c.rank();
      require(part, std::vector<T>(begin, begin + count), "reduce_scatter");
      std::vector<T> gathered(data.size());
      c.all_gather(buffer_of(gathered), buffer_of(std::as_const(part)));
      require(gathered, want, "all_gather");
      c.all_reduce(buffer_of(data), op);
      require(data, want, "all_reduce");
    }
    for (int root = 0; root < c.size(); ++root) {
      std::vector<T> data = numbers<T>(count, c.rank());
      c.broadcast(buffer_of(data), root);
      require(data, numbers<T>(count, root), "broadcast");
    }
  }
}

void check_all_to_all(Communicator& c) {
  std::vector<int64_t> sent, received;
  std::vector<int32_t> out, want;
  for (int r = 0; r < c.size(); ++r) {
    sent.push_back(4 * (c.rank() + 2 * r));  // nothing from rank 0 to itself
    received.push_back(4 * (r + 2 * c.rank()));
    out.insert(out.end(), static_cast<size_t>(sent.back() / 4), 100 * c.rank() + r);
    want.insert(want.end(), static_cast<size_t>(received.back() / 4), 100 * r + c.rank());
  }
  std::vector<int32_t> got(want.size());
  c.all_to_all(buffer_of(got), buffer_of(std::as_const(out)), sent, received);
  require(got, want, "all_to_all");
}

void suite(Communicator& c) {
  check_type<float>(c);
  check_type<double>(c);
  check_type<bf16>(c);
  check_type<int32_t>(c);
  check_type<int64_t>(c);
  check_type<uint8_t>(c);
  check_all_to_all(c);
  test::check_point_to_point(c);
  if (c.size() <= 2) test::check_asynchrony(c);  // with more, its sums depend on their order
  test::check_groups(c);
  std::vector<int> all;
  for (int r = 0; r < c.size(); ++r) all.push_back(r);
  auto whole = c.partition(all, "whole");
  check_type<float>(*whole);
}

void hang(Communicator& c) {
  if (c.rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(60));
  std::vector<float> data(1000);
  c.all_reduce(buffer_of(data), Reduce::kSum);
  c.barrier();
}

}  // namespace

TEST_CASE("one process of a job" * doctest::skip()) {
  const char* job = std::getenv("AUTOMODEL_NCCL_JOB");
  REQUIRE(job != nullptr);
  const bool hangs = std::string(job) == "hang";
  comm::MpiOptions options;
  options.deadline = std::chrono::seconds(60);
  comm::World world = comm::World::mpi(options);
  try {
    const cuda::Backend& backend = cuda::backend();
    AM_CHECK(backend.usable(), Fault::kDevice, "{}", backend.why_not);
    const int index = world.local_rank() % backend.devices;
    auto memory = backend.plugin->make_allocator(index);
    auto staging = ops::make_device_memory(*memory);
    auto staged = comm::make_staged(world.global(), *staging);
    std::string why_not;
    auto link = backend.plugin->make_link(index, why_not);
    AM_CHECK(link != nullptr, Fault::kDevice, "{}", why_not);
    auto ranks = comm::make_device_ranks(*staged, *link, {.deadline = std::chrono::seconds(hangs ? 3 : 60)});
    auto here = test::make_on_device(*ranks, *memory);
    hangs ? hang(*here) : suite(*here);
  } catch (const std::exception& error) {
    world.abort(error.what());
  }
}
