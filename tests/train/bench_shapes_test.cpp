#include "train/bench_shapes.h"

#include <doctest/doctest.h>

#include <map>

#include "config/json_reader.h"
#include "core/error.h"
#include "models/registry.h"
#include "nn/param.h"

using namespace automodel;

TEST_CASE("the shapes of bench have as many weights as the models they stand for") {
  // Of the published checkpoints; gpt2 with its vocabulary rounded up to 50304.
  const std::map<std::string, int64_t> published{{"llama15m", 15'191'712},   {"llama110m", 109'529'856},
                                                 {"gpt2", 124'475'904},      {"qwen0.5b", 494'032'768},
                                                 {"llama1b", 1'235'814'400}, {"llama8b", 8'030'261'248}};
  for (const std::string& name : train::bench_models()) {
    CAPTURE(name);
    auto model = models::build(config::parse_json(train::bench_config(name), name));
    CHECK(nn::count_elements(model->params()) == published.at(name));
  }
  CHECK(train::bench_models().size() == published.size());
  CHECK_THROWS_AS(train::bench_config("llama70b"), Error);
}
