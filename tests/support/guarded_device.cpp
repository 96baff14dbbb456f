#include "support/guarded_device.h"

#include <sys/mman.h>

#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <type_traits>

#include "core/error.h"
#include "tensor/segment_pool.h"

namespace automodel::test {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

// All segments of all guarded devices.
class Segments {
 public:
  void add(void* data, size_t size) {
    std::lock_guard lock(mutex_);
    sizes_[static_cast<char*>(data)] = size;
  }
  void remove(void* data) {
    std::lock_guard lock(mutex_);
    sizes_.erase(static_cast<char*>(data));
  }
  // May be nested, in several threads.
  void open(char* data, size_t size) {
    std::lock_guard lock(mutex_);
    if (open_[data]++ == 0) ::mprotect(data, size, PROT_READ | PROT_WRITE);
  }
  void close(char* data, size_t size) {
    std::lock_guard lock(mutex_);
    auto found = open_.find(data);
    if (--found->second > 0) return;
    open_.erase(found);
    ::mprotect(data, size, PROT_NONE);
  }
  // The segment that holds the byte; {nullptr, 0}: it is no memory of a device.
  std::pair<char*, size_t> of(const void* byte) {
    std::lock_guard lock(mutex_);
    auto* address = static_cast<const char*>(byte);
    auto after = sizes_.upper_bound(const_cast<char*>(address));
    if (after == sizes_.begin()) return {nullptr, 0};
    auto segment = std::prev(after);
    if (address >= segment->first + segment->second) return {nullptr, 0};
    return {segment->first, segment->second};
  }

 private:
  std::mutex mutex_;
  std::map<char*, size_t> sizes_;
  std::map<char*, int> open_;
};

Segments& segments() {
  static Segments all;
  return all;
}

// Opens the segments of some memory for as long as it lives.
class Opened {
 public:
  Opened() = default;
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;
  ~Opened() {
    for (auto [data, size] : open_) segments().close(data, size);
  }
  void add(const void* data) {
    auto segment = segments().of(data);
    AM_CHECK(segment.first != nullptr, Fault::kBug, "a kernel of the device was given memory of the host");
    if (open_.insert(segment).second) segments().open(segment.first, segment.second);
  }

 private:
  std::set<std::pair<char*, size_t>> open_;
};

void check_host(const void* data) {
  AM_CHECK(segments().of(data).first == nullptr, Fault::kBug, "the host's side of a copy is memory of the device");
}

class GuardedAllocator final : public Allocator {
 public:
  explicit GuardedAllocator(int index) : index_(index) {}
  Device device() const override { return {Device::Kind::kCuda, index_}; }
  std::unique_ptr<Allocator> make_host_allocator() const override { return make_cpu_allocator(); }

  void zero(void* data, size_t bytes) override {
    if (bytes == 0) return;
    Opened opened;
    opened.add(data);
    std::memset(data, 0, bytes);
  }
  void copy(void* to, const void* from, size_t bytes) override {
    if (bytes == 0) return;
    Opened opened;
    opened.add(to);
    opened.add(from);
    std::memcpy(to, from, bytes);
  }
  void upload(void* to, const void* host, size_t bytes) override {
    if (bytes == 0) return;
    check_host(host);
    Opened opened;
    opened.add(to);
    std::memcpy(to, host, bytes);
  }
  void download(void* host, const void* from, size_t bytes) override {
    if (bytes == 0) return;
    check_host(host);
    Opened opened;
    opened.add(from);
    std::memcpy(host, from, bytes);
  }

 protected:
  void* acquire(size_t bytes) override {
    void* data = pool_.take(bytes);
    if (data == nullptr) return nullptr;
    Opened opened;
    opened.add(data);
    std::memset(data, 0xff, bytes);
    return data;
  }
  void give_back(void* data, size_t) noexcept override { pool_.put(data); }

 private:
  static void* map(size_t size) {
    void* data = ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) return nullptr;
    segments().add(data, size);
    return data;
  }
  static void unmap(void* data, size_t size) {
    segments().remove(data);
    ::munmap(data, size);
  }

