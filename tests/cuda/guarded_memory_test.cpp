// The guard itself, copies across devices, and messages by way of the host.
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <numeric>
#include <vector>

#include "comm/staged.h"
#include "core/error.h"
#include "ops/buffer.h"
#include "ops/device_memory.h"
#include "support/guarded_device.h"
#include "support/run_mesh.h"

using namespace automodel;
using comm::Reduce;

namespace {

// How a child of this process ends that does `body`.
template <class Body>
int end_of(Body&& body) {
  pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL);
    body();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

std::vector<float> numbers(int64_t count, int rank) {
  std::vector<float> out(static_cast<size_t>(count));
  std::iota(out.begin(), out.end(), static_cast<float>(1000 * rank));
  return out;
}

}  // namespace

TEST_CASE("a host that reads or writes the memory of a guarded device is stopped") {
  auto device = test::make_guarded_allocator();
  Tensor t = Tensor::zeros({4}, DType::kF32, *device);
  CHECK(end_of([&] { [[maybe_unused]] volatile float x = *static_cast<volatile float*>(t.raw()); }) == SIGSEGV);
  CHECK(end_of([&] { *static_cast<volatile float*>(t.raw()) = 1; }) == SIGSEGV);
  CHECK(end_of([] {}) == 0);
}

TEST_CASE("kernels of a guarded device refuse memory of the host") {
  auto device = test::make_guarded_allocator();
  auto host = make_cpu_allocator();
  Tensor there = Tensor::zeros({4}, DType::kF32, *device), here = Tensor::zeros({4}, DType::kF32, *host);
  CHECK_THROWS_WITH_AS(test::guarded_kernels().add(there, there, here),
                       "a kernel of the device was given a tensor of cpu", Error);
  CHECK_THROWS_AS(device->copy(there.raw(), here.raw(), 16), Error);
  CHECK_THROWS_AS(device->download(there.raw(), there.raw(), 16), Error);
}

TEST_CASE("tensors are copied between the host and a device, and within it") {
  auto device = test::make_guarded_allocator();
  auto host = make_cpu_allocator();
  std::vector<float> values = numbers(10, 1);
  Tensor there = Tensor::empty({10}, DType::kF32, *device), here = Tensor::empty({10}, DType::kF32, *host);
  upload(there, values);
  CHECK(to_host<float>(there) == values);
  copy(here, there);
  CHECK(to_host<float>(here) == values);
  Tensor again = there.clone();
  CHECK(to_host<float>(again.narrow(3, 2)) == std::vector<float>{1003, 1004});
  zero(here);
  copy(again, here);
  CHECK(to_host<float>(again) == std::vector<float>(10, 0));
  CHECK_THROWS_AS(upload(there, std::vector<float>(9)), Error);
  CHECK_THROWS_AS(to_host<double>(there), Error);
  auto other = test::make_guarded_allocator(1);
  CHECK_THROWS_AS(copy(Tensor::empty({10}, DType::kF32, *other), there), Error);
}

TEST_CASE("a communicator of host memory refuses memory of a device") {
  auto device = test::make_guarded_allocator();
  Tensor t = Tensor::zeros({4}, DType::kF32, *device);
  auto world = comm::World::single();
  CHECK_THROWS_AS(world.global().all_reduce(ops::buffer_of(t), Reduce::kSum), Error);
}

TEST_CASE("staged ranks exchange memory of devices as other ranks exchange the host's") {
  test::run_mesh(3, [](comm::World& world) {
    auto device = test::make_guarded_allocator();
    auto memory = ops::make_device_memory(*device);
    auto staged = comm::make_staged(world.global(), *memory);
    auto group = staged->group(std::vector<int>{2, 0, 1}, "turned");
    for (comm::Communicator* ranks : {staged.get(), group.get()}) {
      comm::Communicator& plain = world.global();
      int rank = ranks->rank(), n = ranks->size();
      auto on_device = [&](const std::vector<float>& values) {
        Tensor t = Tensor::empty({static_cast<int64_t>(values.size())}, DType::kF32, *device);
        upload(t, values);
        return t;
      };
      std::vector<float> all;
      for (int r = 0; r < n; ++r)
        for (float x : numbers(4, r)) all.push_back(x);
      std::vector<float> sums = numbers(6, 0);
      for (size_t i = 0; i < sums.size(); ++i) sums[i] = 3 * sums[i] + 3000;

      Tensor t = on_device(numbers(6, rank));
      auto pending = ranks->start_all_reduce(ops::buffer_of(t), Reduce::kSum);
      pending.wait();
      CHECK(to_host<float>(t) == sums);

      Tensor whole = Tensor::empty({4 * n}, DType::kF32, *device), part = on_device(numbers(4, rank));
      ranks->all_gather(ops::buffer_of(whole), ops::buffer_of(part));
      CHECK(to_host<float>(whole) == all);
      whole = on_device(std::vector<float>(static_cast<size_t>(4 * n), -1));
      upload(whole.narrow(4 * rank, 4), numbers(4, rank));
      ranks->all_gather(ops::buffer_of(whole), ops::buffer_of(whole.narrow(4 * rank, 4)));
      CHECK(to_host<float>(whole) == all);

      // In place: the other slices stay as they are.
      Tensor in = on_device(numbers(6, rank)), own = in.narrow(2 * rank, 2);
      ranks->reduce_scatter(ops::buffer_of(own), ops::buffer_of(in), Reduce::kSum);
      std::vector<float> expected = numbers(6, rank);
      for (int i = 2 * rank; i < 2 * rank + 2; ++i) expected[static_cast<size_t>(i)] = sums[static_cast<size_t>(i)];
      CHECK(to_host<float>(in) == expected);

      Tensor said = on_device(numbers(5, rank));
      ranks->broadcast(ops::buffer_of(said), 1);
      CHECK(to_host<float>(said) == numbers(5, 1));

      // Rank r sends s + 1 numbers to rank s; what lies behind the received ones stays.
      std::vector<int64_t> send, receive(static_cast<size_t>(n), 4 * (rank + 1));
      for (int r = 0; r < n; ++r) send.push_back(4 * (r + 1));
      Tensor out = on_device(std::vector<float>(static_cast<size_t>(n * (rank + 1) + 1), -1));
      ranks->all_to_all(ops::buffer_of(out), ops::buffer_of(on_device(numbers(6, rank))), send, receive);
      std::vector<float> got;
      for (int r = 0; r < n; ++r)
        for (int i = 0; i <= rank; ++i) got.push_back(static_cast<float>(1000 * r + rank * (rank + 1) / 2 + i));
      got.push_back(-1);
      CHECK(to_host<float>(out) == got);

      Tensor to = on_device(numbers(3, rank)), from = Tensor::empty({3}, DType::kF32, *device);
      comm::Transfer transfers[] = {comm::Transfer::send((rank + 1) % n, ops::buffer_of(to)),
                                    comm::Transfer::receive((rank + n - 1) % n, ops::buffer_of(from))};
      auto moving = ranks->start_exchange(transfers);
      while (!moving.ready()) {
      }
      moving.wait();
      CHECK(to_host<float>(from) == numbers(3, (rank + n - 1) % n));

      // Numbers of the host pass as they are, and nothing of an empty buffer.
      CHECK(ranks->reduced(1.5, Reduce::kSum) == 1.5 * n);
      Tensor none = Tensor::empty({0}, DType::kF32, *device);
      ranks->all_reduce(ops::buffer_of(none), Reduce::kSum);
      ranks->barrier();
      CHECK(plain.size() == n);
    }
    CHECK(device->stats().current_total == 0);
  });
}
