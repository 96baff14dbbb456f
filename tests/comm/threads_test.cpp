#include <doctest/doctest.h>

#include "support/run_mesh.h"

using namespace automodel;

TEST_CASE("ranks as threads sum a number each") {
  test::run_mesh(3, [](comm::World& world) {
    const int sum = world.global().reduced(world.rank() + 1, comm::Reduce::kSum);
    REQUIRE(sum == 6);
  });
}
