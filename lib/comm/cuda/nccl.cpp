#include "comm/cuda/nccl.h"

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <chrono>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "comm/cuda/nccl_library.h"
#include "core/error.h"

namespace automodel::cuda {
namespace {

using comm::Buffer;
using comm::ConstBuffer;
using comm::Reduce;
using comm::Transfer;

void check(cudaError_t error, int device, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  fail(Fault::kDevice, "cuda:{}: {} failed: {} ({})", device, what, cudaGetErrorString(error), cudaGetErrorName(error));
}

// The functions of libnccl that are called.
struct NcclLibrary {
  decltype(&::ncclGetVersion) get_version;
  decltype(&::ncclGetUniqueId) get_unique_id;
  decltype(&::ncclCommInitRankConfig) init_rank;
  decltype(&::ncclCommSplit) split;
  decltype(&::ncclCommFinalize) finalize;
  decltype(&::ncclCommDestroy) destroy;
  decltype(&::ncclCommAbort) abort;
  decltype(&::ncclCommGetAsyncError) get_async_error;
  decltype(&::ncclGetErrorString) error_string;
  decltype(&::ncclGetLastError) last_error;
  decltype(&::ncclAllReduce) all_reduce;
  decltype(&::ncclAllGather) all_gather;
  decltype(&::ncclReduceScatter) reduce_scatter;
  decltype(&::ncclBroadcast) broadcast;
  decltype(&::ncclSend) send;
  decltype(&::ncclRecv) receive;
  decltype(&::ncclGroupStart) group_start;
  decltype(&::ncclGroupEnd) group_end;
};

constexpr int kOldest = NCCL_VERSION(2, 18, 0);  // the first that splits communicators

// False, with a clause that says why, where the library cannot be used.
bool find_functions(NcclLibrary& n, std::string& why_not) {
  auto find = [&]<class Function>(const char* name, Function& function) {
    function = reinterpret_cast<Function>(nccl_function(name, why_not));
    return function != nullptr;
  };
  int version = 0;
  if (!find("ncclGetVersion", n.get_version)) return false;
  if (n.get_version(&version) != ncclSuccess || version < kOldest) {
    why_not = fmt::format("NCCL is version {}.{}.{}, at least 2.18 is needed", version / 10000, version % 10000 / 100,
                          version % 100);
    return false;
  }
  return find("ncclGetUniqueId", n.get_unique_id) && find("ncclCommInitRankConfig", n.init_rank) &&
         find("ncclCommSplit", n.split) && find("ncclCommFinalize", n.finalize) && find("ncclCommDestroy", n.destroy) &&
         find("ncclCommAbort", n.abort) && find("ncclCommGetAsyncError", n.get_async_error) &&
         find("ncclGetErrorString", n.error_string) && find("ncclGetLastError", n.last_error) &&
         find("ncclAllReduce", n.all_reduce) && find("ncclAllGather", n.all_gather) &&
         find("ncclReduceScatter", n.reduce_scatter) && find("ncclBroadcast", n.broadcast) &&
         find("ncclSend", n.send) && find("ncclRecv", n.receive) && find("ncclGroupStart", n.group_start) &&
         find("ncclGroupEnd", n.group_end);
}

// What all channels and marks of a rank need.
struct Rank {
  NcclLibrary nccl;
  int device;
  cudaStream_t compute;
  std::mutex mutex{};
  std::vector<cudaEvent_t> free_events{};  // guarded by the mutex: marks end on any thread

  ~Rank() {
    for (cudaEvent_t event : free_events) cudaEventDestroy(event);
  }
  // Threads other than the rank's must not wake another device.
  void use_device() const {
    thread_local int current = -1;
    if (current == device) return;
    if (cudaSetDevice(device) == cudaSuccess) current = device;
  }
  cudaEvent_t take_event() {
    {
      std::lock_guard lock(mutex);
      if (!free_events.empty()) {
        cudaEvent_t event = free_events.back();
        free_events.pop_back();
        return event;
      }
    }
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), device, "making an event");
    return event;
  }
  void give_back(cudaEvent_t event) {
    std::lock_guard lock(mutex);
    free_events.push_back(event);
  }
};

class Mark final : public comm::StreamMark {
 public:
  Mark(std::shared_ptr<Rank> rank, cudaStream_t stream) : rank_(std::move(rank)), event_(rank_->take_event()) {
    cudaError_t error = cudaEventRecord(event_, stream);
    if (error != cudaSuccess) rank_->give_back(event_);
    check(error, rank_->device, "recording an event");
  }
  ~Mark() override { rank_->give_back(event_); }
  // A device that is lost passes everything: the rank's next call tells of it.
  bool passed() override {
    rank_->use_device();
    return cudaEventQuery(event_) != cudaErrorNotReady;
  }
  void hold_compute() override {
    check(cudaStreamWaitEvent(rank_->compute, event_, 0), rank_->device, "waiting for an event");
  }
  cudaEvent_t event() const { return event_; }

