#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>
#include <limits>
#include <set>
#include <string>

#include "core/dtype.h"
#include "core/error.h"
#include "core/file.h"
#include "core/home.h"
#include "core/rng.h"
#include "core/shape.h"

using namespace automodel;

TEST_CASE("Philox gives the published known answers") {
  // Random123's kat_vectors, philox4x32 with 10 rounds.
  CHECK(philox({0, 0, 0, 0}, {0, 0}) == std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
        std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("random numbers have the moments of their distribution and depend on all of their key") {
  Random random(11, "moments");
  double sum = 0, squares = 0, uniform = 0;
  constexpr int kCount = 40000;
  for (uint64_t i = 0; i < kCount; ++i) {
    double z = random.normal(i);
    sum += z;
    squares += z * z;
    uniform += random.uniform(i);
    REQUIRE(random.below(7, i) < 7);
  }
  CHECK(std::abs(sum / kCount) < 0.02);
  CHECK(std::abs(squares / kCount - 1) < 0.03);
  CHECK(std::abs(uniform / kCount - 0.5) < 0.01);
  CHECK(Random(11, "a").bits(0) != Random(11, "b").bits(0));
  CHECK(Random(11, "a").bits(0) != Random(12, "a").bits(0));
  CHECK(Random(11, "a").bits(0) != Random(11, "a").bits(1));
  auto order = permutation(100, random);
  CHECK(std::set<int64_t>(order.begin(), order.end()).size() == 100);
  CHECK(order == permutation(100, random));
}

TEST_CASE("bf16 and f16 round to nearest, ties to even, and survive every half") {
  CHECK(to_bf16(1.0f).bits == 0x3f80);
  CHECK(to_bf16(1.00390625f).bits == 0x3f80);  // halfway, even below
  CHECK(to_bf16(1.01171875f).bits == 0x3f82);  // halfway, even above
  CHECK(std::isnan(to_float(to_bf16(std::numeric_limits<float>::quiet_NaN()))));
  CHECK(std::isinf(to_float(to_bf16(3.4e38f))));
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    float x = f16_to_float(static_cast<uint16_t>(bits));
    if (std::isnan(x)) continue;
    REQUIRE(float_to_f16(x) == bits);
  }
  CHECK(float_to_f16(65520.0f) == 0x7c00);
  CHECK(float_to_f16(65519.0f) == 0x7bff);
  CHECK(float_to_f16(1e-10f) == 0);
}

TEST_CASE("dtype names are read in every spelling") {
  CHECK(parse_dtype("torch.bfloat16") == DType::kBF16);
  CHECK(parse_dtype("FP32") == DType::kF32);
  CHECK(parse_dtype("long") == DType::kI64);
  CHECK(!parse_dtype("float12"));
}

TEST_CASE("files are replaced as a whole, and failures name the path") {
  fs::path folder = fs::temp_directory_path() / ("automodel-core-" + std::to_string(::getpid()));
  fs::create_directories(folder);
  write_file_atomically(folder / "a", "one");
  write_file_atomically(folder / "a", "two");
  CHECK(read_file(folder / "a") == "two");
  CHECK(std::distance(fs::directory_iterator(folder), fs::directory_iterator()) == 1);
  CHECK(MappedFile(folder / "a").bytes().size() == 3);
  CHECK_THROWS_WITH_AS(read_file(folder / "b"), doctest::Contains("/b: cannot read"), Error);
  CHECK_THROWS_AS(read_file(folder), Error);
  fs::remove_all(folder);
}

TEST_CASE("shapes count and refuse") {
  Shape s{2, 3, 4};
  CHECK(s.numel() == 24);
  CHECK(s.rows() == 6);
  CHECK(s.cols() == 4);
  CHECK(s[-1] == 4);
  CHECK(s.str() == "[2, 3, 4]");
  CHECK_THROWS_AS((Shape{1, -2}), Error);
}

TEST_CASE("The home is the clone around a build folder, or share/automodel of a bundle, wherever it lies") {
  fs::path top = fs::temp_directory_path() / ("automodel [home] " + std::to_string(::getpid()));
  fs::remove_all(top);
  for (const char* folder :
       {"clone/build/x/bin", "clone/recipes", "bundle/libexec", "bundle/share/automodel/recipes", "elsewhere/bin"})
    fs::create_directories(top / folder);
  write_file_atomically(top / "clone/recipes/quickstart.yaml", "");
  write_file_atomically(top / "bundle/share/automodel/recipes/quickstart.yaml", "");
  CHECK(home_of(top / "clone/build/x/bin") == top / "clone");
  CHECK(home_of(top / "clone/build/bin") == top / "clone");
  CHECK(home_of(top / "bundle/libexec") == top / "bundle/share/automodel");
  CHECK(home_of(top / "elsewhere/bin") == "");
  CHECK(home_of("/") == "");
  fs::remove_all(top);
  // This program's own is the clone.
  CHECK(fs::equivalent(program_home(), AUTOMODEL_SOURCE_DIR));
  CHECK(in_home("/etc/hosts") == "");
}
