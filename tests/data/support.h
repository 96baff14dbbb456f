// Helpers of the data tests: a folder that is removed again, files in it, and errors as text.
#pragma once

#include <doctest/doctest.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "core/error.h"
#include "core/file.h"

namespace automodel::data {

class TempFolder {
 public:
  TempFolder() {
    std::string name = (fs::temp_directory_path() / "automodel-data-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TempFolder() { fs::remove_all(path_); }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  // Writes a file, its folders included; returns its path.
  std::string write(const std::string& name, std::string_view content) const {
    fs::path file = path_ / name;
    fs::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary).write(content.data(), static_cast<std::streamsize>(content.size()));
    return file.string();
  }
  std::string path(const std::string& name = "") const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

// What `action` complains about; "" when it does not. The fault must be the given one.
template <class Action>
std::string error_of(Fault fault, Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    CHECK_MESSAGE(error.fault() == fault, error.what());
    return error.what();
  }
  return "";
}

inline bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

}  // namespace automodel::data
