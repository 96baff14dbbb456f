#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "comm/single.h"
#include "comm/suite.h"
#include "core/error.h"
#include "support/run_mesh.h"

using namespace automodel;
using comm::Reduce;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

// The message of the Error that `body` throws on a mesh; the test fails when there is none, or when it takes 5 s.
std::string failure_of(int n, const std::function<void(comm::World&)>& body, milliseconds deadline = seconds(60)) {
  const auto start = Clock::now();
  std::string message;
  try {
    test::run_mesh(n, body, deadline);
  } catch (const std::exception& e) {
    message = e.what();
  }
  CHECK(Clock::now() - start < seconds(5));
  CHECK_FALSE(message.empty());
  return message;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("collectives of 1 to 5 and 8 ranks give the canonical sums, bit by bit") {
  for (int n : {1, 2, 3, 4, 5, 8}) {
    CAPTURE(n);
    test::run_mesh(n, [](comm::World& world) { test::check_collectives(world.global()); });
  }
}

TEST_CASE("messages between two ranks keep their order and their tags") {
  for (int n : {1, 2, 3, 5}) {
    test::run_mesh(n, [](comm::World& world) { test::check_point_to_point(world.global()); });
  }
}

TEST_CASE("operations in flight may be waited for in any order") {
  for (int n : {1, 2, 3, 4, 5, 8}) {
    test::run_mesh(n, [](comm::World& world) { test::check_asynchrony(world.global()); });
  }
}

TEST_CASE("communicators split, and split again") {
  for (int n : {1, 2, 3, 4, 5, 8}) {
    test::run_mesh(n, [](comm::World& world) { test::check_groups(world.global()); });
  }
}

TEST_CASE("a world of one rank passes the same checks") {
  comm::World world = comm::World::single();
  test::check_collectives(world.global());
  test::check_point_to_point(world.global());
  test::check_asynchrony(world.global());
  test::check_groups(world.global());
  CHECK(world.size() == 1);
  CHECK(world.local_size() == 1);
}

TEST_CASE("a rank that throws frees the others with its message") {
  std::atomic<int> woken{0};
  const std::string message = failure_of(4, [&](comm::World& world) {
    if (world.rank() == 2) fail(Fault::kData, "the data of rank 2 are gone");
    try {
      world.global().barrier();
    } catch (const Error& e) {
      CHECK(e.fault() == Fault::kComm);
      CHECK(std::string(e.what()) == "rank 2 failed: the data of rank 2 are gone");
      ++woken;
      throw;
    }
  });
  CHECK(message == "the data of rank 2 are gone");
  CHECK(woken == 3);
}

TEST_CASE("abort reaches ranks that wait in another communicator, and later calls") {
  std::atomic<bool> split_done{false};
  failure_of(4, [&](comm::World& world) {
    auto pair = world.global().split(world.rank() / 2, 0, "pair");
    world.set_places([](int rank) { return "tp " + std::to_string(rank % 2); });
    if (world.rank() == 3) {
      while (!split_done) std::this_thread::yield();
      world.abort("out of memory");
      fail(Fault::kBug, "out of memory");
    }
    if (world.rank() == 2) {
      split_done = true;
      std::vector<float> data(10);
      CHECK_THROWS_WITH(pair->receive(1, comm::buffer_of(data)), "rank 3 failed: [tp 1] out of memory");
      CHECK_THROWS_WITH(pair->barrier(), "rank 3 failed: [tp 1] out of memory");
      CHECK_THROWS_WITH(world.global().barrier(), "rank 3 failed: [tp 1] out of memory");
    } else {
      world.global().barrier();
    }
  });
}

TEST_CASE("a rank that does not come is named after the deadline") {
  const std::string message = failure_of(
      3,
      [](comm::World& world) {
        std::vector<float> data(1000);
        if (world.rank() != 1) world.global().all_reduce(comm::buffer_of(data), Reduce::kSum);
      },
      milliseconds(200));
  CHECK(contains(message, "waited 200 ms for all_reduce sum of 1000 x float32 on 'world'"));
  CHECK(contains(message, "still missing: rank 1;"));
}

TEST_CASE("ranks that call different things are told both calls") {
  const std::string message = failure_of(2, [](comm::World& world) {
    std::vector<float> data(world.rank() == 0 ? 4 : 8);
    world.global().all_reduce(comm::buffer_of(data), Reduce::kSum);
  });
  CHECK(contains(message, "all_reduce sum of 4 x float32"));
  CHECK(contains(message, "all_reduce sum of 8 x float32"));
}

TEST_CASE("a message of another size than expected is an error") {
  const std::string message = failure_of(2, [](comm::World& world) {
    std::vector<float> data(world.rank() == 0 ? 4 : 8);
    if (world.rank() == 0) world.global().send(1, comm::buffer_of(data));
    if (world.rank() == 1) world.global().receive(0, comm::buffer_of(data));
  });
  CHECK(contains(message, "rank 1 expects 32 bytes from rank 0, which sends 16"));
}

TEST_CASE("an exception unwinds past operations in flight without waiting for them") {
  const std::string message = failure_of(2, [](comm::World& world) {
    std::vector<float> data(100);
    comm::Pending pending;
    if (world.rank() == 0) {
      pending = world.global().start_all_reduce(comm::buffer_of(data), Reduce::kSum);
      fail(Fault::kBug, "on the way");
    }
    std::this_thread::sleep_for(milliseconds(20));
    world.global().barrier();
  });
  CHECK(message == "on the way");
}

TEST_CASE("calls that break their contract are refused") {
  auto c = comm::make_single();
  std::vector<float> three(3), four(4);
  std::vector<double> doubles(3);
  CHECK_THROWS_AS(c->all_gather(comm::buffer_of(four), comm::buffer_of(std::as_const(three))), Error);
  CHECK_THROWS_AS(c->all_gather(comm::buffer_of(three), comm::buffer_of(std::as_const(doubles))), Error);
  CHECK_THROWS_AS(c->broadcast(comm::buffer_of(three), 1), Error);
  CHECK_THROWS_AS(c->send(1, comm::buffer_of(three)), Error);
  CHECK_THROWS_AS(c->send(0, comm::buffer_of(three), comm::Transfer::kMaxTag + 1), Error);
  CHECK_THROWS_AS(c->all_reduce({three.data(), 3, DType::kBool}, Reduce::kSum), Error);
  const std::vector<int64_t> bytes{16};
  CHECK_THROWS_AS(c->all_to_all(comm::buffer_of(three), comm::buffer_of(std::as_const(three)), bytes, bytes), Error);
}

TEST_CASE("world tells local and global positions") {
  test::run_mesh(3, [](comm::World& world) {
    CHECK(world.size() == 3);
    CHECK(world.local_size() == 3);
    CHECK(world.local_rank() == world.rank());
    CHECK(world.is_main() == (world.rank() == 0));
  });
  comm::World planned = comm::World::planning(9, 16, 8, nullptr);
  CHECK(planned.rank() == 9);
  CHECK(planned.local_rank() == 1);
  CHECK(planned.local_size() == 8);
}