 private:
  std::shared_ptr<Rank> rank_;
  cudaEvent_t event_;
};

ncclDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return ncclFloat32;
    case DType::kF64:
      return ncclFloat64;
    case DType::kBF16:
      return ncclBfloat16;
    case DType::kI32:
      return ncclInt32;
    case DType::kI64:
      return ncclInt64;
    default:
      return ncclUint8;
  }
}

ncclRedOp_t op_of(Reduce op) {
  return op == Reduce::kSum ? ncclSum : op == Reduce::kMax ? ncclMax : ncclMin;
}

ncclConfig_t config_for(const std::string& name) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
  config.commName = name.c_str();
#endif
  (void)name;
  return config;
}

// Every call of NCCL is made under the mutex, as the watch may abort at any time; none of them blocks for peers.
class Channel final : public comm::DeviceChannel {
 public:
  Channel(std::shared_ptr<Rank> rank, std::string name) : rank_(std::move(rank)), name_(std::move(name)) {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), rank_->device, "making a stream");
  }
  ~Channel() override {
    close();
    cudaStreamDestroy(stream_);
  }
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  void join(const comm::DeviceLink::Id& id, int rank, int size) {
    ncclUniqueId unique;
    static_assert(sizeof(unique) == sizeof(id));
    std::memcpy(&unique, id.data(), sizeof(unique));
    ncclConfig_t config = config_for(name_);
    check_nccl(nccl().init_rank(&comm_, size, unique, rank, &config), "connecting ranks");
  }

  bool settled() override {
    std::lock_guard lock(mutex_);
    if (aborted_) return true;
    ncclResult_t state = ncclSuccess;
    check_nccl(nccl().get_async_error(comm_, &state), "asking for errors");
    check_nccl(state, "communication");
    return state != ncclInProgress;
  }

  // NCCL writes the child's handle while the parent is not settled.
  std::shared_ptr<comm::DeviceChannel> split(int color, int key, const std::string& name) override {
    auto made = std::make_shared<Channel>(rank_, name);
    ncclConfig_t config = config_for(made->name_);
    call("splitting ranks",
         [&] { return nccl().split(comm_, color < 0 ? NCCL_SPLIT_NOCOLOR : color, key, &made->comm_, &config); });
    if (color >= 0) return made;
    outside_ = std::move(made);  // lives as long as NCCL may write there
    return nullptr;
  }

  void after(comm::StreamMark& mark) override {
    check(cudaStreamWaitEvent(stream_, static_cast<Mark&>(mark).event(), 0), rank_->device, "waiting for an event");
  }
  std::shared_ptr<comm::StreamMark> mark() override { return std::make_shared<Mark>(rank_, stream_); }

  void all_reduce(Buffer data, Reduce op) override {
    call("all_reduce", [&] {
      return nccl().all_reduce(data.data, data.data, static_cast<size_t>(data.count), type_of(data.dtype), op_of(op),
                               comm_, stream_);
    });
  }
  void all_gather(Buffer out, ConstBuffer in) override {
    call("all_gather", [&] {
      return nccl().all_gather(in.data, out.data, static_cast<size_t>(in.bytes()), ncclUint8, comm_, stream_);
    });
  }
  void reduce_scatter(Buffer out, ConstBuffer in, Reduce op) override {
    call("reduce_scatter", [&] {
      return nccl().reduce_scatter(in.data, out.data, static_cast<size_t>(out.count), type_of(out.dtype), op_of(op),
                                   comm_, stream_);
    });
  }
  void broadcast(Buffer data, int root) override {
    call("broadcast", [&] {
      return nccl().broadcast(data.data, data.data, static_cast<size_t>(data.bytes()), ncclUint8, root, comm_, stream_);
    });
  }
  void exchange(std::span<const Transfer> transfers) override {
    call("exchange", [&] {
      ncclResult_t first = nccl().group_start();
      if (first != ncclSuccess) return first;
      for (const Transfer& t : transfers) {
        const ncclResult_t result = enqueue(t);
        if (first == ncclSuccess && result != ncclInProgress) first = result;
      }
      const ncclResult_t end = nccl().group_end();  // a group that was started is always ended
      return first == ncclSuccess ? end : first;
    });
  }

  std::string trouble() noexcept override {
    std::lock_guard lock(mutex_);
    if (aborted_ || comm_ == nullptr) return "";
    rank_->use_device();
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = nccl().get_async_error(comm_, &state);
    if (asked != ncclSuccess) state = asked;
    return state == ncclSuccess || state == ncclInProgress ? "" : text_of(state);
  }

  void abort() noexcept override {
    std::lock_guard lock(mutex_);
    if (std::exchange(aborted_, true) || comm_ == nullptr) return;
    rank_->use_device();
    nccl().abort(comm_);
    comm_ = nullptr;
  }

 private:
  const NcclLibrary& nccl() const { return rank_->nccl; }

  template <class F>
  void call(const char* what, F&& f) {
    std::lock_guard lock(mutex_);
    if (!aborted_) check_nccl(f(), what);
  }
  ncclResult_t enqueue(const Transfer& t) const {
    const auto bytes = static_cast<size_t>(t.data.bytes());
    return t.direction == Transfer::Direction::kSend
               ? nccl().send(t.data.data, bytes, ncclUint8, t.peer, comm_, stream_)
               : nccl().receive(t.data.data, bytes, ncclUint8, t.peer, comm_, stream_);
  }

  std::string text_of(ncclResult_t result) const {
    const char* last = nccl().last_error(comm_);
    std::string text = std::string("NCCL: ") + nccl().error_string(result);
    if (last != nullptr && *last != '\0') text += std::string("; its last words: ") + last;
    if (result == ncclSystemError || result == ncclUnhandledCudaError || result == ncclInternalError)
      text += "; NCCL_DEBUG=WARN tells more, NCCL_SOCKET_IFNAME names the network interface to use";
    return text;
  }
  void check_nccl(ncclResult_t result, const char* what) const {
    if (result == ncclSuccess || result == ncclInProgress) return;
    fail(Fault::kComm, "{}: {}", what, text_of(result));
  }

  // Lets the calls end and says goodbye; after a failure, or when that takes too long, aborts.
  void close() noexcept {
    if (aborted_ || comm_ == nullptr) return;
    bool ended = false;
    if (std::uncaught_exceptions() == 0) {
      const auto until = std::chrono::steady_clock::now() + kGoodbye;
      ncclResult_t state = nccl().finalize(comm_);
      while (state == ncclInProgress && std::chrono::steady_clock::now() < until) {
        std::this_thread::sleep_for(std::chrono::microseconds(100));
        if (nccl().get_async_error(comm_, &state) != ncclSuccess) state = ncclInternalError;
      }
      ended = state == ncclSuccess;
    }
    if (ended)
      nccl().destroy(comm_);
    else
      nccl().abort(comm_);
    comm_ = nullptr;
  }

  static constexpr std::chrono::seconds kGoodbye{10};

  std::shared_ptr<Rank> rank_;
  const std::string name_;  // NCCL keeps a pointer to it
  cudaStream_t stream_ = nullptr;
  ncclComm_t comm_ = nullptr;
  std::shared_ptr<Channel> outside_;
  std::mutex mutex_;
  bool aborted_ = false;
};

