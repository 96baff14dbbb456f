// Files: whole reads, read-only maps, positioned writes, atomic replacement. Every failure is Error(kIo) unless said
// otherwise, with the path and the system's reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace automodel {

namespace fs = std::filesystem;

// The whole file as bytes.
std::string read_file(const fs::path& path);

// Writes `path` so that readers see the old content or the new one, never a part: temporary name in the same folder,
// fsync, rename, fsync of the folder.
void write_file_atomically(const fs::path& path, std::string_view content);

// Makes what was renamed or created inside `folder` durable.
void sync_folder(const fs::path& folder);

// A read-only memory map of a file. Movable; the bytes live as long as the object. An empty file gives no bytes.
class MappedFile {
 public:
  explicit MappedFile(const fs::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// A file that is written at given offsets, by several processes at once if they like (no overlap is checked).
class OutputFile {
 public:
  // Creates the file when it is missing; keeps its content otherwise.
  explicit OutputFile(const fs::path& path);
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile();  // closes; never throws: call sync() first to learn of failures
  void resize(uint64_t bytes);
  void write_at(uint64_t offset, std::span<const std::byte> bytes);
  void sync();

 private:
  fs::path path_;
  int fd_ = -1;
};

}  // namespace automodel
