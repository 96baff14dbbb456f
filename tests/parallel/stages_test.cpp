#include <doctest/doctest.h>

#include <string>

#include "core/error.h"
#include "parallel/stages.h"

using namespace automodel;
using namespace automodel::parallel;
using distributed::StageRounding;

namespace {

std::string complaint(const StageRequest& request) {
  try {
    stage_count(request);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::vector<int> sizes(int layers, int stages) {
  std::vector<int> out;
  for (LayerRange r : split_layers(layers, stages)) out.push_back(r.end - r.begin);
  return out;
}

}  // namespace

TEST_CASE("the number of stages follows the schedule, or layers_per_stage and its rounding") {
  struct Row {
    StageRequest request;
    int stages;
  };
  for (const Row& row : {Row{{32, 4, true, {}, {}}, 4},
                         {{32, 4, false, {}, {}}, 8},
                         {{32, 4, true, 8, {}}, 4},
                         {{32, 4, true, 32, StageRounding::kUp}, 4},
                         {{32, 4, false, 5, StageRounding::kUp}, 8},
                         {{32, 4, false, 3, StageRounding::kDown}, 8},
                         {{16, 2, false, 2, {}}, 8},
                         {{61, 8, false, 4, StageRounding::kUp}, 16},
                         {{10, 2, true, 4, StageRounding::kDown}, 2}}) {
    CAPTURE(row.request.layers);
    CHECK(stage_count(row.request) == row.stages);
  }
}

TEST_CASE("stages that do not fit are refused with the numbers and a remedy") {
  CHECK(complaint({32, 4, false, 7, {}}).find("5 stages, which is no multiple of pp_size 4") != std::string::npos);
  CHECK(complaint({32, 4, true, 6, StageRounding::kUp}).find("set it to 8 or more") != std::string::npos);
  CHECK(complaint({32, 2, false, 16, {}}).find("set it to 8 or less") != std::string::npos);
  CHECK(complaint({4, 2, true, 8, StageRounding::kDown}) != "");
  CHECK(complaint({3, 4, true, {}, {}}).find("4 pipeline stages for 3 layers") != std::string::npos);
}

TEST_CASE("layers are split evenly, the first stages take what is left over") {
  CHECK(sizes(16, 4) == std::vector{4, 4, 4, 4});
  CHECK(sizes(10, 3) == std::vector{4, 3, 3});
  CHECK(sizes(30, 4) == std::vector{8, 8, 7, 7});
  CHECK(sizes(61, 8) == std::vector{8, 8, 8, 8, 8, 7, 7, 7});
  CHECK(split_layers(5, 2) == std::vector<LayerRange>{{0, 3}, {3, 5}});
}