class Link final : public comm::DeviceLink {
 public:
  explicit Link(std::shared_ptr<Rank> rank) : rank_(std::move(rank)) {}
  Device device() const override { return {Device::Kind::kCuda, rank_->device}; }
  Id make_id() override {
    ncclUniqueId unique;
    const ncclResult_t result = rank_->nccl.get_unique_id(&unique);
    AM_CHECK(result == ncclSuccess, Fault::kComm, "NCCL cannot listen for peers: {}; {}",
             rank_->nccl.error_string(result), rank_->nccl.last_error(nullptr));
    Id id;
    std::memcpy(id.data(), &unique, sizeof(unique));
    return id;
  }
  std::shared_ptr<comm::DeviceChannel> join(const Id& id, int rank, int size, const std::string& name) override {
    auto channel = std::make_shared<Channel>(rank_, name);
    channel->join(id, rank, size);
    return channel;
  }
  std::shared_ptr<comm::StreamMark> mark_compute() override { return std::make_shared<Mark>(rank_, rank_->compute); }

 private:
  std::shared_ptr<Rank> rank_;
};

}  // namespace

std::unique_ptr<comm::DeviceLink> make_nccl_link(int device, void* compute_stream, std::string& why_not) {
  NcclLibrary library{};
  if (!find_functions(library, why_not)) return nullptr;
  return std::make_unique<Link>(std::make_shared<Rank>(library, device, static_cast<cudaStream_t>(compute_stream)));
}

}  // namespace automodel::cuda
