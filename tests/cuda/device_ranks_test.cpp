// Communicators that send from device to device, over a stand-in for NCCL on guarded devices.
#include <doctest/doctest.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "comm/device_ranks.h"
#include "comm/mesh.h"
#include "comm/suite.h"
#include "core/error.h"
#include "ops/device_memory.h"
#include "support/guarded_device.h"
#include "support/on_device.h"
#include "support/run_mesh.h"
#include "support/thread_link.h"
#include "tensor/tensor.h"

using namespace automodel;
using comm::Communicator;
using comm::Reduce;
using comm::Transfer;
using std::chrono::milliseconds;
using test::ThreadNetwork;

namespace {

// What a rank has on its device.
struct DeviceRank {
  DeviceRank(comm::World& world, ThreadNetwork& network, const comm::DeviceRanksOptions& options = {})
      : allocator(test::make_guarded_allocator()),
        memory(ops::make_device_memory(*allocator)),
        staged(comm::make_staged(world.global(), *memory)),
        link(network.link(world.rank(), 0)),
        ranks(comm::make_device_ranks(*staged, *link, options)) {}

  Tensor tensor(const std::vector<float>& values) const {
    Tensor t = Tensor::empty({static_cast<int64_t>(values.size())}, DType::kF32, *allocator);
    upload(t, values);
    return t;
  }

