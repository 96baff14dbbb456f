// The link over NCCL, where NCCL and the CUDA runtime are functions of this file that write down how they are called.
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <nccl.h>

#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/cuda/nccl.h"
#include "comm/cuda/nccl_library.h"
#include "core/error.h"

using namespace automodel;
using comm::Buffer;
using comm::Reduce;
using comm::Transfer;

namespace {

struct World {
  std::vector<std::string> log;
  std::vector<ncclResult_t> states;  // that the next polls see; then success
  ncclResult_t next = ncclSuccess;   // of the next call that may fail
  std::string last_error;
  intptr_t handles = 100;
  int events = 0, streams = 0;  // alive
  bool passed = true;
  ncclConfig_t config{};
  int version = NCCL_VERSION_CODE;
  std::string absent;  // a function that the library lacks

  void* handle() { return reinterpret_cast<void*>(++handles); }
};
World* world = nullptr;

template <class... A>
void note(fmt::format_string<A...> format, A&&... arguments) {
  world->log.push_back(fmt::format(format, std::forward<A>(arguments)...));
}
ncclResult_t answer() {
  return std::exchange(world->next, ncclSuccess);
}
template <class T>
intptr_t number(T* handle) {
  return reinterpret_cast<intptr_t>(handle);
}

template <class F>
void* code(F* function) {
  return reinterpret_cast<void*>(function);
}

// The functions by name.
const std::map<std::string, void*>& library() {
  static const std::map<std::string, void*> fake{
      {"ncclGetVersion", code(+[](int* version) {
         *version = world->version;
         return ncclSuccess;
       })},
      {"ncclGetUniqueId", code(+[](ncclUniqueId* id) {
         std::memset(id, 7, sizeof(*id));
         return answer();
       })},
      {"ncclCommInitRankConfig", code(+[](ncclComm_t* comm, int size, ncclUniqueId id, int rank, ncclConfig_t* config) {
         *comm = static_cast<ncclComm_t>(world->handle());
         world->config = *config;
         note("init {} of {} id {}", rank, size, static_cast<int>(id.internal[5]));
         return answer();
       })},
      {"ncclCommSplit", code(+[](ncclComm_t, int color, int key, ncclComm_t* child, ncclConfig_t* config) {
         if (color >= 0) *child = static_cast<ncclComm_t>(world->handle());
         note("split {} {} blocking {}", color, key, config->blocking);
         return answer();
       })},
      {"ncclCommFinalize", code(+[](ncclComm_t) {
         note("finalize");
         return ncclInProgress;
       })},
      {"ncclCommDestroy", code(+[](ncclComm_t) {
         note("destroy");
         return ncclSuccess;
       })},
      {"ncclCommAbort", code(+[](ncclComm_t) {
         note("abort");
         return ncclSuccess;
       })},
      {"ncclCommGetAsyncError", code(+[](ncclComm_t, ncclResult_t* state) {
         *state = ncclSuccess;
         if (world->states.empty()) return ncclSuccess;
         *state = world->states.front();
         world->states.erase(world->states.begin());
         return ncclSuccess;
       })},
      {"ncclGetErrorString",
       code(+[](ncclResult_t result) { return result == ncclRemoteError ? "remote error" : "system error"; })},
      {"ncclGetLastError", code(+[](ncclComm_t) { return world->last_error.c_str(); })},
      {"ncclAllReduce", code(+[](const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                                 ncclComm_t, cudaStream_t s) {
         note("all_reduce {} {} {} type {} op {} in {}", number(in), number(out), count, int(type), int(op), number(s));
         return answer();
       })},
      {"ncclAllGather",
       code(+[](const void* in, void* out, size_t count, ncclDataType_t type, ncclComm_t, cudaStream_t s) {
         note("all_gather {} {} {} type {} in {}", number(in), number(out), count, int(type), number(s));
         return answer();
       })},
      {"ncclReduceScatter", code(+[](const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t op,
                                     ncclComm_t, cudaStream_t s) {
         note("reduce_scatter {} {} {} type {} op {} in {}", number(in), number(out), count, int(type), int(op),
              number(s));
         return answer();
       })},
      {"ncclBroadcast",
       code(+[](const void* in, void* out, size_t count, ncclDataType_t type, int root, ncclComm_t, cudaStream_t s) {
         note("broadcast {} {} {} type {} from {} in {}", number(in), number(out), count, int(type), root, number(s));
         return answer();
       })},
      {"ncclSend", code(+[](const void* data, size_t count, ncclDataType_t, int peer, ncclComm_t, cudaStream_t) {
         note("send {} x {} to {}", number(data), count, peer);
         return answer();
       })},
      {"ncclRecv", code(+[](void* data, size_t count, ncclDataType_t, int peer, ncclComm_t, cudaStream_t) {
         note("receive {} x {} from {}", number(data), count, peer);
         return answer();
       })},
      {"ncclGroupStart", code(+[] {
         note("group");
         return ncclSuccess;
       })},
      {"ncclGroupEnd", code(+[] {
         note("end");
         return ncclInProgress;
       })}};
  return fake;
}

void* at(intptr_t address) {
  return reinterpret_cast<void*>(address);
}
Buffer device_buffer(intptr_t address, int64_t count, DType dtype) {
  return {at(address), count, dtype, {Device::Kind::kCuda, 1}};
}

struct Fixture {
  Fixture() {
    world = &state;
    std::string why_not;
    link = cuda::make_nccl_link(1, at(5), why_not);
    REQUIRE(link != nullptr);
  }
  ~Fixture() {
    channel.reset();
    link.reset();
    CHECK(state.events == 0);
    CHECK(state.streams == 0);
    world = nullptr;
  }
  // A channel that is settled, with its stream 101.
  void connect() {
    channel = link->join(link->make_id(), 1, 4, "tp");
    CHECK(channel->settled());
    state.log.clear();
  }

