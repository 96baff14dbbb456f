#include "support/on_device.h"

#include <deque>
#include <functional>
#include <utility>
#include <vector>

namespace automodel::test {
namespace {

using comm::Buffer;
using comm::Communicator;
using comm::ConstBuffer;
using comm::Pending;
using comm::Reduce;
using comm::Transfer;

// The device's side of one operation.
class Shadow {
 public:
  explicit Shadow(Allocator& memory) : memory_(memory) {}
  Shadow(const Shadow&) = delete;
  Shadow& operator=(const Shadow&) = delete;
  ~Shadow() {
    for (const Buffer& b : blocks_) memory_.release(b.data, static_cast<size_t>(b.bytes()), kClass);
  }
  Buffer of(ConstBuffer host) {
    Buffer device{nullptr, host.count, host.dtype, memory_.device()};
    device.data = memory_.allocate(static_cast<size_t>(host.bytes()), kClass);
    memory_.upload(device.data, host.data, static_cast<size_t>(host.bytes()));
    blocks_.push_back(device);
    return device;
  }
  void later(void* host, Buffer device) {
    downloads_.push_back(
        [this, host, device] { memory_.download(host, device.data, static_cast<size_t>(device.bytes())); });
  }
  void download() {
    for (const auto& f : downloads_) f();
  }

 private:
  static constexpr MemoryClass kClass = MemoryClass::kCommunication;
  Allocator& memory_;
  std::deque<Buffer> blocks_;
  std::vector<std::function<void()>> downloads_;
};

class ShadowOperation final : public comm::Operation {
 public:
  ShadowOperation(std::unique_ptr<Shadow> shadow, Pending inner)
      : shadow_(std::move(shadow)), inner_(std::move(inner)) {}
  void wait() override {
    inner_.wait();
    shadow_->download();
  }
  bool ready() override { return inner_.ready(); }
  void release(bool done) override {
    if (!done) (void)shadow_.release();  // somebody may still write there
    delete this;
  }

 private:
  std::unique_ptr<Shadow> shadow_;
  Pending inner_;
};

class OnDevice final : public Communicator {
 public:
  OnDevice(Communicator& inner, Allocator& memory)
      : Communicator(inner.name(), inner.rank(), inner.size()), inner_(inner), memory_(memory) {}
  OnDevice(std::unique_ptr<Communicator> own, Allocator& memory) : OnDevice(*own, memory) { own_ = std::move(own); }

  std::unique_ptr<Communicator> split(int color, int key, std::string name) override {
    return wrap(inner_.split(color, key, std::move(name)));
  }
  std::unique_ptr<Communicator> group(std::span<const int> members, std::string name) override {
    return wrap(inner_.group(members, std::move(name)));
  }
  std::unique_ptr<Communicator> partition(std::span<const int> members, std::string name) override {
    return wrap(inner_.partition(members, std::move(name)));
  }
  void barrier() override { inner_.barrier(); }
  void abort(std::string_view why) noexcept override { inner_.abort(why); }

 protected:
  Pending do_all_reduce(Buffer data, Reduce op) override {
    auto shadow = std::make_unique<Shadow>(memory_);
    Buffer device = shadow->of(data);
    shadow->later(data.data, device);
    return finish(std::move(shadow), inner_.start_all_reduce(device, op));
  }
  Pending do_all_gather(Buffer out, ConstBuffer in) override {
    auto shadow = std::make_unique<Shadow>(memory_);
    Buffer to = shadow->of(out), from = shadow->of(in);
    shadow->later(out.data, to);
    return finish(std::move(shadow), inner_.start_all_gather(to, from));
  }
  Pending do_reduce_scatter(Buffer out, ConstBuffer in, Reduce op) override {
    auto shadow = std::make_unique<Shadow>(memory_);
    Buffer to = shadow->of(out), from = shadow->of(in);
    shadow->later(out.data, to);
    return finish(std::move(shadow), inner_.start_reduce_scatter(to, from, op));
  }
  Pending do_broadcast(Buffer data, int root) override {
    auto shadow = std::make_unique<Shadow>(memory_);
    Buffer device = shadow->of(data);
    shadow->later(data.data, device);
    return finish(std::move(shadow), inner_.start_broadcast(device, root));
  }
  Pending do_all_to_all(Buffer out, ConstBuffer in, std::span<const int64_t> send_bytes,
                        std::span<const int64_t> receive_bytes) override {
    auto shadow = std::make_unique<Shadow>(memory_);
    Buffer to = shadow->of(out), from = shadow->of(in);
    shadow->later(out.data, to);
    return finish(std::move(shadow), inner_.start_all_to_all(to, from, send_bytes, receive_bytes));
  }
  Pending do_exchange(std::span<const Transfer> transfers) override {
    auto shadow = std::make_unique<Shadow>(memory_);
    std::vector<Transfer> there(transfers.begin(), transfers.end());
    for (Transfer& t : there) {
      Buffer device = shadow->of(t.data);
      if (t.direction == Transfer::Direction::kReceive) shadow->later(t.data.data, device);
      t.data = device;
    }
    return finish(std::move(shadow), inner_.start_exchange(there));
  }

 private:
  std::unique_ptr<Communicator> wrap(std::unique_ptr<Communicator> made) {
    return made ? std::make_unique<OnDevice>(std::move(made), memory_) : nullptr;
  }
  static Pending finish(std::unique_ptr<Shadow> shadow, Pending inner) {
    return Pending(new ShadowOperation(std::move(shadow), std::move(inner)));
  }

  std::unique_ptr<Communicator> own_;
  Communicator& inner_;
  Allocator& memory_;
};

}  // namespace

std::unique_ptr<Communicator> make_on_device(Communicator& inner, Allocator& memory) {
  return std::make_unique<OnDevice>(inner, memory);
}

}  // namespace automodel::test
