#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>

#include "ops/cuda/algorithm_store.h"

using namespace automodel::ops::cuda;

namespace {

struct Folder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / "automodel_algorithm_store_test";
  Folder() { std::filesystem::remove_all(path); }
  ~Folder() { std::filesystem::remove_all(path); }
};

}  // namespace

TEST_CASE("algorithms that were chosen are found again, the first choice of a shape first") {
  Folder folder;
  std::string path = (folder.path / "cache" / "file.txt").string();
  AlgorithmWords one{1, 0xffffffffffffffff, 3}, two{2};
  {
    AlgorithmStore store(path);
    CHECK(!store.find("64x64").has_value());
    store.add("64x64", one);
    store.add("64x64", two);
    store.add("1x1", two);
    CHECK(store.find("64x64") == one);
  }
  {
    AlgorithmStore other(path);
    CHECK(other.find("64x64") == one);
    CHECK(other.find("1x1") == two);
  }
  // Half a line, and one that another program wrote.
  std::ofstream(path, std::ios::app) << "9x9 1 2 3\n"
                                     << "8x8 zebra 0 0 0 0 0 0 0\n"
                                     << "7x7 1 2 3 4 5 6 7 8 9\n";
  AlgorithmStore other(path);
  CHECK(other.find("1x1") == two);
  CHECK(!other.find("9x9").has_value());
  CHECK(!other.find("8x8").has_value());
  CHECK(!other.find("7x7").has_value());
}

TEST_CASE("a cache that cannot be written is no error") {
  AlgorithmStore store("/proc/automodel/file.txt");
  store.add("2x2", {5});
  CHECK(store.find("2x2") == AlgorithmWords{5});
  AlgorithmStore none("");
  none.add("2x2", {5});
  CHECK(none.find("2x2") == AlgorithmWords{5});
}
