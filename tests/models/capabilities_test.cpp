// Which parallel sizes a model can be cut by, and what is said when it cannot.
#include "models/capabilities.h"

#include <doctest/doctest.h>
#include <fmt/core.h>

#include "config/config.h"

using namespace automodel;
using namespace automodel::models;
using distributed::ParallelismSizes;

namespace {

ModelInfo llama() {
  ModelInfo info;
  info.model_type = "llama";
  info.vocab_size = 128256;
  info.hidden_size = 4096;
  info.intermediate_size = 14336;
  info.layers = 32;
  info.heads = 32;
  info.kv_heads = 8;
  return info;
}

ParallelismSizes with(int64_t tp, int64_t pp = 1, int64_t ep = 1) {
  ParallelismSizes sizes;
  sizes.tp_size = tp;
  sizes.pp_size = pp;
  sizes.ep_size = ep;
  return sizes;
}

std::string text(const std::vector<Violation>& violations) {
  std::string out;
  for (const Violation& v : violations) out += v.key + " | " + v.message + " | " + v.hint + "\n";
  return out;
}

}  // namespace

TEST_CASE("Sizes that divide everything are no violation") {
  for (int64_t tp : {1, 2, 4, 8})
    for (int64_t pp : {1, 2, 3, 32}) CHECK(text(violations(llama(), with(tp, pp))).empty());
  CHECK(violations(llama(), with(0, -1, 0)).empty());
}

TEST_CASE("Heads that a tensor-parallel size does not divide are told with the nearest sizes") {
  // Two ranks each have the same key/value head.
  CHECK(text(violations(llama(), with(16))).empty());
  ModelInfo small = llama();
  small.heads = 9;
  small.kv_heads = 3;
  small.intermediate_size = 96;
  small.vocab_size = 300;
  CHECK(text(violations(small, with(2))) ==
        "tp_size | tp_size 2 does not divide the model's 9 attention heads: 9 = 2 * 4 + 1 | the nearest sizes that "
        "fit: 1 or 3\n"
        "tp_size | tp_size 2 does not divide the model's 3 key/value heads: 3 = 2 * 1 + 1 | the nearest sizes that "
        "fit: 1 or 3\n");
}

TEST_CASE("The vocabulary may be cut unevenly, but every rank has a part of it") {
  ModelInfo gpt2 = llama();
  gpt2.vocab_size = 50257;
  CHECK(violations(gpt2, with(2)).empty());
  CHECK(violations(gpt2, with(8)).empty());
  ModelInfo tiny = llama();
  tiny.heads = tiny.kv_heads = 64;
  tiny.vocab_size = 10;
  CHECK(violations(tiny, with(2)).empty());
  // Ten tokens on four ranks: 3, 3, 3, 1. On eight: 2, 2, 2, 2, 2 and nothing.
  CHECK(violations(tiny, with(4)).empty());
  CHECK(
      text(violations(tiny, with(8))) ==
      "tp_size | tp_size 8 leaves ranks without a part of the model's 10 tokens of the vocabulary | the nearest sizes "
      "that fit: 5 or 10; that fit all of the model: 4\n");
}

TEST_CASE("Every pipeline stage needs a layer") {
  CHECK(text(violations(llama(), with(1, 33))) ==
        "pp_size | pp_size 33 is more than the model's 32 layers: every stage needs one | the nearest size that fits: "
        "32\n");
  CHECK(violations(llama(), with(1, 32)).empty());
}

TEST_CASE("Experts are divided, and a dense model has none") {
  ModelInfo moe = llama();
  moe.experts = 8;
  CHECK(violations(moe, with(1, 1, 4)).empty());
  CHECK(text(violations(moe, with(1, 1, 3))) ==
        "ep_size | ep_size 3 does not divide the model's 8 experts: 8 = 3 * 2 + 2 | the nearest sizes that fit: 2 "
        "or 4\n");
  CHECK(text(violations(llama(), with(1, 1, 2))) ==
        "ep_size | ep_size is 2, but a llama model has no experts | write ep_size: 1\n");
}

TEST_CASE("All violations come at once, at the keys of the section") {
  const config::Node section = config::parse_yaml("{tp_size: 3, pp_size: 40, ep_size: 2}", "r.yaml");
  config::Report report;
  config::Problems problems(report, section, "distributed");
  check_capabilities(llama(), with(3, 40, 2), problems);
  REQUIRE(report.problems().size() == 4);
  CHECK(report.problems()[0].key == "distributed.tp_size");
  CHECK(report.problems()[0].origin.text() == "r.yaml:1:11");
  CHECK(report.problems()[2].key == "distributed.pp_size");
  CHECK(report.problems()[3].key == "distributed.ep_size");
}

TEST_CASE("The sizes in a hint fit, and none nearer does") {
  for (int64_t heads = 1; heads <= 48; ++heads)
    for (int64_t asked = 1; asked <= 60; ++asked) {
      ModelInfo info = llama();
      info.heads = info.kv_heads = heads;
      info.vocab_size = 1 << 20;
      const auto found = violations(info, with(asked));
      REQUIRE(found.empty() == (heads % asked == 0));
      if (found.empty()) continue;
      int64_t below = asked, above = asked;
      while (below >= 1 && heads % below != 0) --below;
      while (above <= heads && heads % above != 0) ++above;
      const std::string sizes = above <= heads ? fmt::format("{} or {}", below, above) : fmt::format("{}", below);
      CHECK(found[0].hint == "the nearest sizes that fit: " + sizes);
    }
}
