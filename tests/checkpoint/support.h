// What the checkpoint tests share: a folder that goes away, files from a header text, and who threw what.
#pragma once

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "core/file.h"

namespace automodel::checkpoint::test {

class TempDir {
 public:
  TempDir() {
    // Memory where there is some: the many syncs of a save cost nothing there.
    fs::path base = ::access("/dev/shm", W_OK) == 0 ? fs::path("/dev/shm") : fs::temp_directory_path();
    std::string pattern = (base / "automodel-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = pattern;
  }
  TempDir(const TempDir&) = delete;
  ~TempDir() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }
  fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

inline void write_text(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

// A safetensors file as bytes; `claimed` replaces the true length of the header.
inline std::string raw_file(const std::string& header, const std::string& data,
                            std::optional<uint64_t> claimed = std::nullopt) {
  uint64_t length = claimed.value_or(header.size());
  std::string file(reinterpret_cast<const char*>(&length), sizeof length);
  return file + header + data;
}

// The error that `action` throws; a test failure when it throws none.
inline Error error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  FAIL("nothing was thrown");
  return {Fault::kBug, ""};
}

inline bool contains(const std::string& text, const std::string& part) {
  bool found = text.find(part) != std::string::npos;
  if (!found) MESSAGE("'" << part << "' is not in: " << text);
  return found;
}

// Writes a planned file whose tensors hold the given bytes.
inline void write_file(const fs::path& path, const FileLayout& layout,
                       const std::vector<std::pair<std::string, std::string>>& data) {
  OutputFile out(path);
  out.resize(layout.file_size);
  out.write_at(0, std::as_bytes(std::span(layout.header.data(), layout.header.size())));
  for (const auto& [name, bytes] : data) {
    const StoredTensor* tensor = layout.tensors.find(name);
    REQUIRE(tensor != nullptr);
    REQUIRE(tensor->end - tensor->begin == bytes.size());
    out.write_at(tensor->begin, std::as_bytes(std::span(bytes.data(), bytes.size())));
  }
  out.sync();
}

// The Python with torch, transformers and safetensors that golden tests use; empty when there is none.
inline std::string golden_python() {
  const char* path = std::getenv("AUTOMODEL_GOLDEN_PYTHON");
  if (path != nullptr && fs::exists(path)) return path;
  MESSAGE("skipped: AUTOMODEL_GOLDEN_PYTHON names no Python with safetensors and transformers");
  return "";
}

// Runs a Python script; 0 when it succeeds.
inline int run_python(const std::string& python, const std::string& script, const fs::path& folder) {
  fs::path file = folder / "script.py";
  write_text(file, script);
  std::string command = "cd '" + folder.string() + "' && '" + python + "' '" + file.string() + "'";
  return std::system(command.c_str());
}

}  // namespace automodel::checkpoint::test