  int index_;
  SegmentPool pool_{{map, unmap, 2 * kMiB, 2 * kMiB}};
};

// Everything that an argument of a kernel says of memory.
void open(Opened& opened, const Tensor& t) {
  if (!t.defined() || t.numel() == 0) return;
  AM_CHECK(t.device().is_cuda(), Fault::kBug, "a kernel of the device was given a tensor of {}", name_of(t.device()));
  opened.add(t.raw());
}
void open(Opened& opened, const Tensor* t) {
  if (t != nullptr) open(opened, *t);
}
void open(Opened& opened, const ops::HeadColumns& c) {
  open(opened, c.q), open(opened, c.k), open(opened, c.v);
}
void open(Opened& opened, const ops::AttentionGradients& g) {
  open(opened, g.to);
}
void open(Opened& opened, const ops::MatmulArgs& args) {
  open(opened, args.bias);
}
void open(Opened& opened, const ops::DropoutArgs& args) {
  if (args.p > 0) open(opened, args.samples), open(opened, args.places);
}
void open(Opened& opened, const ops::AttentionArgs& args) {
  open(opened, args.document_start), open(opened, args.dropout);
}
void open(Opened& opened, const ops::CrossEntropyArgs& args) {
  open(opened, args.labels);
}
void open(Opened& opened, const ops::RouteArgs& args) {
  open(opened, args.bias), open(opened, args.real);
}
void open(Opened&, const ops::AdamArgs&) {}
void open(Opened&, const ops::HeadLayout&) {}
template <class T>
requires std::is_arithmetic_v<T> || std::is_enum_v<T>
void open(Opened&, T) {}

const ops::Kernels*& guarded() {
  static const ops::Kernels* kernels = &ops::cpu::table();
  return kernels;
}

template <auto kernel, class F = std::remove_cvref_t<decltype(ops::Kernels{}.*kernel)>>
struct Guarded;
template <auto kernel, class... A>
struct Guarded<kernel, void (*)(A...)> {
  static void call(A... args) {
    Opened opened;
    (open(opened, args), ...);
    (guarded()->*kernel)(args...);
  }
};

int count_devices(std::string&) {
  return 2;
}
cuda::DeviceInfo describe_device(int index) {
  return {"a device of the tests", "guarded " + std::to_string(index), 9, 0, 1, int64_t{1} << 30, int64_t{1} << 30};
}
std::unique_ptr<comm::DeviceLink> make_link(int, std::string& why_not) {
  why_not = "devices of the tests have no NCCL";
  return nullptr;
}
std::vector<cuda::LibraryVersion> find_libraries() {
  return {{"driver", "1.0"}, {"NCCL", ""}};
}

}  // namespace

void read_guarded(void* host, const void* device, size_t bytes) {
  if (bytes == 0) return;
  Opened opened;
  opened.add(device);
  std::memcpy(host, device, bytes);
}

void write_guarded(void* device, const void* host, size_t bytes) {
  if (bytes == 0) return;
  Opened opened;
  opened.add(device);
  std::memcpy(device, host, bytes);
}

std::unique_ptr<Allocator> make_guarded_allocator(int index) {
  return std::make_unique<GuardedAllocator>(index);
}

const ops::Kernels& guarded_kernels() {
  static const ops::Kernels table{
#define AUTOMODEL_KERNEL(name, arguments) .name = &Guarded<&ops::Kernels::name>::call,
      AUTOMODEL_KERNELS(AUTOMODEL_KERNEL)
#undef AUTOMODEL_KERNEL
  };
  return table;
}

void guard(const ops::Kernels& kernels) {
  guarded() = &kernels;
}

const cuda::Plugin& guarded_plugin() {
  static const cuda::Plugin plugin{.program_version = AUTOMODEL_VERSION,
                                   .count_devices = count_devices,
                                   .describe_device = describe_device,
                                   .make_allocator = make_guarded_allocator,
                                   .kernels = [] { return &guarded_kernels(); },
                                   .make_link = make_link,
                                   .find_libraries = find_libraries};
  return plugin;
}

}  // namespace automodel::test
