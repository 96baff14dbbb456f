#include "core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace automodel {
namespace {

[[noreturn]] void fail_errno(const fs::path& path, const char* what) {
  int reason = errno;
  fail(Fault::kIo, "{}: cannot {}: {}", path.string(), what, std::strerror(reason));
}

// A file descriptor that closes itself.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

int open_or_fail(const fs::path& path, int flags, const char* what) {
  int fd = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
  if (fd < 0) fail_errno(path, what);
  return fd;
}

void write_all(int fd, const fs::path& path, std::span<const std::byte> bytes, uint64_t offset) {
  while (!bytes.empty()) {
    ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno(path, "write");
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
}

}  // namespace

std::string read_file(const fs::path& path) {
  Descriptor file{open_or_fail(path, O_RDONLY, "read")};
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) fail_errno(path, "read");
  if (S_ISDIR(info.st_mode)) fail(Fault::kIo, "{}: cannot read: it is a directory", path.string());
  std::string content;
  content.reserve(static_cast<size_t>(info.st_size));
  char buffer[1 << 16];
  for (;;) {
    ssize_t n = ::read(file.fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno(path, "read");
    if (n == 0) return content;
    content.append(buffer, static_cast<size_t>(n));
  }
}

void sync_folder(const fs::path& folder) {
  fs::path name = folder.empty() ? fs::path(".") : folder;
  Descriptor file{open_or_fail(name, O_RDONLY | O_DIRECTORY, "open the folder")};
  // Some file systems cannot sync a folder; that is no loss of data.
  if (::fsync(file.fd) != 0 && errno != EINVAL && errno != ENOTSUP) fail_errno(name, "sync the folder");
}

void write_file_atomically(const fs::path& path, std::string_view content) {
  fs::path temporary = path;
  temporary += ".tmp-" + std::to_string(::getpid());
  try {
    Descriptor file{open_or_fail(temporary, O_WRONLY | O_CREAT | O_TRUNC, "create")};
    write_all(file.fd, temporary, std::as_bytes(std::span(content.data(), content.size())), 0);
    if (::fsync(file.fd) != 0) fail_errno(temporary, "write");
    if (::rename(temporary.c_str(), path.c_str()) != 0) fail_errno(path, "replace");
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_folder(path.parent_path());
}

MappedFile::MappedFile(const fs::path& path) {
  Descriptor file{open_or_fail(path, O_RDONLY, "read")};
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) fail_errno(path, "read");
  if (!S_ISREG(info.st_mode)) fail(Fault::kIo, "{}: cannot read: it is not a regular file", path.string());
  size_ = static_cast<size_t>(info.st_size);
  if (size_ == 0) return;
  void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (mapped == MAP_FAILED) fail_errno(path, "map");
  data_ = static_cast<const std::byte*>(mapped);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

OutputFile::OutputFile(const fs::path& path) : path_(path), fd_(open_or_fail(path, O_WRONLY | O_CREAT, "create")) {}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
}

void OutputFile::resize(uint64_t bytes) {
  if (::ftruncate(fd_, static_cast<off_t>(bytes)) != 0) fail_errno(path_, "resize");
}

void OutputFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  write_all(fd_, path_, bytes, offset);
}

void OutputFile::sync() {
  if (::fsync(fd_) != 0) fail_errno(path_, "write");
}

}  // namespace automodel
