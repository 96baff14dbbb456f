// Which parallel sizes a model can be cut by, and what is said when it cannot.
#include "models/capabilities.h"

#include <doctest/doctest.h>

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
  CHECK(text(violations(llama(), with(16))) ==
        "tp_size | tp_size 16 does not divide the model's 8 key/value heads: 8 = 16 * 0 + 8 | the nearest sizes that "
        "divide 8: 8\n");
  ModelInfo small = llama();
  small.heads = 9;
  small.kv_heads = 3;
  small.intermediate_size = 96;
  small.vocab_size = 300;
  CHECK(text(violations(small, with(2))) ==
        "tp_size | tp_size 2 does not divide the model's 9 attention heads: 9 = 2 * 4 + 1 | the nearest sizes that "
        "divide 9: 1 or 3\n"
        "tp_size | tp_size 2 does not divide the model's 3 key/value heads: 3 = 2 * 1 + 1 | the nearest sizes that "
        "divide 3: 1 or 3\n");
}

TEST_CASE("The width of the MLP and the vocabulary count too") {
  ModelInfo odd = llama();
  odd.vocab_size = 50257;
  odd.intermediate_size = 11009;
  const auto found = violations(odd, with(2));
  REQUIRE(found.size() == 2);
  CHECK(found[0].message.find("11009 columns of the MLP") != std::string::npos);
  CHECK(found[1].message ==
        "tp_size 2 does not divide the model's 50257 tokens of the vocabulary (vocab_size): 50257 = "
        "2 * 25128 + 1");
  CHECK(found[1].hint == "the nearest sizes that divide 50257: 1 or 29; that fit all of the model: 1");
}

TEST_CASE("Every pipeline stage needs a layer") {
  CHECK(text(violations(llama(), with(1, 33))) ==
        "pp_size | pp_size 33 is more than the model's 32 layers: every stage needs one | the nearest size that fits: "
        "32\n");
  CHECK(text(violations(llama(), with(1, 20), 2)) ==
        "pp_size | pp_size 20 * 2 stages a rank = 40 stages is more than the model's 32 layers: every stage needs one "
        "| the nearest size that fits: 16\n");
  CHECK(violations(llama(), with(1, 16), 2).empty());
}

TEST_CASE("Experts are divided, and a dense model has none") {
  ModelInfo moe = llama();
  moe.experts = 8;
  CHECK(violations(moe, with(1, 1, 4)).empty());
  CHECK(text(violations(moe, with(1, 1, 3))) ==
        "ep_size | ep_size 3 does not divide the model's 8 experts: 8 = 3 * 2 + 2 | the nearest sizes that divide 8: 2 "
        "or 4\n");
  CHECK(text(violations(llama(), with(1, 1, 2))) ==
        "ep_size | ep_size is 2, but a llama model has no experts | write ep_size: 1\n");
}

TEST_CASE("All violations come at once, at the keys of the section") {
  const config::Node section = config::parse_yaml("{tp_size: 3, pp_size: 40, ep_size: 2}", "r.yaml");
  config::Report report;
  config::Problems problems(report, section, "distributed");
  check_capabilities(llama(), with(3, 40, 2), problems);
  REQUIRE(report.problems().size() == 5);
  CHECK(report.problems()[0].key == "distributed.tp_size");
  CHECK(report.problems()[0].origin.text() == "r.yaml:1:11");
  CHECK(report.problems()[3].key == "distributed.pp_size");
  CHECK(report.problems()[4].key == "distributed.ep_size");
}

TEST_CASE("The nearest divisors are found on both sides") {
  CHECK(nearest_divisors({32, 8}, 3) == std::vector<int64_t>{2, 4});
  CHECK(nearest_divisors({12}, 5) == std::vector<int64_t>{4, 6});
  CHECK(nearest_divisors({7}, 100) == std::vector<int64_t>{7});
  CHECK(nearest_divisors({9, 6}, 2) == std::vector<int64_t>{1, 3});
  for (int64_t n = 1; n <= 60; ++n)
    for (int64_t asked = 1; asked <= 70; ++asked) {
      const auto found = nearest_divisors({n}, asked);
      REQUIRE(!found.empty());
      for (int64_t d : found) CHECK(n % d == 0);
      for (int64_t d = 1; d <= n; ++d)
        if (n % d == 0) CHECK((d <= found.front() || d >= found.back()));
    }
}