  World state;
  std::unique_ptr<comm::DeviceLink> link;
  std::shared_ptr<comm::DeviceChannel> channel;
};

using Log = std::vector<std::string>;

}  // namespace

namespace automodel::cuda {
void* nccl_function(const char* name, std::string& why_not) {
  auto found = library().find(name);
  if (found == library().end() || name == world->absent) {
    why_not = "absent";
    return nullptr;
  }
  return found->second;
}
}  // namespace automodel::cuda

extern "C" {
cudaError_t cudaSetDevice(int) {
  return cudaSuccess;
}
cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t) {
  return "an error";
}
const char* cudaGetErrorName(cudaError_t) {
  return "cudaErrorOfTheTest";
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  CHECK(flags == cudaStreamNonBlocking);
  *stream = static_cast<cudaStream_t>(world->handle());
  ++world->streams;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) {
  --world->streams;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  CHECK(flags == cudaEventDisableTiming);
  *event = static_cast<cudaEvent_t>(world->handle());
  ++world->events;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t) {
  --world->events;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  note("record {} in {}", number(event), number(stream));
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t) {
  return world->passed ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  note("{} waits for {}", number(stream), number(event));
  return cudaSuccess;
}
}

TEST_CASE("a library that is too old, or lacks a function, is not used") {
  World state;
  world = &state;
  std::string why_not;
  state.version = 21708;
  CHECK(cuda::make_nccl_link(1, at(5), why_not) == nullptr);
  CHECK(why_not == "NCCL is version 2.17.8, at least 2.18 is needed");
  state.version = NCCL_VERSION_CODE;
  state.absent = "ncclCommSplit";
  CHECK(cuda::make_nccl_link(1, at(5), why_not) == nullptr);
  CHECK(why_not == "absent");
  world = nullptr;
}

TEST_CASE_FIXTURE(Fixture, "channels are made without blocking, and are polled until they are there") {
  state.states = {ncclInProgress, ncclInProgress};
  const comm::DeviceLink::Id id = link->make_id();
  state.next = ncclInProgress;
  channel = link->join(id, 1, 4, "tp");
  CHECK(state.log == Log{"init 1 of 4 id 7"});
  CHECK(state.config.blocking == 0);
  CHECK_FALSE(channel->settled());
  CHECK_FALSE(channel->settled());
  CHECK(channel->settled());
  CHECK(link->device() == Device{Device::Kind::kCuda, 1});
}

TEST_CASE_FIXTURE(Fixture, "a call runs after what the compute stream was given, which may wait for it in turn") {
  connect();  // its stream is 101, its communicator 102
  channel->after(*link->mark_compute());
  channel->all_reduce(device_buffer(64, 10, DType::kBF16), Reduce::kMax);
  auto done = channel->mark();
  // The event of the first mark was given back, and is used again.
  CHECK(state.log == Log{"record 103 in 5", "101 waits for 103",
                         fmt::format("all_reduce 64 64 10 type {} op {} in 101", int(ncclBfloat16), int(ncclMax)),
                         "record 103 in 101"});
  CHECK(done->passed());
  state.passed = false;
  CHECK_FALSE(done->passed());
  done->hold_compute();
  CHECK(state.log.back() == "5 waits for 103");
}