  std::unique_ptr<Allocator> allocator;
  std::unique_ptr<comm::DeviceMemory> memory;
  std::unique_ptr<Communicator> staged;
  std::unique_ptr<comm::DeviceLink> link;
  std::unique_ptr<Communicator> ranks;
};

comm::Buffer buffer_of(const Tensor& t) {
  return {t.raw(), t.numel(), t.dtype(), t.device()};
}

using Check = void (*)(Communicator&);

void check_on_devices(int n, Check check) {
  ThreadNetwork network;
  test::run_mesh(n, [&](comm::World& world) {
    DeviceRank rank(world, network);
    auto here = test::make_on_device(*rank.ranks, *rank.allocator);
    check(*here);
  });
  CHECK(network.channels() == 0);
}

// The message of the Error that each rank gets, by rank; the body is run on all.
std::vector<std::string> failures_of(int n, const std::function<void(comm::World&)>& body) {
  std::vector<std::string> out(static_cast<size_t>(n));
  try {
    test::run_mesh(n, [&](comm::World& world) {
      try {
        body(world);
      } catch (const std::exception& e) {
        out[static_cast<size_t>(world.rank())] = e.what();
        throw;
      }
    });
  } catch (const std::exception&) {
  }
  return out;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("collectives of device memory give what the hosts' give") {
  for (int n : {1, 2, 3, 4}) check_on_devices(n, test::check_collectives);
}

TEST_CASE("messages between devices keep their order and their tags, though the library knows no tags") {
  for (int n : {1, 2, 3}) check_on_devices(n, test::check_point_to_point);
}

TEST_CASE("operations of devices may be waited for in any order") {
  for (int n : {1, 2, 3}) check_on_devices(n, test::check_asynchrony);
}

TEST_CASE("communicators of devices split, and split again") {
  for (int n : {1, 2, 3, 4, 5}) check_on_devices(n, test::check_groups);
}

TEST_CASE("memory of the host goes by way of the hosts") {
  ThreadNetwork network;
  test::run_mesh(2, [&](comm::World& world) {
    DeviceRank rank(world, network);
    const size_t before = network.calls(world.rank()).size();
    CHECK(rank.ranks->reduced(1.5, Reduce::kSum) == 3.0);
    rank.ranks->barrier();
    test::check_collectives(*rank.ranks);
    test::check_point_to_point(*rank.ranks);
    CHECK(network.calls(world.rank()).size() == before);
    CHECK(rank.ranks->reaches({}));
    CHECK(rank.ranks->reaches({Device::Kind::kCuda, 0}));
    CHECK_FALSE(rank.ranks->reaches({Device::Kind::kCuda, 1}));
  });
}

TEST_CASE("one channel is joined and the others are split from it, in the same order on all ranks") {
  ThreadNetwork network;
  test::run_mesh(4, [&](comm::World& world) {
    DeviceRank rank(world, network);
    comm::MeshGroups groups(comm::DeviceMesh({{"dp", 2}, {"tp", 2}}), *rank.ranks);
    Communicator& tp = groups.along({"tp"});
    Communicator& dp = groups.along({"dp"});
    Tensor one = rank.tensor({1.0f + static_cast<float>(world.rank())});
    tp.all_reduce(buffer_of(one), Reduce::kSum);
    dp.all_reduce(buffer_of(one), Reduce::kSum);
    CHECK(to_host<float>(one)[0] == 10);
    // The members alone.
    if (world.rank() == 1 || world.rank() == 2) rank.ranks->group(std::vector<int>{2, 1}, "pair");
  });
  for (int r = 0; r < 4; ++r) {
    std::vector<std::string> want{fmt::format("join 'world' {} of 4", r),
                                  fmt::format("split 'tp' {} {}", r / 2 * 2, r % 2),
                                  fmt::format("split 'dp' {} {}", r % 2, r / 2), "all_reduce 'tp'", "all_reduce 'dp'"};
    if (r == 1 || r == 2) want.push_back(fmt::format("join 'pair' {} of 2", 2 - r));
    CHECK(network.calls(r) == want);
  }
}

TEST_CASE("messages of several tags pass in the order in which each side wants them") {
  ThreadNetwork network;
  test::run_mesh(2, [&](comm::World& world) {
    DeviceRank rank(world, network);
    std::vector<Tensor> tensors;
    std::vector<comm::Pending> pending;
    constexpr int kTags = 4, kEach = 3;
    for (int i = 0; i < kTags * kEach; ++i) tensors.push_back(rank.tensor({world.rank() == 0 ? float(i) : -1.0f}));
    for (int k = 0; k < kTags * kEach; ++k) {
      // The sender goes round the tags; the receiver takes one after the other, from the last.
      const int tag = world.rank() == 0 ? k % kTags : kTags - 1 - k / kEach;
      const int number = world.rank() == 0 ? k / kTags : k % kEach;
      const auto buffer = buffer_of(tensors[static_cast<size_t>(tag * kEach + number)]);
      const auto transfer = world.rank() == 0 ? Transfer::send(1, buffer, tag) : Transfer::receive(0, buffer, tag);
      pending.push_back(rank.ranks->start_exchange({&transfer, 1}));
    }
    // The answer is wanted before the messages are waited for, and has the same tag as one of them.
    Tensor answer = rank.tensor({7.0f + static_cast<float>(world.rank())});
    if (world.rank() == 0)
      rank.ranks->receive(1, buffer_of(answer), 2);
    else
      rank.ranks->send(0, buffer_of(answer), 2);
    for (comm::Pending& p : pending) p.wait();
    CHECK(to_host<float>(answer)[0] == 8);
    for (int i = 0; i < kTags * kEach; ++i)
      CHECK(to_host<float>(tensors[static_cast<size_t>(i)])[0] == static_cast<float>(i));
  });
  CHECK(network.channels() == 0);
}

TEST_CASE("a lane opens while its ranks wait for something of the hosts") {
  ThreadNetwork network;
  test::run_mesh(2, [&](comm::World& world) {
    DeviceRank rank(world, network);
    Tensor data = rank.tensor({static_cast<float>(world.rank())});
    if (world.rank() == 0) {
      const auto transfer = Transfer::send(1, buffer_of(data));
      comm::Pending sending = rank.ranks->start_exchange({&transfer, 1});
      rank.ranks->barrier();  // which rank 1 comes to when it has the message
      sending.wait();
    } else {
      rank.ranks->receive(0, buffer_of(data));
      rank.ranks->barrier();
      CHECK(to_host<float>(data)[0] == 0);
    }
  });
}

TEST_CASE("a rank that does not come is told of after the deadline, with the call and the place in the mesh") {
  ThreadNetwork network;
  auto failures = failures_of(2, [&](comm::World& world) {
    DeviceRank rank(world, network, {.deadline = milliseconds(150), .grace = milliseconds(5000), .place = "pp 3"});
    rank.ranks->set_places([](int r) { return "dp " + std::to_string(r); });
    Tensor data = rank.tensor({1, 2, 3});
    if (world.rank() == 1) {
      world.global().barrier();  // for ever
      return;
    }
    // The host is let go when the watch aborts, and the next call tells.
    rank.ranks->all_reduce(buffer_of(data), Reduce::kSum);
    rank.ranks->all_reduce(buffer_of(data), Reduce::kSum);
  });
  CHECK(contains(failures[0], "rank 0 [dp 0] waited "));
  CHECK(contains(failures[0], " ms for all_reduce of 3 x float32 on 'world' (rank 0 of 2) between devices"));
  CHECK(contains(failures[1], "rank 0 failed: "));  // which frees the other
}

TEST_CASE("a message whose other half never starts is told of after the deadline") {
  ThreadNetwork network;
  auto failures = failures_of(2, [&](comm::World& world) {
    DeviceRank rank(world, network, {.deadline = milliseconds(150), .grace = milliseconds(5000)});
    Tensor data = rank.tensor({1, 2});
    if (world.rank() == 1) return world.global().barrier();
    rank.ranks->receive(1, buffer_of(data), 9);
  });
  CHECK(contains(failures[0], " ms for rank 1 to start its half of a receive of 8 bytes, tag 9, on 'world'"));
}

TEST_CASE("a rank that stays away for good is ended from below") {
  ThreadNetwork network;
  auto failures = failures_of(2, [&](comm::World& world) {
    DeviceRank rank(world, network, {.deadline = milliseconds(100), .grace = milliseconds(50)});
    Tensor data = rank.tensor({1});
    if (world.rank() == 0) {
      auto pending = rank.ranks->start_all_reduce(buffer_of(data), Reduce::kSum);
      world.global().barrier();  // for ever, and unknown to the watch
      pending.wait();
      return;
    }
    std::this_thread::sleep_for(milliseconds(400));
    world.global().barrier();
  });
  CHECK(contains(failures[0], "all_reduce of 1 x float32"));
  CHECK(contains(failures[0], "rank 0 failed: "));
  CHECK(contains(failures[1], "all_reduce of 1 x float32"));
}

TEST_CASE("trouble of the library ends the run with its words") {
  ThreadNetwork network;
  auto failures = failures_of(2, [&](comm::World& world) {
    DeviceRank rank(world, network, {.deadline = milliseconds(20000), .grace = milliseconds(5000), .place = "pp 3"});
    Tensor data = rank.tensor({1});
    rank.ranks->all_reduce(buffer_of(data), Reduce::kSum);
    if (world.rank() == 1) network.break_rank(1, "NCCL: remote process exited");
    for (;;) {
      rank.ranks->barrier();
      std::this_thread::sleep_for(milliseconds(1));
    }
  });
  CHECK(contains(failures[1], "rank 1 [pp 3] failed: NCCL: remote process exited"));
  CHECK(contains(failures[0], "NCCL: remote process exited"));
}

TEST_CASE("an exception unwinds past messages between devices without waiting for them") {
  ThreadNetwork network;
  auto failures = failures_of(2, [&](comm::World& world) {
    DeviceRank rank(world, network);
    Tensor data = rank.tensor({1}), more = rank.tensor({1});
    comm::Pending sum, message;
    if (world.rank() == 0) {
      sum = rank.ranks->start_all_reduce(buffer_of(data), Reduce::kSum);
      const auto transfer = Transfer::send(1, buffer_of(more));
      message = rank.ranks->start_exchange({&transfer, 1});
      fail(Fault::kData, "the data are gone");
    }
    world.global().barrier();
  });
  CHECK(failures[0] == "the data are gone");
  CHECK(network.channels() == 0);
}
