#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "cuda/architectures.h"
#include "cuda/backend.h"

using namespace automodel;

TEST_CASE("real code runs on devices of its major version, virtual code on all later ones") {
  using cuda::has_code;
  CHECK(has_code("90-real", 9, 0));
  CHECK_FALSE(has_code("90-real", 10, 0));
  CHECK(has_code("80-real", 8, 9));
  CHECK_FALSE(has_code("89-real", 8, 6));
  CHECK(has_code("90a-real", 9, 0));
  CHECK_FALSE(has_code("90a-real", 10, 0));
  CHECK(has_code("120-virtual", 12, 1));
  CHECK(has_code("90-virtual", 12, 0));
  CHECK_FALSE(has_code("90-virtual", 8, 9));
  CHECK_FALSE(has_code("90a-virtual", 10, 0));
  CHECK(has_code("100f-real", 10, 3));
  CHECK_FALSE(has_code("100f-real", 12, 0));
  CHECK(has_code("80", 9, 0));
  const char* release = "80-real,89-real,90a-real,100-real,120-real,120-virtual";
  for (auto [major, minor] : {std::pair(8, 0), {8, 6}, {8, 9}, {9, 0}, {10, 0}, {10, 3}, {12, 0}, {13, 0}})
    CHECK(has_code(release, major, minor));
  for (auto [major, minor] : {std::pair(7, 5), {11, 0}}) CHECK_FALSE(has_code(release, major, minor));
  CHECK_FALSE(has_code("", 9, 0));
  CHECK_FALSE(has_code("native,all", 9, 0));
}

TEST_CASE("a plugin of another version is refused, and says both versions") {
  cuda::Plugin plugin;
  plugin.program_version = AUTOMODEL_VERSION;
  plugin.version = cuda::kPluginVersion + 1;
  cuda::use_plugin(plugin);
  CHECK_FALSE(cuda::backend().usable());
  CHECK(cuda::backend().plugin == nullptr);
  CHECK(cuda::backend().why_not.find(fmt::format("version {} of the interface, this program {}",
                                                 cuda::kPluginVersion + 1, cuda::kPluginVersion)) != std::string::npos);
  plugin.version = cuda::kPluginVersion;
  plugin.program_version = "0.0.0";
  cuda::use_plugin(plugin);
  CHECK(cuda::backend().why_not.find("belongs to automodel 0.0.0, this is " AUTOMODEL_VERSION) != std::string::npos);
  CHECK_THROWS_AS(ops::kernels({Device::Kind::kCuda, 0}), Error);
}

TEST_CASE("a plugin without kernels, or without devices, cannot be used and says so") {
  cuda::Plugin plugin;
  plugin.program_version = AUTOMODEL_VERSION;
  plugin.kernels = []() -> const ops::Kernels* { return nullptr; };
  cuda::use_plugin(plugin);
  CHECK(cuda::backend().why_not.find("built without kernels") != std::string::npos);
  plugin.kernels = [] { return &ops::meta::table(); };
  plugin.count_devices = [](std::string& why) {
    why = "no driver";
    return 0;
  };
  cuda::use_plugin(plugin);
  CHECK(cuda::backend().why_not == "no driver");
  CHECK_FALSE(cuda::backend().usable());
  CHECK_THROWS_AS(ops::kernels({Device::Kind::kCuda, 0}), Error);
  plugin.count_devices = [](std::string&) { return 4; };
  cuda::use_plugin(plugin);
  CHECK(cuda::backend().devices == 4);
  CHECK(&ops::kernels({Device::Kind::kCuda, 3}) == &ops::meta::table());
  ops::set_cuda_kernels(nullptr);
}