TEST_CASE_FIXTURE(Fixture, "the calls say what NCCL wants to know") {
  connect();
  const auto whole = device_buffer(64, 8, DType::kF32), part = device_buffer(96, 2, DType::kF32);
  channel->all_gather(whole, part);
  channel->reduce_scatter(part, whole, Reduce::kSum);
  channel->broadcast(whole, 3);
  for (auto [ours, theirs] : {std::pair{DType::kF64, ncclFloat64}, std::pair{DType::kI32, ncclInt32},
                              std::pair{DType::kI64, ncclInt64}, std::pair{DType::kU8, ncclUint8}}) {
    channel->all_reduce(device_buffer(64, 1, ours), Reduce::kMin);
    CHECK(state.log.back() == fmt::format("all_reduce 64 64 1 type {} op {} in 101", int(theirs), int(ncclMin)));
  }
  state.log.resize(3);
  CHECK(state.log == Log{fmt::format("all_gather 96 64 8 type {} in 101", int(ncclUint8)),
                         fmt::format("reduce_scatter 64 96 2 type {} op {} in 101", int(ncclFloat32), int(ncclSum)),
                         fmt::format("broadcast 64 64 32 type {} from 3 in 101", int(ncclUint8))});
}

TEST_CASE_FIXTURE(Fixture, "an exchange is one group, which is ended even when a message of it is refused") {
  connect();
  const Transfer transfers[] = {Transfer::send(2, device_buffer(64, 3, DType::kF32), 9),
                                Transfer::receive(0, device_buffer(96, 5, DType::kI64))};
  channel->exchange(transfers);
  const Log group{"group", "send 64 x 12 to 2", "receive 96 x 40 from 0", "end"};
  CHECK(state.log == group);
  state.log.clear();
  state.next = ncclInvalidArgument;
  CHECK_THROWS_AS(channel->exchange(transfers), Error);
  CHECK(state.log == group);
}

TEST_CASE_FIXTURE(Fixture, "ranks are split without blocking; those without a color have nothing") {
  connect();
  auto child = channel->split(2, 1, "dp");
  CHECK(child->settled());
  CHECK(channel->split(-1, 0, "none") == nullptr);
  CHECK(state.log == Log{"split 2 1 blocking 0", fmt::format("split {} 0 blocking 0", NCCL_SPLIT_NOCOLOR)});
}

TEST_CASE_FIXTURE(Fixture, "a failure is told in NCCL's words, with what helps") {
  connect();
  state.last_error = "connect to 10.0.0.7 refused";
  state.states = {ncclSystemError};
  CHECK_THROWS_WITH(channel->settled(),
                    "communication: NCCL: system error; its last words: connect to 10.0.0.7 refused; NCCL_DEBUG=WARN "
                    "tells more, NCCL_SOCKET_IFNAME names the network interface to use");
  state.last_error.clear();
  state.states = {ncclRemoteError, ncclInProgress};
  CHECK(channel->trouble() == "NCCL: remote error");
  CHECK(channel->trouble().empty());
  CHECK(channel->trouble().empty());
  state.next = ncclRemoteError;
  CHECK_THROWS_WITH(channel->all_gather(device_buffer(64, 8, DType::kF32), device_buffer(96, 2, DType::kF32)),
                    "all_gather: NCCL: remote error");
}

TEST_CASE_FIXTURE(Fixture, "an aborted channel is aborted once, and does nothing more") {
  connect();
  channel->abort();
  channel->abort();
  channel->all_reduce(device_buffer(64, 10, DType::kF32), Reduce::kSum);
  CHECK(channel->settled());
  CHECK(channel->trouble().empty());
  channel.reset();
  CHECK(state.log == Log{"abort"});
}

TEST_CASE_FIXTURE(Fixture, "a channel takes its leave, but not while an exception unwinds the stack") {
  connect();
  state.states = {ncclInProgress, ncclSuccess};
  channel.reset();
  CHECK(state.log == Log{"finalize", "destroy"});
  connect();
  try {
    auto gone = std::move(channel);
    fail(Fault::kData, "the data are gone");
  } catch (const Error&) {
  }
  CHECK(state.log == Log{"abort"});
  connect();
  state.states = {ncclRemoteError};
  channel.reset();
  CHECK(state.log == Log{"finalize", "abort"});
}
