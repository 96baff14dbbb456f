#include "comm/staged.h"

#include <cstddef>
#include <numeric>
#include <utility>
#include <vector>

namespace automodel::comm {
namespace {

// Host memory of one operation.
class Block {
 public:
  Block(DeviceMemory& memory, int64_t bytes) : memory_(&memory), data_(memory.take(bytes)), bytes_(bytes) {}
  Block(Block&& other) noexcept
      : memory_(other.memory_), data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  Block& operator=(Block&&) = delete;
  ~Block() {
    if (data_ != nullptr) memory_->give_back(data_, bytes_);
  }
  void* data() const { return data_; }
  // The host has to keep it: somebody may still write there.
  void abandon() { data_ = nullptr; }

 private:
  DeviceMemory* memory_;
  void* data_;
  int64_t bytes_;
};

// The host's side of one operation.
class Stage {
 public:
  explicit Stage(DeviceMemory& memory) : memory_(memory) {}

  bool empty() const { return blocks_.empty(); }
  // Host memory for what the buffer holds.
  Buffer take(ConstBuffer device) {
    blocks_.emplace_back(memory_, device.bytes());
    return {blocks_.back().data(), device.count, device.dtype};
  }
  void download(Buffer to, ConstBuffer from) {
    if (from.bytes() > 0) memory_.download(to.data, from.data, from.bytes());
  }
  // Once the host's operation is complete, `bytes` at `from` go to the device.
  void upload_later(void* to, const void* from, int64_t bytes) {
    if (bytes > 0) uploads_.push_back({to, from, bytes});
  }
  void upload() {
    for (const Upload& u : uploads_) memory_.upload(u.to, u.from, u.bytes);
  }
  void abandon() {
    for (Block& block : blocks_) block.abandon();
  }

 private:
  struct Upload {
    void* to;
    const void* from;
    int64_t bytes;
  };
  DeviceMemory& memory_;
  std::vector<Block> blocks_;
  std::vector<Upload> uploads_;
};

class StagedOperation final : public Operation {
 public:
  StagedOperation(Stage stage, Pending inner) : stage_(std::move(stage)), inner_(std::move(inner)) {}
  void wait() override {
    inner_.wait();
    stage_.upload();
  }
  bool ready() override { return inner_.ready(); }
  void release(bool done) override {
    if (!done) stage_.abandon();
    delete this;
  }

 private:
  Stage stage_;
  Pending inner_;  // goes before the memory that it uses
};

Pending finish(Stage stage, Pending inner) {
  return Pending(new StagedOperation(std::move(stage), std::move(inner)));
}

class StagedCommunicator final : public Communicator {
 public:
  StagedCommunicator(Communicator& host, DeviceMemory& memory)
      : Communicator(host.name(), host.rank(), host.size()), host_(host), memory_(memory) {}
  StagedCommunicator(std::unique_ptr<Communicator> own, DeviceMemory& memory) : StagedCommunicator(*own, memory) {
    own_ = std::move(own);
  }

  bool reaches(Device device) const override { return device == memory_.device() || host_.reaches(device); }
  std::unique_ptr<Communicator> group(std::span<const int> members, std::string name) override {
    return make_staged(host_.group(members, std::move(name)), memory_);
  }
  void barrier() override { host_.barrier(); }
  void set_places(std::function<std::string(int)> place_of) override { host_.set_places(std::move(place_of)); }
  void abort(std::string_view why) noexcept override { host_.abort(why); }

 protected:
  Pending do_all_reduce(Buffer data, Reduce op) override {
    if (!stages(data)) return host_.start_all_reduce(data, op);
    Stage stage(memory_);
    Buffer here = stage.take(data);
    stage.download(here, data);
    stage.upload_later(data.data, here.data, data.bytes());
    return finish(std::move(stage), host_.start_all_reduce(here, op));
  }

  Pending do_all_gather(Buffer out, ConstBuffer in) override {
    if (!stages(out)) return host_.start_all_gather(out, in);
    Stage stage(memory_);
    Buffer whole = stage.take(out), own = own_slice(whole, in.count);
    stage.download(own, in);
    stage.upload_later(out.data, whole.data, out.bytes());
    return finish(std::move(stage), host_.start_all_gather(whole, own));
  }

  Pending do_reduce_scatter(Buffer out, ConstBuffer in, Reduce op) override {
    if (!stages(in)) return host_.start_reduce_scatter(out, in, op);
    Stage stage(memory_);
    Buffer whole = stage.take(in), own = own_slice(whole, out.count);
    stage.download(whole, in);
    stage.upload_later(out.data, own.data, out.bytes());
    return finish(std::move(stage), host_.start_reduce_scatter(own, whole, op));
  }

  Pending do_broadcast(Buffer data, int root) override {
    if (!stages(data)) return host_.start_broadcast(data, root);
    Stage stage(memory_);
    Buffer here = stage.take(data);
    if (rank() == root)
      stage.download(here, data);
    else
      stage.upload_later(data.data, here.data, data.bytes());
    return finish(std::move(stage), host_.start_broadcast(here, root));
  }

  Pending do_all_to_all(Buffer out, ConstBuffer in, std::span<const int64_t> send_bytes,
                        std::span<const int64_t> receive_bytes) override {
    Stage stage(memory_);
    Buffer to = out;
    ConstBuffer from = in;
    if (stages(in)) {
      Buffer here = stage.take(in);
      stage.download(here, in);
      from = here;
    }
    if (stages(out)) {
      to = stage.take(out);
      stage.upload_later(out.data, to.data, std::accumulate(receive_bytes.begin(), receive_bytes.end(), int64_t{0}));
    }
    Pending inner = host_.start_all_to_all(to, from, send_bytes, receive_bytes);
    return stage.empty() ? std::move(inner) : finish(std::move(stage), std::move(inner));
  }

  Pending do_exchange(std::span<const Transfer> transfers) override {
    Stage stage(memory_);
    std::vector<Transfer> here(transfers.begin(), transfers.end());
    for (Transfer& t : here) {
      if (!stages(t.data)) continue;
      Buffer device = t.data;
      t.data = stage.take(device);
      if (t.direction == Transfer::Direction::kSend)
        stage.download(t.data, device);
      else
        stage.upload_later(device.data, t.data.data, device.bytes());
    }
    Pending inner = host_.start_exchange(here);
    return stage.empty() ? std::move(inner) : finish(std::move(stage), std::move(inner));
  }

 private:
  bool stages(ConstBuffer buffer) const { return buffer.device == memory_.device(); }
  Buffer own_slice(Buffer whole, int64_t count) const {
    auto bytes = static_cast<int64_t>(size_of(whole.dtype)) * count * rank();
    return {static_cast<std::byte*>(whole.data) + bytes, count, whole.dtype};
  }

  std::unique_ptr<Communicator> own_;
  Communicator& host_;
  DeviceMemory& memory_;
};

}  // namespace

std::unique_ptr<Communicator> make_staged(std::unique_ptr<Communicator> host, DeviceMemory& memory) {
  return std::make_unique<StagedCommunicator>(std::move(host), memory);
}

std::unique_ptr<Communicator> make_staged(Communicator& host, DeviceMemory& memory) {
  return std::make_unique<StagedCommunicator>(host, memory);
}

}  // namespace automodel::comm
